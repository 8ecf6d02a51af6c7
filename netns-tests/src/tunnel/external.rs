//! External peers with keys of their own, and the command lines of both programs.

use std::fmt::Write as _;

use super::{Daemon, Tunnel};
use crate::{Host, LabError, Output, Process};

/// An external peer of the relay's configuration, or another forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    table: &'static str,
    name: String,
    lines: String,
}

impl External {
    pub(super) fn new(table: &'static str, name: &str, lines: &str) -> Self {
        Self { table, name: name.to_owned(), lines: lines.to_owned() }
    }

    pub(super) fn key_file(&self) -> String {
        format!("{}.key", self.name)
    }
}

impl Tunnel<'_> {
    /// The external peers' entries in the relay's configuration.
    pub(super) fn external_entries(&self) -> String {
        let mut entries = String::new();
        for (External { table, name, lines }, key) in
            self.plan.externals.iter().zip(&self.external_keys)
        {
            // Writing to a String cannot fail.
            let written =
                writeln!(entries, "[[{table}]]\nname = \"{name}\"\nkey = \"{key}\"\n{lines}");
            debug_assert!(written.is_ok());
        }
        entries
    }

    /// The command line of `adit connect` as the external peer `name`, without what it is to do.
    #[must_use]
    pub fn connect_command(&self, name: &str) -> Vec<String> {
        let adit = self.binaries.adit.display().to_string();
        let key = self.path(&format!("{name}.key")).display().to_string();
        let mut command = vec![adit, "connect".to_owned(), self.tunnel_address()];
        command.extend(["--key".to_owned(), key, "--relay-key".to_owned(), self.relay_key.clone()]);
        command
    }

    /// Starts `adit connect` on `host` as the external peer `name`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn connect(
        &self,
        host: &Host<'_>,
        name: &str,
        to_do: &[&str],
    ) -> Result<Process, LabError> {
        let mut command = self.connect_command(name);
        command.extend(to_do.iter().map(|&word| word.to_owned()));
        host.spawn(command)
    }

    /// Starts the other forwarder `name` on `host`, with these lines in its configuration; returns it
    /// and its socket.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_rival_of(
        &self,
        host: &Host<'_>,
        name: &str,
        lines: &str,
    ) -> Result<(Process, String), LabError> {
        let (file, socket) = (self.path(&format!("{name}.toml")), format!("{name}.sock"));
        let (at, relay_key) = (self.tunnel_address(), &self.relay_key);
        let text = format!(
            "key = \"{name}.key\"\nrelay = \"{at}\"\nrelay_key = \"{relay_key}\"\n\
             socket = \"{socket}\"\n{lines}\n"
        );
        super::write(&file, &text)?;
        let (adit, file) = (self.binaries.adit.as_os_str(), file.as_os_str());
        let process = host.spawn([adit, "run".as_ref(), "-c".as_ref(), file])?;
        Ok((process, self.path(&socket).display().to_string()))
    }

    /// Runs `adit` or `adit-relay` beside its daemon, which it asks over its socket.
    ///
    /// # Errors
    /// When it cannot be started; a bad end is in the output.
    pub fn ask(&self, daemon: Daemon, words: &[&str]) -> Result<Output, LabError> {
        let (host, command) = self.beside(daemon, words);
        host.run(command)
    }

    /// The same for one that goes on until it is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask_on(&self, daemon: Daemon, words: &[&str]) -> Result<Process, LabError> {
        let (host, command) = self.beside(daemon, words);
        host.spawn(command)
    }

    fn beside(&self, daemon: Daemon, words: &[&str]) -> (&Host<'_>, Vec<String>) {
        let (host, program, socket) = match daemon {
            Daemon::Forwarder => (&self.forwarder_host, &self.binaries.adit, "adit.sock"),
            Daemon::Relay => (&self.relay_host, &self.binaries.relay, "relay.sock"),
        };
        let socket = self.path(socket).display().to_string();
        let mut command = vec![program.display().to_string()];
        command.extend(words.iter().map(|&word| word.to_owned()));
        command.extend(["--socket".to_owned(), socket]);
        (host, command)
    }
}
