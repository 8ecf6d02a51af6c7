//! A relay on loopback, in a folder of its own.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Relay {
    pub(crate) dir: TempDir,
    child: Option<Child>,
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "not in {DEADLINE:?}");
        thread::sleep(PAUSE);
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Relay {
    /// Starts one that lets `admitted` in.
    pub(crate) fn start(admitted: &str) -> Self {
        let address = free_address();
        Self::start_at(address, &format!("address = \"{address}\"\n"), admitted)
    }

    /// Starts one that does not know where it is reached.
    pub(crate) fn start_without_address() -> Self {
        Self::start_at(free_address(), "", "")
    }

    fn start_at(listen: SocketAddr, address: &str, admitted: &str) -> Self {
        let mut relay = Self { dir: tempfile::tempdir().unwrap(), child: None };
        relay.program(&["keygen"]);
        let config = format!(
            "key = \"relay.key\"\nlisten = \"{listen}\"\n{address}contact_address = \"127.0.0.1\"\n\
             socket = \"relay.sock\"\nstate = \"state\"\n{admitted}"
        );
        std::fs::write(relay.dir.path().join("relay.toml"), config).unwrap();
        relay.run();
        relay
    }

    /// Runs it, until it answers.
    pub(crate) fn run(&mut self) {
        let mut command = self.adit_relay(&["run", "-c", "relay.toml"]);
        self.child = Some(command.spawn().unwrap());
        eventually(|| self.output(&["status", "-s", "relay.sock"]).status.success());
    }

    /// Has it read its file again, with `line` at the top.
    pub(crate) fn reload_with(&self, line: &str) {
        self.reload(|text| format!("{line}\n{text}"));
    }

    /// Has it read its file again, changed.
    pub(crate) fn reload(&self, change: impl Fn(&str) -> String) {
        let file = self.dir.path().join("relay.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(&text)).unwrap();
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn adit_relay(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit-relay"));
        command.current_dir(self.dir.path()).args(args).env_remove("ADIT_LOG");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.adit_relay(args).output().unwrap()
    }

    /// What the program prints on stdout, once it has succeeded.
    #[track_caller]
    pub(crate) fn program(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, asking the daemon.
    #[track_caller]
    pub(crate) fn command(&self, args: &[&str]) -> String {
        self.program(&[args, &["-s", "relay.sock"]].concat())
    }

    /// What it prints on stderr, once it has failed; nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.output(&[args, &["-s", "relay.sock"]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The one line on stdout.
    #[track_caller]
    pub(crate) fn invite(&self, args: &[&str]) -> String {
        let printed = self.command(&[&["invite"], args].concat());
        assert_eq!(printed.lines().count(), 1, "{printed}");
        printed
    }

    pub(crate) fn everybody(&self) -> Value {
        serde_json::from_str(&self.command(&["forwarders", "--json"])).unwrap()
    }

    pub(crate) fn is_connected(&self, name: &str) -> bool {
        let everybody = self.everybody();
        let mut admitted = everybody["admitted"].as_array().unwrap().iter();
        admitted.any(|known| known["name"] == name && known["is_connected"] == true)
    }

    /// How many were refused for this cause.
    pub(crate) fn refused(&self, cause: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.command(&["status", "--json"])).unwrap();
        status["refused"][cause].as_u64().unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}
