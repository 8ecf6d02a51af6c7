//! What the forwarder tells the service manager that has started it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "service/manager.rs"]
mod manager;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use adit::key::PrivateKey;
use manager::{Managed, WATCHDOG};
use nix::sys::signal::Signal;

fn adit(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.current_dir(dir).args(args).env_remove("ADIT_LOG");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    adit(dir, args).output().unwrap()
}

/// A forwarder whose relay is out of reach.
fn start(dir: &Path) -> Managed {
    configure(dir);
    Managed::start(adit(dir, &["run", "-c", "adit.toml"]), dir)
}

fn configure(dir: &Path) {
    let key = PrivateKey::generate().unwrap();
    key.save(&dir.join("adit.key")).unwrap();
    let config = format!(
        "key = \"adit.key\"\nrelay = \"127.0.0.1:9\"\nrelay_key = \"{}\"\nsocket = \"adit.sock\"\n",
        key.public()
    );
    std::fs::write(dir.join("adit.toml"), config).unwrap();
}

/// It is ready when its configuration is in force, whether or not there is a way to the relay; it says
/// so again after a reload, by signal and by command, and when it ends.
#[test]
fn a_service_manager_is_told_how_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut managed = start(dir.path());
    assert_eq!(managed.wait_for("READY"), "READY=1\n");
    assert!(run(dir.path(), &["peers", "-c", "adit.toml"]).status.success());
    assert!(managed.wait_for("STATUS=no tunnel").contains("127.0.0.1:9"));
    managed.signal(Signal::SIGHUP);
    let word = managed.wait_for("RELOADING=1");
    assert!(word.contains("MONOTONIC_USEC="), "{word}");
    managed.wait_for("READY=1");
    assert!(run(dir.path(), &["reload", "-c", "adit.toml"]).status.success());
    managed.wait_for("RELOADING=1");
    managed.wait_for("READY=1");
    managed.signal(Signal::SIGTERM);
    managed.wait_for("STOPPING=1");
    assert_eq!(managed.wait(), Some(0));
}

/// The control: with a file that is wrong, nobody is told that it serves.
#[test]
fn a_service_that_does_not_start_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adit.toml"), "kee = 1\n").unwrap();
    let mut managed = Managed::start(adit(dir.path(), &["run", "-c", "adit.toml"]), dir.path());
    assert_eq!(managed.wait(), Some(78));
    assert!(!managed.hears("READY", WATCHDOG));
}

/// A pump that is stuck starves the watchdog, though the rest of the daemon answers; once it goes on,
/// the watchdog is fed again.
#[test]
fn a_stuck_pump_starves_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let managed = start(dir.path());
    for _ in 0..3 {
        managed.wait_for("WATCHDOG=1");
    }
    let stopped = managed.stop_pump();
    managed.hears("WATCHDOG=1", WATCHDOG); // One may be on its way.
    assert!(!managed.hears("WATCHDOG=1", 3 * WATCHDOG));
    let answered = run(dir.path(), &["peers", "-c", "adit.toml"]);
    assert!(answered.status.success(), "the control: the loop itself turns: {answered:?}");
    assert!(!managed.hears("WATCHDOG=1", WATCHDOG));
    drop(stopped);
    managed.wait_for("WATCHDOG=1");
}

/// A daemon that has no descriptor left still feeds its watchdog: what runs is not killed for it.
#[test]
fn a_daemon_without_descriptors_feeds_its_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let managed = start(dir.path());
    managed.wait_for("WATCHDOG=1");
    let (pid, max) = (managed.pid().to_string(), 4);
    let limit = format!("--nofile={max}:{max}");
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
    assert!(limited.success());
    let is_taken = |number: i32| Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    assert!((0..max).all(is_taken), "the control: no descriptor is left");
    while managed.hears("", Duration::from_millis(1)) {} // What was said before.
    for _ in 0..3 {
        managed.wait_for("WATCHDOG=1");
    }
}

/// Who takes over says that it is the main process now, and is ready; it feeds the watchdog from then on,
/// and its signals are heeded.
#[test]
fn a_process_that_takes_over_is_the_main_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut managed = start(dir.path());
    assert_eq!(
        managed.wait_for("READY"),
        "READY=1\n",
        "the control: it was started as the main one"
    );
    managed.upgrade(adit(dir.path(), &["upgrade", "-c", "adit.toml"]));
    for _ in 0..3 {
        managed.wait_for("WATCHDOG=1");
    }
    assert!(run(dir.path(), &["peers", "-c", "adit.toml"]).status.success());
    managed.signal(Signal::SIGHUP);
    managed.wait_for("RELOADING=1");
    managed.signal(Signal::SIGTERM);
    managed.wait_for("STOPPING=1");
}

