//! A daemon's process is replaced while it runs.

use std::ffi::OsStr;

use super::{Daemon, Tunnel};
use crate::{LabError, Output};

impl Tunnel<'_> {
    /// Lets a new process take over from a daemon, by the command that an operator has for it; `more`
    /// are its other arguments. From then on the daemon is no process of ours: it ends with the lab.
    ///
    /// # Errors
    /// When the command cannot be started; a bad end is in the output.
    pub fn upgrade(&self, daemon: Daemon, more: &[&OsStr]) -> Result<Output, LabError> {
        self.command(daemon, "upgrade", more)
    }

    /// Runs a command of a daemon's program for that daemon; `more` are its other arguments.
    ///
    /// # Errors
    /// When the command cannot be started; a bad end is in the output.
    pub fn command(&self, daemon: Daemon, name: &str, more: &[&OsStr]) -> Result<Output, LabError> {
        let (host, binary, file) = match daemon {
            Daemon::Forwarder => (&self.forwarder_host, &self.binaries.adit, "adit.toml"),
            Daemon::Relay => (&self.relay_host, &self.binaries.relay, "relay.toml"),
        };
        let file = self.path(file);
        let begin = [binary.as_os_str(), name.as_ref(), "--config".as_ref(), file.as_os_str()];
        host.run(begin.into_iter().chain(more.iter().copied()))
    }
}
