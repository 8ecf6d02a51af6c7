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
        let (host, binary, socket) = match daemon {
            Daemon::Forwarder => (&self.forwarder_host, &self.binaries.adit, "adit.sock"),
            Daemon::Relay => (&self.relay_host, &self.binaries.relay, "relay.sock"),
        };
        let socket = self.path(socket);
        let begin = [binary.as_os_str(), "upgrade".as_ref(), "--socket".as_ref()];
        let arguments = begin.into_iter().chain([socket.as_os_str()]).chain(more.iter().copied());
        host.run(arguments)
    }
}
