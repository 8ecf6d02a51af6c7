//! The TLS handshake of a carrier, without I/O: who is at the other end, and the keys.
//!
//! TLS 1.3 only, raw public keys at both ends (RFC 7250), an ALPN that says what the caller came
//! for ([`Purpose`]), X25519MLKEM768 only, no tickets, no resumption. `rustls` does the handshake; what it ends with goes to
//! [`adit_proto::record`].
//!
//! The order of calls:
//! 1. [`Handshake::client`] or [`Handshake::server`].
//! 2. Send what [`Handshake::poll_transmit`] gives, until it gives none. After an error too: it is
//!    the alert that tells the peer why.
//! 3. Until [`Handshake::is_done`]: [`Handshake::handle_bytes`], then 2.
//! 4. [`Handshake::finish`]; its `leftover` is the record layer's first input.
//!
//! The client is done before the relay has judged its key: a refusal is then the first record
//! that [`RecordLayer::open`] finds, and [`HandshakeError::from_alert`] puts it in words.

mod config;
mod connection;
mod error;
mod message;
mod verify;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use adit_proto::limits;
use adit_proto::record::{ALERT_LEN, AlertDescription, RecordLayer};
use rustls::pki_types::ServerName;

pub(crate) use config::cpu_has_aes;
pub use config::{ClientTls, ServerTls, Trust};
pub use error::HandshakeError;
pub use message::{MESSAGE_BYTES_MAX, MessageError, Messages};

use crate::key::PublicKey;
use connection::Connection;

/// The most bytes that are kept of a handshake that is not done. A whole one, with its
/// post-quantum key share, has about 2 KiB in either direction.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;

const HEADER_LEN: usize = limits::RECORD_HEADER;
/// The first content type of TLS, `change_cipher_spec`, and the last one, `application_data`.
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=23;
/// The major version in every record header since SSL 3.
const VERSION_MAJOR: u8 = 3;

/// What a caller came for, said by the ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A tunnel, for a key that the relay lets in.
    Tunnel,
    /// To be let in from now on: one request, with an invitation, for whatever key.
    Join,
    /// To look at the way, for a key that the relay lets in: no session begins, and none is taken
    /// over.
    Probe,
}

impl Purpose {
    /// What both ends have to speak inside TLS.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Tunnel => b"adit/1",
            Self::Join => b"adit-join/1",
            Self::Probe => b"adit-probe/1",
        }
    }

    fn of_alpn(alpn: Option<&[u8]>) -> Option<Self> {
        [Self::Tunnel, Self::Join, Self::Probe]
            .into_iter()
            .find(|purpose| Some(purpose.alpn()) == alpn)
    }
}

/// One end of a handshake.
pub struct Handshake {
    stage: Stage,
    trust: Option<Arc<dyn Trust>>,
    /// What was received and is not yet a whole record, or comes after the handshake.
    unread: Vec<u8>,
    /// Records that rustls was shown and has not let go: messages split over records.
    shown: Vec<u8>,
    output: Vec<u8>,
}

enum Stage {
    Shaking(Connection),
    Done(Box<RecordLayer>, PublicKey, Purpose),
    Failed,
}

/// What a handshake ends with.
#[derive(Debug)]
pub struct Handshaken {
    /// Both directions' keys.
    pub records: RecordLayer,
    /// Who the other end is: it has proven that it holds this key.
    pub peer: PublicKey,
    /// What the caller came for. Only a relay [with joiners](ServerTls::with_joiners) ever sees
    /// another than [`Purpose::Tunnel`].
    pub purpose: Purpose,
    /// What was received behind the handshake: the first input of `records`.
    pub leftover: Vec<u8>,
}

// It is made on the control plane and handed to a pump.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Handshaken>();
};

impl Handshake {
    /// Begins the forwarder's end. `server_name`, a DNS name or an address, is what the relay was
    /// dialled by; a DNS name is sent in clear, like any browser's.
    pub fn client(tls: &ClientTls, server_name: &str) -> Result<Self, HandshakeError> {
        let Ok(name) = ServerName::try_from(server_name.to_owned()) else {
            return Err(HandshakeError::ServerName(server_name.into()));
        };
        let connection = Connection::client(tls.config(), name)?;
        let mut handshake = Self::new(connection, None);
        handshake.advance()?;
        Ok(handshake)
    }

    /// Begins the relay's end.
    pub fn server(tls: &ServerTls) -> Result<Self, HandshakeError> {
        Ok(Self::new(Connection::server(tls.config())?, Some(tls.trust())))
    }

    fn new(connection: Connection, trust: Option<Arc<dyn Trust>>) -> Self {
        let stage = Stage::Shaking(connection);
        Self { stage, trust, unread: Vec::new(), shown: Vec::new(), output: Vec::new() }
    }

