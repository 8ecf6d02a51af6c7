//! Why a handshake failed, in words that say what to do.

use adit_proto::id::Side;
use adit_proto::record::{AlertDescription, TrafficKeyError};
use rustls::{CertificateError, Error as TlsError};
use thiserror::Error;

use super::HANDSHAKE_BYTES_MAX;
use super::verify::WrongKey;
use crate::key::{KeyError, Pins, PublicKey};

/// How many bytes of a stranger's greeting an error shows.
const GREETING_SHOWN: usize = 16;

/// What a side would have liked to find at the other end.
fn stranger(side: Side) -> &'static str {
    match side {
        Side::Forwarder => "what answers is not an Adit relay",
        Side::Relay => "what calls is not an Adit forwarder",
    }
}

/// A handshake that came to nothing.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The other end's first bytes.
    #[error("the other end does not speak TLS: it begins with \"{0}\"")]
    NotTls(String),
    /// TLS, but not with us.
    #[error("{}: {reason}", stranger(*side))]
    NotAdit {
        /// Which end we are.
        side: Side,
        /// What is missing.
        reason: String,
    },
    /// The relay is another one, or somebody sits between.
    #[error(
        "the relay's key is {found}, not {expected}: compare it with what the relay prints, and \
         do not accept it before you know why it changed"
    )]
    WrongRelay {
        /// The configured key, or keys.
        expected: Pins,
        /// The key presented. Its holder has not yet proven to hold it.
        found: PublicKey,
    },
    /// The relay's own refusal, for its log.
    #[error("the key {0} is not known here")]
    UnknownPeer(PublicKey),
    /// The relay's refusal as the forwarder sees it.
    #[error("the relay does not know this key: give our public key to the relay's operator")]
    AccessDenied,
    /// The forwarder's refusal as the relay sees it.
    #[error("the caller expects a relay with another key than ours")]
    RelayRefused,
    /// The peer gave up for another reason.
    #[error("the other end gave up: {0:?}")]
    Alert(AlertDescription),
    /// The peer presented no key that we could read.
    #[error("the other end presented no Ed25519 key")]
    NoKey,
    /// The peer sends, and the handshake does not come to its end.
    #[error("more than {HANDSHAKE_BYTES_MAX} bytes without an end of the handshake")]
    TooMuch,
    /// Any other fault of the peer, or of the path.
    #[error("TLS handshake failed: {0}")]
    Tls(TlsError),
    /// Neither a DNS name nor an address.
    #[error("{0:?} is neither a host name nor an address")]
    ServerName(String),
    /// Our own key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Our own configuration.
    #[error("TLS could not be set up: {0}")]
    Setup(TlsError),
    /// The traffic keys that the handshake ended with.
    #[error(transparent)]
    Keys(TrafficKeyError),
    /// [`super::Handshake::finish`] was called too early.
    #[error("the handshake is not done")]
    NotDone,
    /// The handshake has failed before.
    #[error("the handshake has failed already")]
    Failed,
}

impl HandshakeError {
    /// What an alert means that ends a carrier, in the handshake or as its first record.
    pub fn from_alert(alert: AlertDescription, side: Side) -> Self {
        match (alert, side) {
            (AlertDescription::AccessDenied, Side::Forwarder) => Self::AccessDenied,
            (AlertDescription::CertificateUnknown, Side::Relay) => Self::RelayRefused,
            (AlertDescription::NoApplicationProtocol, _) => Self::no_alpn(side),
            (
                AlertDescription::HandshakeFailure
                | AlertDescription::ProtocolVersion
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnrecognisedName
                | AlertDescription::MissingExtension,
                _,
            ) => {
                let reason = format!("it refuses what both ends of Adit insist on ({alert:?})");
                Self::NotAdit { side, reason }
            }
            _ => Self::Alert(alert),
        }
    }

    pub(super) fn from_rustls(error: TlsError, side: Side) -> Self {
        match error {
            TlsError::AlertReceived(alert) => Self::from_alert(alert, side),
            TlsError::NoApplicationProtocol => Self::no_alpn(side),
            TlsError::PeerIncompatible(reason) => {
                Self::NotAdit { side, reason: format!("{reason:?}") }
            }
            TlsError::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<WrongKey>() {
                    Some(&WrongKey { expected, found }) => Self::WrongRelay { expected, found },
                    None => Self::Tls(CertificateError::Other(other).into()),
                }
            }
            error => Self::Tls(error),
        }
    }

    pub(super) fn no_alpn(side: Side) -> Self {
        Self::NotAdit { side, reason: "it does not speak this version of Adit inside TLS".into() }
    }

    pub(super) fn not_tls(greeting: &[u8]) -> Self {
        let shown = greeting.get(..GREETING_SHOWN).unwrap_or(greeting);
        Self::NotTls(shown.escape_ascii().to_string())
    }
}