/// Where a package has put another file in the program's place, that one takes over.
#[test]
fn a_new_file_of_the_program_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let program = dir.path().canonicalize().unwrap().join("adit");
    let newer = dir.path().join("adit.new");
    for copy in [&program, &newer] {
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_adit")).arg(copy).status();
        assert!(copied.unwrap().success());
    }
    let mut command = Command::new(&program);
    command.args(["run", "-c", "adit.toml"]).env_remove("ADIT_LOG");
    let mut managed = Managed::start(command, dir.path());
    managed.wait_for("READY=1");
    std::fs::rename(&newer, &program).unwrap();
    let heir = managed.upgrade(adit(dir.path(), &["upgrade", "-c", "adit.toml"]));
    assert_eq!(std::fs::read_link(format!("/proc/{heir}/exe")).unwrap(), program);
    managed.signal(Signal::SIGTERM);
    managed.wait_for("STOPPING=1");
}

/// The first process of a container takes all others with it, so nobody takes over from it; it goes on.
#[test]
fn a_first_process_is_not_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let mut first = Command::new("unshare");
    first.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
    first.arg(env!("CARGO_BIN_EXE_adit")).args(["run", "-c", "adit.toml"]).env_remove("ADIT_LOG");
    let managed = Managed::start(first, dir.path());
    managed.wait_for("READY=1");
    let output = run(dir.path(), &["upgrade", "-c", "adit.toml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("replace the container"), "{said}");
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("no upgrade: this is the first process"), "{log}");
    assert!(run(dir.path(), &["peers", "-c", "adit.toml"]).status.success());
}

/// What another version passes on in a form that this one does not know is refused, and it is said why.
#[test]
fn another_form_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let (near, far) = adit_ring::passage().unwrap();
    let mut heir = adit(dir.path(), &["run", "-c", "adit.toml", "--takeover"]);
    let heir = heir.stdin(Stdio::from(far)).stderr(Stdio::piped()).spawn().unwrap();
    // HELLO, a form that there is not, one pump.
    let none: [std::fs::File; 0] = [];
    adit_ring::pass(&near, &[0, 127, 1], &none).unwrap();
    let (refusal, _) = adit_ring::receive_passed(&near).unwrap().unwrap();
    assert!(String::from_utf8_lossy(&refusal).contains("restart the daemon instead"));
    drop(near);
    let output = heir.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("in form 127"), "{said}");
}

/// The file's log level is followed by a reload, there and back.
#[test]
fn a_reload_changes_the_log_level() {
    let dir = tempfile::tempdir().unwrap();
    let managed = start(dir.path());
    managed.wait_for("READY=1");
    let (config, log) = (dir.path().join("adit.toml"), dir.path().join("log"));
    let usual = std::fs::read_to_string(&config).unwrap();
    let set = |level: &str| {
        std::fs::write(&config, format!("log_level = \"{level}\"\n{usual}")).unwrap();
        let output = run(dir.path(), &["reload", "-c", "adit.toml"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let count = |words: &str| std::fs::read_to_string(&log).unwrap().matches(words).count();
    let wait_for = |words: &str, times| {
        let until = std::time::Instant::now() + manager::DEADLINE;
        while count(words) < times {
            assert!(std::time::Instant::now() < until, "not logged so often: {words}");
            std::thread::sleep(WATCHDOG / 10);
        }
    };
    assert_eq!(count("DEBUG"), 0);
    assert!(set("debug").contains("in force: log_level"));
    wait_for("DEBUG", 1);
    set("error");
    assert_eq!(count("reloaded: in force: log_level"), 1, "the last one is hidden by its level");
    std::fs::write(&config, &usual).unwrap();
    managed.signal(Signal::SIGHUP);
    wait_for("reloaded: in force: log_level", 2);
}

/// A file that is wrong ends `reload` with 1 and the reason, whether the daemon finds it or the command
/// does.
#[test]
fn a_bad_file_is_refused_by_reload() {
    let dir = tempfile::tempdir().unwrap();
    let managed = start(dir.path());
    managed.wait_for("READY=1");
    std::fs::write(dir.path().join("adit.toml"), "kee = 1\n").unwrap();
    for place in [["-c", "adit.toml"], ["-s", "adit.sock"]] {
        let output = run(dir.path(), &[&["reload"], &place[..]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let expected = "adit: nothing is changed: adit.toml:1: unknown key \"kee\"";
        assert!(said.starts_with(expected), "{said}");
    }
}
