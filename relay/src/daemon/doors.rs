//! Where forwarders come in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit::exit::{Exit, Failed};
use adit::net::{self, Listener};
use adit::tls::ServerTls;

use super::Daemon;
use crate::reception::Reception;

/// How long the port of a killed relay may take to become free, and how often that is tried.
const PORT_FREE_MAX: Duration = Duration::from_secs(3);
const PORT_FREE_STEP: Duration = Duration::from_millis(20);

/// Binds; a port that is taken may be that of a relay that was just killed, whose sockets the kernel
/// closes a moment after its end. Nothing else runs yet that would have to wait.
fn bind(address: SocketAddr, is_only_v6: bool) -> io::Result<Listener> {
    let until = Instant::now() + PORT_FREE_MAX;
    loop {
        match Listener::bind_kept(address, is_only_v6) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(PORT_FREE_STEP);
            }
            bound => return bound,
        }
    }
}

impl Daemon {
    /// Opens the doors.
    pub(super) fn listen(&mut self, tls: ServerTls) -> Result<(), Failed> {
        let inbox = self.inbox.clone();
        let (door, refusals) = (Rc::clone(&self.door), Rc::clone(&self.refusals));
        let probes = Rc::clone(&self.probes);
        let reception = Rc::new(Reception { tls, door, probes, refusals, inbox });
        for &address in &self.config.listen {
            // [::] takes IPv4 too, unless the list has 0.0.0.0 with the same port for that.
            let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            let is_only_v6 = self.config.listen.contains(&any_v4);
            let cannot =
                |error| Failed::new(Exit::Failure, format!("cannot listen on {address}: {error}"));
            let listener = bind(address, is_only_v6).map_err(cannot)?;
            self.listeners.push(listener.handle().map_err(cannot)?);
            net::spawn(Rc::clone(&reception).accept_all(listener));
            tracing::info!(%address, "listening");
        }
        Ok(())
    }
}
