//! The one holder of a lab's namespaces.
//!
//! `unshare` makes a mount, a process and a network namespace (as another user than root: a user
//! namespace around them) and runs `cat`, process 1 of the lab, on a pipe whose other end this
//! process holds. When this process ends, however it ends, `cat` reads the end of the pipe and
//! exits; the kernel then kills every process of the lab, and the namespaces, which only the
//! private mount of `/run` and those processes held, go with them.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::LabError;
use crate::preflight::search_path;

const HOLD: &str = "mount --make-rprivate / && mount -t tmpfs tmpfs /run && \
    mkdir -p /run/netns /run/sshd && chmod 755 /run/sshd && echo ready && exec cat";

/// Where the machine names its proxies.
const PROXY_VARIABLES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// The holder; see the module.
#[derive(Debug)]
pub(crate) struct Sandbox {
    unshare: Child,
    anchor: i32,
    rootless: bool,
}

impl Sandbox {
    /// Makes the namespaces.
    pub(crate) fn new() -> Result<Self, LabError> {
        let rootless = !nix::unistd::geteuid().is_root();
        let mut command = Command::new("unshare");
        if rootless {
            command.args(["--user", "--map-root-user"]);
        }
        let mut unshare = command
            .args(["--mount", "--pid", "--net", "--fork", "--", "sh", "-c", HOLD])
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(LabError::io("running unshare"))?;
        let mut ready = String::new();
        if let Some(stdout) = unshare.stdout.as_mut() {
            BufReader::new(stdout)
                .read_line(&mut ready)
                .map_err(LabError::io("hearing unshare"))?;
        }
        if ready.trim() != "ready" {
            let output = unshare.wait_with_output().map_err(LabError::io("ending unshare"))?;
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::NoNamespaces { reason });
        }
        let anchor = child_of(unshare.id()).ok_or_else(|| LabError::NoNamespaces {
            reason: "the holder ended at once".to_owned(),
        })?;
        Ok(Self { unshare, anchor, rootless })
    }

    /// Whether the lab runs in a user namespace of its own.
    pub(crate) fn rootless(&self) -> bool {
        self.rootless
    }

    /// Process 1 of the lab, by its outer number.
    pub(crate) fn anchor(&self) -> i32 {
        self.anchor
    }

    /// A command that will run in the network namespace `host`, or in the holder's own, and with
    /// the files and among the processes of process `own`, or the holder's.
    pub(crate) fn command(&self, host: Option<&str>, own: Option<i32>) -> Command {
        let anchor = self.anchor;
        let (mount, pid) = match own {
            Some(first) => {
                (format!("--mount=/proc/{first}/ns/mnt"), format!("--pid=/proc/{first}/ns/pid"))
            }
            None => ("--mount".to_owned(), "--pid".to_owned()),
        };
        let mut command = Command::new("nsenter");
        command.args([format!("--target={anchor}"), mount, pid]);
        if self.rootless {
            command.args(["--user", "--preserve-credentials"]);
        }
        match host {
            // nsenter opens its files before it enters anything, hence the path through the anchor.
            Some(host) => command.arg(format!("--net=/proc/{anchor}/root/run/netns/{host}")),
            None => command.arg("--net"),
        };
        command.arg("--").env("PATH", search_path()).stdin(Stdio::null()).process_group(0);
        // The machine's own way out is none of the lab's.
        PROXY_VARIABLES
            .into_iter()
            .flat_map(|name| [name.to_owned(), name.to_lowercase()])
            .for_each(|name| {
                command.env_remove(name);
            });
        command
    }

    /// Runs a shell script in the holder's own namespace; it stops at the first error.
    pub(crate) fn script(&self, script: &str) -> Result<(), LabError> {
        let output = self
            .command(None, None)
            .args(["sh", "-e", "-c", script])
            .output()
            .map_err(LabError::io("running the set-up script"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(LabError::Command {
            command: script.to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.unshare.stdin.take());
        // The wait ends when process 1 has ended, hence every process of the lab.
        if let Err(error) = self.unshare.wait() {
            eprintln!("lab: cannot wait for the holder: {error}");
        }
    }
}

/// The only child of process `parent`, once it is there: `unshare` and `nsenter` fork once to enter
/// a process namespace.
pub(crate) fn child_of(parent: impl fmt::Display) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
