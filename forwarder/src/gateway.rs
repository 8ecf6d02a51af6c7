//! The gateway interface: dials the relay through the gateway, authenticates both ends, and says
//! how long to wait before the next attempt. The tunnel itself then lives on a pump.

mod redial;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Place;
use crate::handoff::Carrier;
use crate::key::{PrivateKey, PublicKey};
use crate::net::{self, ShakeError, Stream};
use crate::tls::{ClientTls, Handshake, HandshakeError};

pub use redial::{Ended, Redial};

/// How long each of the relay's addresses may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How many of the relay's addresses one attempt tries.
const ADDRESSES_MAX: usize = 8;

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The relay's name has no address at the moment.
    #[error("cannot resolve {place}: {source}")]
    Resolve {
        /// The relay.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// None of its addresses answers; the last one's reason.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers, but the handshake fails.
    #[error("{address}: {source}")]
    Handshake {
        /// Who answered.
        address: SocketAddr,
        /// Why.
        source: ShakeError,
    },
}

impl DialError {
    /// How the next attempt should be timed.
    pub fn ended(&self) -> Ended {
        match self {
            // Nothing changes until somebody changes a file.
            Self::Handshake {
                source:
                    ShakeError::Handshake(
                        HandshakeError::WrongRelay { .. }
                        | HandshakeError::AccessDenied
                        | HandshakeError::NotAdit { .. }
                        | HandshakeError::NotTls(_),
                    ),
                ..
            } => Ended::Denied,
            _ => Ended::Failed,
        }
    }
}

/// How to reach the relay, and who we are to it.
#[derive(Clone, Debug)]
pub struct Gateway {
    relay: Place,
    tls: ClientTls,
}

impl Gateway {
    /// Dials `relay`, which must have the key `relay_key`, as the owner of `key`.
    ///
    /// # Errors
    /// When TLS cannot be set up with the key.
    pub fn new(
        relay: Place,
        key: &PrivateKey,
        relay_key: PublicKey,
    ) -> Result<Self, HandshakeError> {
        Ok(Self { relay, tls: ClientTls::new(key, relay_key)? })
    }

    /// One attempt: the name is resolved anew, since the relay may have moved, and each of its
    /// addresses is tried in turn.
    ///
    /// # Errors
    /// When no address answers, or the first that does is not the relay.
    pub async fn dial(&self) -> Result<Carrier, DialError> {
        let resolved = net::resolve(self.relay.clone()).await;
        let addresses =
            resolved.map_err(|source| DialError::Resolve { place: self.relay.clone(), source })?;
        let stream = connect(&addresses).await?;
        let address = stream.remote();
        let shaken = async {
            let handshake = Handshake::client(&self.tls, &self.relay.host)?;
            Ok::<_, ShakeError>(net::shake_hands(stream, handshake).await?.carrier)
        };
        shaken.await.map_err(|source| DialError::Handshake { address, source })
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<Stream, DialError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut failed =
        DialError::Connect { address: nowhere, source: io::ErrorKind::AddrNotAvailable.into() };
    for &address in addresses.iter().take(ADDRESSES_MAX) {
        match Stream::connect(address, CONNECT_MAX).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                tracing::debug!(%address, %source, "no connection");
                failed = DialError::Connect { address, source };
            }
        }
    }
    Err(failed)
}
