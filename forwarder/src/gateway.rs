//! The gateway interface: dials the relay through the gateway, authenticates both ends, and says
//! how long to wait before the next attempt. The tunnel itself then lives on a pump.

mod candidates;
mod error;
mod race;
mod redial;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Places;
use crate::handoff::Carrier;
use crate::key::{Pins, PrivateKey};
use crate::net::{self, Stream};
use crate::tls::{ClientTls, Handshake, HandshakeError};
use candidates::Candidate;
use race::{Dialler, Memory, Race};

pub use error::{DialError, Failure};
pub use redial::{Ended, Redial};

/// How long one of the relay's addresses may take to answer. The kernel repeats its `SYN` after 1 s
/// and 3 s; were it left to wait longer, a path that comes back would stay unused for as long.
const CONNECT_MAX: Duration = Duration::from_secs(4);

/// How to reach the relay, and who we are to it.
#[derive(Clone, Debug)]
pub struct Gateway {
    relay: Places,
    tls: ClientTls,
    memory: RefCell<Memory>,
}

impl Gateway {
    /// Dials `relay` at any of its places, where it must have a key of `relay_keys`, as the owner
    /// of `key`.
    ///
    /// # Errors
    /// When TLS cannot be set up with the key.
    pub fn new(
        relay: Places,
        key: &PrivateKey,
        relay_keys: impl Into<Pins>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self::with_tls(relay, ClientTls::new(key, relay_keys)?))
    }

    /// The same for the one request of somebody who has an invitation and is not admitted yet.
    ///
    /// # Errors
    /// When TLS cannot be set up with the key.
    pub fn joining(
        relay: Places,
        key: &PrivateKey,
        relay_keys: impl Into<Pins>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self::with_tls(relay, ClientTls::joining(key, relay_keys)?))
    }

    fn with_tls(relay: Places, tls: ClientTls) -> Self {
        Self { relay, tls, memory: RefCell::default() }
    }

    /// One attempt: every name is resolved anew, since the relay may have moved, and all addresses
    /// race. It takes 15 s at most, and closes all that it opened when it is dropped.
    ///
    /// # Errors
    /// When no address leads to the relay.
    pub async fn dial(&self) -> Result<Carrier, DialError> {
        let memory = self.memory.borrow().clone();
        let mut race = Race::new(self, self.relay.len(), memory);
        let carrier = race.run().await;
        let (failures, failed) = race.into_failures();
        self.memory.borrow_mut().failed = failed;
        for failure in &failures {
            tracing::debug!("{failure}");
        }
        carrier.ok_or(DialError { failures })
    }
}

impl Dialler for Gateway {
    type Connection = Stream;
    type Carrier = Carrier;
    type Failure = Failure;

    async fn look_up(&self, place: usize) -> Result<Vec<SocketAddr>, Failure> {
        let Some(named) = self.relay.get(place) else { return Ok(Vec::new()) };
        match net::resolve(named.clone()).await {
            Ok(addresses) => {
                self.memory.borrow_mut().known.insert(place, addresses.clone());
                Ok(addresses)
            }
            Err(source) => Err(Failure::Resolve { place: named.clone(), source }),
        }
    }

    async fn connect(&self, Candidate { address, .. }: Candidate) -> Result<Stream, Failure> {
        let connected = Stream::connect(address, CONNECT_MAX).await;
        connected.map_err(|source| Failure::Connect { address, source })
    }

    async fn authenticate(&self, at: Candidate, stream: Stream) -> Result<Carrier, Failure> {
        let host = self.relay.get(at.place).map_or("", |place| place.host.as_str());
        let shaken = async {
            let handshake = Handshake::client(&self.tls, host)?;
            Ok(net::shake_hands(stream, handshake).await?.carrier)
        };
        shaken.await.map_err(|source| Failure::Handshake { address: at.address, source })
    }

    fn unreachable(&self, Candidate { address, .. }: Candidate) -> Failure {
        Failure::Connect { address, source: std::io::ErrorKind::TimedOut.into() }
    }

    fn silent(&self, Candidate { address, .. }: Candidate) -> Failure {
        Failure::Silent { address }
    }
}
