//! Why an attempt to reach the relay came to nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::Ended;
use super::proxy::ProxyError;
use super::segments::Stuck;
use crate::config::{Family, Place, Proxy};
use crate::net::ShakeError;
use crate::tls::HandshakeError;

/// Failures of one attempt that its error shows.
const FAILURES_SHOWN: usize = 4;

/// None of the relay's addresses led to it. Shown with the reason of each.
#[derive(Debug)]
pub struct DialError {
    /// What went wrong, in the order in which it did.
    pub failures: Vec<Failure>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.failures.iter().take(FAILURES_SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        match self.failures.len() {
            0 => write!(f, "the relay has no address"),
            len if len > FAILURES_SHOWN => write!(f, "; and {} more", len - FAILURES_SHOWN),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for DialError {}

impl DialError {
    /// How the next attempt should be timed.
    pub fn ended(&self) -> Ended {
        // One address of a stranger among dead ones says nothing about the relay.
        let is_denied = !self.failures.is_empty() && self.failures.iter().all(Failure::is_denial);
        if is_denied { Ended::Denied } else { Ended::Failed }
    }
}

/// Where somebody is who may be the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// At an address.
    Address(SocketAddr),
    /// Behind a proxy that says it has connected.
    Behind {
        /// What the proxy was asked for.
        place: Place,
        /// The proxy.
        proxy: Proxy,
    },
}

impl fmt::Display for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Behind { place, proxy } => write!(f, "{place} through the proxy {proxy}"),
        }
    }
}

/// Why one name, or one address, did not lead to the relay.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The name has no address at the moment, or nobody says which.
    #[error("cannot resolve {place}: {source}")]
    Resolve {
        /// The place.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// The name has addresses, and none of the family that is wanted.
    #[error(
        "{place} has no {family} address, and `family` or `bind` of [gateway] wants no other: change \
         that, or name another place of the relay"
    )]
    NoneOfFamily {
        /// The place.
        place: Place,
        /// What is wanted.
        family: Family,
    },
    /// Nobody answers.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The proxy does not answer.
    #[error("cannot connect to the proxy {proxy} at {address}: {source}")]
    ProxyUnreachable {
        /// The proxy.
        proxy: Proxy,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The proxy answers, and does not lead to the relay.
    #[error("the proxy {proxy}: {source}")]
    Proxy {
        /// The proxy.
        proxy: Proxy,
        /// Why.
        source: ProxyError,
    },
    /// Small packets arrive, large ones do not, and nobody says so.
    #[error(
        "{address}: packets larger than {bytes} bytes get lost on the way: MTU black hole ({}); have \
         the gateway let ICMP \"fragmentation needed\" and \"packet too big\" through, or lower the MTU \
         of this host's device",
        evidence(stuck)
    )]
    MtuBlackHole {
        /// Who accepted.
        address: SocketAddr,
        /// Packets with more bytes are known not to arrive.
        bytes: u32,
        /// What the kernel saw.
        stuck: Stuck,
    },
    /// One packet of the handshake never arrives, while others of its size do.
    #[error(
        "{address}: one packet of the TLS handshake gets lost each time, and others of its size \
         arrive: a filter on the way reads it; choose another name with `sni` in [gateway]"
    )]
    Filtered {
        /// Who accepted.
        address: SocketAddr,
    },
    /// Somebody accepts connections, and says nothing.
    #[error("{at}: connects, but does not complete the TLS handshake in time")]
    Silent {
        /// Who accepted.
        at: FarEnd,
    },
    /// Somebody answers, but the handshake fails.
    #[error("{at}: {source}")]
    Handshake {
        /// Who answered.
        at: FarEnd,
        /// Why.
        source: ShakeError,
    },
}

/// What the kernel saw, for people.
fn evidence(stuck: &Stuck) -> String {
    let Stuck { sample, .. } = stuck;
    format!(
        "path MTU {}, segments of {} bytes, {} sent again",
        sample.packet_bytes, sample.segment_bytes, sample.resent
    )
}

impl Failure {
    /// Whether nothing changes until somebody changes a file.
    fn is_denial(&self) -> bool {
        if let Self::Proxy { source, .. } = self {
            return source.is_denial();
        }
        let Self::Handshake { source: ShakeError::Handshake(error), .. } = self else {
            return false;
        };
        matches!(
            error,
            HandshakeError::WrongRelay { .. }
                | HandshakeError::AccessDenied
                | HandshakeError::NotAdit { .. }
                | HandshakeError::NotTls(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(port: u16) -> Failure {
        let address = SocketAddr::from(([192, 0, 2, 1], port));
        Failure::Connect { address, source: io::Error::other("refused") }
    }

    fn stranger() -> Failure {
        let error = HandshakeError::NotTls("HTTP".to_owned());
        let at = FarEnd::Address(([192, 0, 2, 2], 80).into());
        Failure::Handshake { at, source: error.into() }
    }

    /// A captive portal beside a dead path is waited out as a dead path is.
    #[test]
    fn only_refusals_by_all_count_as_a_refusal() {
        let ended = |failures| DialError { failures }.ended();
        assert_eq!(ended(vec![stranger(), stranger()]), Ended::Denied);
        assert_eq!(ended(vec![stranger(), refused(443)]), Ended::Failed);
        assert_eq!(ended(vec![]), Ended::Failed);
    }

    /// Each address has its reason in the error, and a long list stays a line.
    #[test]
    fn every_reason_is_shown_up_to_a_bound() {
        let shown = |count| DialError { failures: (1..=count).map(refused).collect() }.to_string();
        assert_eq!(shown(1), "cannot connect to 192.0.2.1:1: refused");
        let two = "cannot connect to 192.0.2.1:1: refused; cannot connect to 192.0.2.1:2: refused";
        assert_eq!(shown(2), two);
        assert!(shown(20).ends_with("192.0.2.1:4: refused; and 16 more"), "{}", shown(20));
    }
}
