//! One host of a lab, and what runs on it.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Addresses, Lab};
use crate::{LabError, Output, Process};

/// A host, a gateway or a bridge of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    lab: &'a Lab,
    name: &'a str,
    addresses: &'a Addresses,
}

impl<'a> Host<'a> {
    pub(super) fn new(lab: &'a Lab, name: &'a str, addresses: &'a Addresses) -> Self {
        Self { lab, name, addresses }
    }

    /// The host's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The host's address (of a gateway: its address outside): of IPv4, and where it has none, of
    /// IPv6. A bridge has none.
    #[must_use]
    pub fn address(&self) -> &'a str {
        let Addresses { v4, v6 } = self.addresses;
        v4.as_deref().or(v6.as_deref()).unwrap_or_default()
    }

    /// The host's address of IPv6, if it has one.
    #[must_use]
    pub fn address6(&self) -> Option<&'a str> {
        self.addresses.v6.as_deref()
    }

    /// Whether the host has an address of IPv4.
    #[must_use]
    pub fn has_v4(&self) -> bool {
        self.addresses.v4.is_some()
    }

    /// A port of [`Host::address`], as in `192.168.50.2:80` or `[fd00:1::2]:80`.
    #[must_use]
    pub fn at(&self, port: u16) -> String {
        socket_address(self.address(), port)
    }

    /// The lab that the host is in.
    #[must_use]
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// A command prepared to run on this host; for those who want the pipes themselves.
    pub fn command<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.lab.sandbox().command(Some(self.name), self.lab.own_of(self.name));
        command.args(arguments).current_dir(self.lab.path());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started; a bad end is in the output.
    pub fn run<I, S>(&self, arguments: I) -> Result<Output, LabError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output = self.command(arguments).output();
        Ok(output.map_err(LabError::io(format!("running a command on {}", self.name)))?.into())
    }

    /// Runs a command that must end well.
    ///
    /// # Errors
    /// When it cannot be started or ends badly.
    pub fn run_ok<I, S>(&self, arguments: I) -> Result<Output, LabError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let arguments: Vec<OsString> =
            arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let output = self.run(&arguments)?;
        if output.success() {
            return Ok(output);
        }
        Err(LabError::Command {
            command: format!("{}: {}", self.name, said(&arguments)),
            status: output.status.to_string(),
            output: format!("{}{}", output.stdout, output.stderr),
        })
    }

    /// Runs a shell script that must end well.
    ///
    /// # Errors
    /// When it cannot be started or ends badly.
    pub fn shell(&self, script: &str) -> Result<Output, LabError> {
        self.run_ok(["sh", "-e", "-c", script])
    }

    /// Starts a process; its output goes to a log in the lab's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<I, S>(&self, arguments: I) -> Result<Process, LabError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.start(arguments, Stdio::null())
    }

    /// Starts a process that reads what [`Process::say`] tells it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_console<I, S>(&self, arguments: I) -> Result<Process, LabError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.start(arguments, Stdio::piped())
    }

    /// Starts the `lab-peer` server `role` at this host's `port`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn serve(&self, role: &str, port: u16, more: &[&str]) -> Result<Process, LabError> {
        let at = self.at(port);
        let mut process = self.spawn(peer_arguments(role, &at, more)?)?;
        process.wait_for_log("listening", crate::SHORT)?;
        Ok(process)
    }

    /// Runs the `lab-peer` client `role` against `to`; returns what it printed, at its good end.
    ///
    /// # Errors
    /// When it fails: its claim does not hold.
    pub fn play(&self, role: &str, to: &str, more: &[&str]) -> Result<String, LabError> {
        Ok(self.run_ok(peer_arguments(role, to, more)?)?.stdout)
    }

    /// Starts the `lab-peer` client `role`, which goes on until it is finished.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn play_on(&self, role: &str, to: &str, more: &[&str]) -> Result<Process, LabError> {
        self.spawn_console(peer_arguments(role, to, more)?)
    }

    /// Sends what lies in `network` (such as `192.168.50.0/24`) to the neighbour `via`.
    ///
    /// # Errors
    /// When there is no such neighbour.
    pub fn route(&self, network: &str, via: &str) -> Result<(), LabError> {
        self.run_ok(["ip", "route", "replace", network, "via", via]).map(|_| ())
    }

    /// Records what passes `device` (on a gateway, `wan0` is the outside) to `HOST-DEVICE.pcap` in the
    /// lab's folder, until the process is dropped.
    ///
    /// # Errors
    /// When `tcpdump` does not start.
    pub fn capture(&self, device: &str) -> Result<Process, LabError> {
        self.record(device, &[])
    }

    /// The same for a whole test: a ring of four files of 10 MB, `HOST-DEVICE.pcap0` and so on.
    pub(super) fn capture_ring(&self, device: &str) -> Result<Process, LabError> {
        // Each packet at once: nothing waits in the kernel when the lab ends.
        self.record(device, &["--immediate-mode", "-C", "10", "-W", "4"])
    }

    fn record(&self, device: &str, more: &[&str]) -> Result<Process, LabError> {
        let file = self.lab.path().join(format!("{}-{device}.pcap", self.name));
        let mut arguments: Vec<OsString> = ["tcpdump", "-n", "-U", "-Z", "root", "-s", "256"]
            .iter()
            .chain(more)
            .map(OsString::from)
            .collect();
        arguments.extend(["-i".into(), device.into(), "-w".into(), file.into()]);
        let mut process = self.spawn(arguments)?;
        process.wait_for_log("listening on", crate::SHORT)?;
        Ok(process)
    }

    fn start<I, S>(&self, arguments: I, stdin: Stdio) -> Result<Process, LabError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let arguments: Vec<OsString> =
            arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let program = arguments.first().map(Path::new).and_then(Path::file_name);
        let name = format!(
            "{}-{}",
            self.name,
            program.map_or_else(|| "nothing".into(), |name| name.to_string_lossy())
        );
        let log = self.lab.log_path(&name);
        Process::start(name, self.command(&arguments), log, stdin)
    }
}

/// A port of an address, as in `192.168.50.2:80` or `[fd00:1::2]:80`.
pub(crate) fn socket_address(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn peer_arguments(role: &str, address: &str, more: &[&str]) -> Result<Vec<OsString>, LabError> {
    let mut arguments = vec![crate::helper("lab-peer")?.into_os_string()];
    arguments.extend([role, address].iter().chain(more).map(OsString::from));
    Ok(arguments)
}

/// A command as one would type it, for errors.
fn said(arguments: &[OsString]) -> String {
    arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