    /// Takes what was received. After an error the handshake has failed for good, and
    /// [`Handshake::poll_transmit`] has what the peer should still be told.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let result = self.take(bytes);
        if result.is_err() {
            self.stage = Stage::Failed;
        }
        result
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        match self.stage {
            Stage::Failed => return Err(HandshakeError::Failed),
            Stage::Shaking(_) => {}
            // What completes a handshake may bring any leftover; more would be read for nothing.
            Stage::Done(..) if self.unread.len() + bytes.len() > HANDSHAKE_BYTES_MAX => {
                return Err(HandshakeError::TooMuch);
            }
            Stage::Done(..) => {}
        }
        self.unread.extend_from_slice(bytes);
        // Record by record: behind the last one of the handshake rustls must not open any.
        while let Stage::Shaking(_) = self.stage {
            let Some(len) = self.whole_record()? else { break };
            self.shown.extend(self.unread.drain(..len));
            self.advance()?;
        }
        let shaking = matches!(self.stage, Stage::Shaking(_));
        if shaking && self.unread.len() + self.shown.len() > HANDSHAKE_BYTES_MAX {
            return Err(HandshakeError::TooMuch);
        }
        Ok(())
    }

    /// The length of the first record, if all of it is there. A stranger is recognised by its
    /// first byte: it may never send five.
    fn whole_record(&self) -> Result<Option<usize>, HandshakeError> {
        let alien = match self.unread.as_slice() {
            [] => false,
            [content_type] => !CONTENT_TYPES.contains(content_type),
            [content_type, major, ..] => {
                !CONTENT_TYPES.contains(content_type) || *major != VERSION_MAJOR
            }
        };
        if alien {
            return Err(HandshakeError::not_tls(&self.unread));
        }
        let Some((&[_, _, _, high, low], body)) = self.unread.split_first_chunk::<HEADER_LEN>()
        else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if HEADER_LEN + len > HANDSHAKE_BYTES_MAX {
            return Err(HandshakeError::TooMuch);
        }
        Ok((body.len() >= len).then_some(HEADER_LEN + len))
    }

    /// Lets rustls see what it was shown, collects what it says, and completes if it is done.
    fn advance(&mut self) -> Result<(), HandshakeError> {
        let Stage::Shaking(connection) = &mut self.stage else { return Ok(()) };
        let advanced = connection.advance(&mut self.shown, &mut self.output);
        if let Err(error) = advanced {
            connection.flush(&mut self.output);
            return Err(HandshakeError::from_rustls(error, connection.side()));
        }
        if !connection.is_done() {
            return Ok(());
        }
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Shaking(connection) => self.complete(connection),
            Stage::Done(..) | Stage::Failed => Ok(()),
        }
    }

    /// Judges the peer, now that it has proven what it claims.
    fn complete(&mut self, connection: Connection) -> Result<(), HandshakeError> {
        let side = connection.side();
        let purpose = Purpose::of_alpn(connection.alpn());
        let peer = connection.peer();
        let mut records = connection.into_records()?;
        let (error, alert) = match (purpose, peer) {
            (None, _) => (HandshakeError::no_alpn(side), AlertDescription::NoApplicationProtocol),
            (_, None) => (HandshakeError::NoKey, AlertDescription::BadCertificate),
            (Some(Purpose::Tunnel | Purpose::Probe), Some(peer)) if !self.trusts(&peer) => {
                (HandshakeError::UnknownPeer(peer), AlertDescription::AccessDenied)
            }
            (Some(purpose), Some(peer)) => {
                self.stage = Stage::Done(Box::new(records), peer, purpose);
                return Ok(());
            }
        };
        let mut record = [0; ALERT_LEN];
        if records.alert(alert, &mut record).is_ok() {
            self.output.extend_from_slice(&record);
        }
        Err(error)
    }

    /// A client's verifier has compared the relay's key already, before it showed its own.
    fn trusts(&self, peer: &PublicKey) -> bool {
        self.trust.as_ref().is_none_or(|trust| trust.accepts(peer))
    }

    /// What is to be sent, if anything.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// Whether the handshake is complete at this end, and all of it was taken to be sent.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done(..)) && self.output.is_empty()
    }

    /// Hands the keys over, once [`Handshake::is_done`].
    pub fn finish(self) -> Result<Handshaken, HandshakeError> {
        match self.stage {
            Stage::Done(records, peer, purpose) if self.output.is_empty() => {
                Ok(Handshaken { records: *records, peer, purpose, leftover: self.unread })
            }
            Stage::Failed => Err(HandshakeError::Failed),
            Stage::Done(..) | Stage::Shaking(_) => Err(HandshakeError::NotDone),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Shaking(_) => "shaking",
            Stage::Done(..) => "done",
            Stage::Failed => "failed",
        };
        f.debug_struct("Handshake").field("stage", &stage).finish_non_exhaustive()
    }
}
