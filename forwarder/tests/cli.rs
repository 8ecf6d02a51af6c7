//! The program `adit` from outside: exit codes, and what goes to which stream.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use adit::exit::Exit;

fn adit(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.current_dir(dir).args(args).env_remove("ADIT_LOG").output().unwrap()
}

#[track_caller]
fn ends(output: &Output, exit: Exit, stderr: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit as i32), "{said}");
    assert!(said.contains(stderr), "{said}\nexpected: {stderr}");
}

fn configured(dir: &Path) {
    let output = adit(dir, &["keygen", "--out", "adit.key"]);
    let key = String::from_utf8(output.stdout).unwrap();
    let config = format!(
        "key = \"adit.key\"\nrelay = \"127.0.0.1:9\"\nrelay_key = \"{}\"\nsocket = \"adit.sock\"\n",
        key.trim()
    );
    std::fs::write(dir.join("adit.toml"), config).unwrap();
}

/// A wrong command line is told apart from everything else.
#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    ends(&adit(dir.path(), &["tunnel"]), Exit::Usage, "unrecognized subcommand");
    ends(&adit(dir.path(), &[]), Exit::Usage, "Usage:");
    configured(dir.path());
    let output = adit(dir.path(), &["run", "-c", "adit.toml", "--log-level", "a=b=c"]);
    ends(&output, Exit::Usage, "--log-level");
}

/// A wrong configuration has its own code, and is named with its line.
#[test]
fn a_wrong_configuration_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["check", "run"] {
        let output = adit(dir.path(), &[command, "-c", "none.toml"]);
        ends(&output, Exit::Config, "none.toml: cannot be read");
    }
    std::fs::write(dir.path().join("adit.toml"), "kee = 1\n").unwrap();
    for command in ["check", "run", "peers", "status"] {
        let output = adit(dir.path(), &[command, "-c", "adit.toml"]);
        ends(&output, Exit::Config, "adit.toml:1: unknown key \"kee\": did you mean \"key\"?");
    }
}

/// Neither a missing key nor one that others can read is ever used.
#[test]
fn a_key_that_cannot_be_trusted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    configured(dir.path());
    let key = dir.path().join("adit.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["check", "run"] {
        ends(&adit(dir.path(), &[command, "-c", "adit.toml"]), Exit::KeyPermissions, "chmod 600");
    }
    std::fs::remove_file(key).unwrap();
    ends(&adit(dir.path(), &["check", "-c", "adit.toml"]), Exit::Config, "adit.key");
}

/// Without a daemon there is nothing to show.
#[test]
fn a_daemon_that_does_not_run_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let register = &["register", "web", "tcp", "192.168.50.3:80"];
    for args in
        [&["peers"][..], &["status"], &["status", "--json"], register, &["unregister", "web"]]
    {
        let output = adit(dir.path(), &[args, &["--socket", "adit.sock"]].concat());
        ends(&output, Exit::Unreachable, "no daemon answers on adit.sock");
        ends(&output, Exit::Unreachable, "name the old one (--socket)");
        assert!(output.stdout.is_empty());
    }
}

/// The public key alone is on stdout, so that a script can take it; a key is never overwritten.
#[test]
fn keygen_prints_the_public_key_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let output = adit(dir.path(), &["keygen"]);
    ends(&output, Exit::Success, "private key: adit.key");
    let printed = String::from_utf8(output.stdout).unwrap();
    let loaded = adit::key::PrivateKey::load(&dir.path().join("adit.key")).unwrap().public();
    assert_eq!(printed, format!("{loaded}\n"));
    let again = adit(dir.path(), &["keygen"]);
    ends(&again, Exit::Failure, "adit.key exists already");
    assert!(again.stdout.is_empty());
}

/// A line that is none is a wrong command line, whether it is an argument or comes on stdin.
#[test]
fn joining_with_a_damaged_line_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    ends(&adit(dir.path(), &["join", "adit1:AAAA", "--dir", "new"]), Exit::Usage, "is damaged");
    ends(&adit(dir.path(), &["join", "-", "--dir", "new"]), Exit::Usage, "no invitation");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

/// `check` says line by line what is right.
#[test]
fn check_says_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    configured(dir.path());
    let output = adit(dir.path(), &["check", "-c", "adit.toml"]);
    ends(&output, Exit::Success, "");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("OK  configuration"), "{said}");
    assert!(lines[1].starts_with("OK  key") && lines[1].contains("ed25519:"), "{said}");
    assert!(lines[2].starts_with("OK  io_uring"), "{said}");
}

/// Help names every exit code, for whoever scripts against them.
#[test]
fn help_explains_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let output = adit(dir.path(), &["--help"]);
    let said = String::from_utf8(output.stdout).unwrap();
    for code in ["   2  ", "  69  ", "  71  ", "  77  ", "  78  "] {
        assert!(said.contains(code), "{said}");
    }
}

/// What `token` prints for the configuration is read there, and knows the token by its hash alone.
#[test]
fn a_token_goes_into_the_configuration_by_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    configured(dir.path());
    let output = adit(dir.path(), &["token", "printer", "--contacts", "8000-8010,private"]);
    ends(&output, Exit::Success, "");
    let said = String::from_utf8(output.stdout).unwrap();
    let token = said.lines().find(|line| line.starts_with("adit-")).unwrap();
    let (_, lines) = said.split_once("[[token]]").unwrap();
    assert!(!lines.contains(token));
    let file = dir.path().join("adit.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}[[token]]{lines}")).unwrap();
    let known = adit::config::ForwarderConfig::load(&file).unwrap().tokens;
    assert_eq!((known[0].peer.as_str(), known[0].sha256), ("printer", adit::api::hash(token)));
    let again = adit(dir.path(), &["token", "printer"]).stdout;
    assert!(!String::from_utf8(again).unwrap().contains(token), "each is another one");
    ends(&adit(dir.path(), &["token", "a b"]), Exit::Usage, "is no name");
    ends(&adit(dir.path(), &["token", "a", "--contacts", "x"]), Exit::Usage, "--contacts");
}
