//! The sockets of datagram paths: one for each pump, at one port.

use std::io;

use adit::exit::{Exit, Failed};
use adit::handoff::{Command, PathSocket};
use adit::net;

use super::Daemon;

impl Daemon {
    /// Lets sessions have datagram paths, at the UDP port of the first address.
    pub(super) fn offer_paths(&mut self) -> Result<(), Failed> {
        let Some(&address) = self.config.listen.first().filter(|_| self.config.datagram_path)
        else {
            return Ok(());
        };
        // Alone first: a relay that is still ending shares its port with nobody's successor.
        let alone = net::bind_datagrams(address, false, false).map(drop);
        let sockets: io::Result<Vec<_>> = alone.and_then(|()| {
            self.pumps.iter().map(|_| net::bind_datagrams(address, false, true)).collect()
        });
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::warn!(
                    "no datagram path: UDP port {} cannot be had: {error}; datagrams ride the \
                     carriers",
                    address.port()
                );
                return Ok(());
            }
        };
        tracing::info!(%address, "datagram paths");
        self.path_port = Some(address.port());
        self.path_sockets = sockets;
        self.hand_out_paths()
    }

    /// Gives each pump its socket.
    pub(super) fn hand_out_paths(&self) -> Result<(), Failed> {
        let count = u32::try_from(self.path_sockets.len()).unwrap_or(1);
        for ((index, socket), pump) in (0..).zip(&self.path_sockets).zip(0..) {
            let socket = socket.try_clone().map_err(|error| Failed::new(Exit::Failure, error))?;
            self.tell(pump, Command::OfferPaths(PathSocket { socket, pump: (index, count) }))?;
        }
        Ok(())
    }
}
