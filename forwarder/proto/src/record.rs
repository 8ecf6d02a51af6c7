//! The TLS 1.3 record layer, in place: it seals records where their payload landed and opens them
//! where they were received. `rustls` makes the handshake and hands its traffic secrets over.
//!
//! ```text
//!   | 5 header | content ≤ 16,384            | 1 | 16 tag |
//!   `HEADROOM`   what the session writes       `TAILROOM`
//! ```
//!
//! Deliberately absent: sockets, clocks, handshakes, padding of our own, session tickets (they are
//! dropped), handshake messages split over records (no peer of ours sends one).
//!
//! The order of calls, for each turn:
//! 1. Receiving: [`Opener::record_len`] until a record is whole, then [`RecordLayer::open`].
//! 2. Sending: if [`RecordLayer::key_update_due`], send what [`RecordLayer::key_update`] writes;
//!    then [`Sealer::seal`] each record. [`Sealer::seal`] refuses data while an update is owed.
//!    A layer that was taken over from another process is used up ([`RecordLayer::is_used_up`]) where
//!    an update is due.
//! 3. Ending: [`RecordLayer::close_notify`], or [`RecordLayer::alert`] with
//!    [`RecordError::alert`]; nothing can be sealed after either.

mod error;
mod key;
mod opener;
mod sealer;

use std::fmt;
use std::ops::Range;

use rustls::ExtractedSecrets;
use rustls::kernel::KernelConnection;
pub use rustls::{AlertDescription, ContentType, HandshakeType};
use serde::{Deserialize, Serialize};

pub use error::{RecordError, SealError, TrafficKeyError};
pub use key::{KeySchedule, SealedBy};
pub use opener::Opener;
pub use sealer::Sealer;

use key::{KeySecret, Secrets};

use crate::limits;

/// What a record needs in front of its content: the TLS header.
pub const HEADROOM: usize = limits::RECORD_HEADER;
/// What a record needs behind its content: the content type and the tag.
pub const TAILROOM: usize = limits::RECORD_TRAILER;
/// The most content of one record (RFC 8446 §5.1).
pub const CONTENT_MAX: usize = limits::CONTENT_MAX;
/// The length of the record that [`RecordLayer::key_update`] writes.
pub const KEY_UPDATE_LEN: usize = HEADROOM + KEY_UPDATE_MESSAGE_LEN + TAILROOM;
/// The length of the record that [`RecordLayer::alert`] and [`RecordLayer::close_notify`] write.
pub const ALERT_LEN: usize = HEADROOM + ALERT_MESSAGE_LEN + TAILROOM;

/// Type, 24-bit length, and the one byte that asks for an update or not (RFC 8446 §4.6.3).
const KEY_UPDATE_MESSAGE_LEN: usize = 5;
const ALERT_MESSAGE_LEN: usize = 2;
const ALERT_WARNING: u8 = 1;
const ALERT_FATAL: u8 = 2;

/// What a record turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data: where it lies in the record. It may be empty.
    Data(Range<usize>),
    /// The peer changed its keys; [`RecordLayer::key_update_due`] says whether it waits for ours.
    KeyUpdated,
    /// Something that TLS permits and that means nothing here.
    Ignored,
    /// The peer will send no more, by its own will.
    CloseNotify,
    /// The peer gave up, and says why. A forwarder whose key the relay does not know finds
    /// [`AlertDescription::AccessDenied`] in its first record.
    Alert(AlertDescription),
}

/// Both directions of one carrier, and the keys that follow the present ones.
pub struct RecordLayer {
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what we receive; call [`RecordLayer::open`] unless the content type does not matter.
    pub opener: Opener,
    /// None where another process made the handshake.
    schedule: Option<Box<dyn KeySchedule>>,
}

/// Both directions as one process leaves them to another. What later keys are derived from stays with the
/// TLS library: when the present ones are used up, the carrier is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordsLeft {
    sealing: Secrets,
    records_max: u64,
    opening: Secrets,
}

impl RecordLayer {
    /// Whether [`RecordLayer::leave`] has something to leave.
    pub fn is_passable(&self) -> bool {
        self.sealer.is_passable() && self.opener.is_passable()
    }

    /// What another process needs to go on; nothing where one of the directions has ended, or the peer
    /// waits for other keys.
    pub fn leave(&self) -> Option<RecordsLeft> {
        self.is_passable().then(|| {
            let (sealing, records_max) = self.sealer.leave();
            RecordsLeft { sealing, records_max, opening: self.opener.leave() }
        })
    }

    /// Goes on where another process was, which must do nothing more.
    ///
    /// # Errors
    /// When what it has left are no keys.
    pub fn take_over(left: RecordsLeft) -> Result<Self, TrafficKeyError> {
        let sealer = Sealer::new(left.sealing, left.records_max)?;
        Ok(Self { sealer, opener: Opener::new(left.opening)?, schedule: None })
    }

    /// Whether no data may be sealed any more, nor will be: other keys are due, and nobody can derive
    /// them.
    pub fn is_used_up(&self) -> bool {
        self.schedule.is_none() && self.key_update_due()
    }

    /// Takes over from a finished handshake.
    ///
    /// `confidentiality_limit` is how many records one key may seal: rustls names it for each
    /// cipher suite.
    pub fn new(
        secrets: ExtractedSecrets,
        confidentiality_limit: u64,
        schedule: Box<dyn KeySchedule>,
    ) -> Result<Self, TrafficKeyError> {
        Ok(Self {
            sealer: Sealer::new(KeySecret::of(secrets.tx)?, confidentiality_limit)?,
            opener: Opener::new(KeySecret::of(secrets.rx)?)?,
            schedule: Some(schedule),
        })
    }

    /// Takes over from what `dangerous_into_kernel_connection` returned.
    pub fn from_kernel<Data: Send + 'static>(
        (secrets, kernel): (ExtractedSecrets, KernelConnection<Data>),
    ) -> Result<Self, TrafficKeyError> {
        let suite = kernel.negotiated_cipher_suite();
        let Some(tls13) = suite.tls13() else {
            return Err(TrafficKeyError::UnknownCipher);
        };
        Self::new(secrets, tls13.common.confidentiality_limit, Box::new(kernel))
    }

    /// Opens one whole record in place, and acts on what is addressed to the record layer.
    ///
    /// After an error nothing more can be received: send [`RecordError::alert`] and close.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (content_type, content) = self.opener.open(record)?;
        if content_type == ContentType::ApplicationData {
            return Ok(Opened::Data(content));
        }
        self.handle(content_type, record.get(content).unwrap_or_default())
    }

    /// Acts on the content of a record that is not application data.
    fn handle(&mut self, content_type: ContentType, content: &[u8]) -> Result<Opened, RecordError> {
        match content_type {
            ContentType::Alert => self.handle_alert(content),
            ContentType::Handshake => self.handle_handshake(content),
            other => Err(RecordError::UnexpectedContent(other)),
        }
    }

    /// TLS 1.3 ignores the level: all but two descriptions are fatal (RFC 8446 §6).
    fn handle_alert(&mut self, content: &[u8]) -> Result<Opened, RecordError> {
        let &[_level, description] = content else {
            return Err(RecordError::MalformedAlert(content.len()));
        };
        match AlertDescription::from(description) {
            // It announces a close_notify and says nothing by itself.
            AlertDescription::UserCanceled => Ok(Opened::Ignored),
            AlertDescription::CloseNotify => {
                self.opener.close();
                Ok(Opened::CloseNotify)
            }
            description => {
                self.opener.close();
                Ok(Opened::Alert(description))
            }
        }
    }

    /// One record may hold several messages, but a `KeyUpdate` only as its last: what follows is
    /// under other keys (RFC 8446 §5.1).
    fn handle_handshake(&mut self, mut content: &[u8]) -> Result<Opened, RecordError> {
        while let Some((&[message_type, a, b, c], rest)) = content.split_first_chunk() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((body, rest)) = rest.split_at_checked(len) else {
                return Err(RecordError::FragmentedHandshake);
            };
            match HandshakeType::from(message_type) {
                HandshakeType::NewSessionTicket => content = rest,
                HandshakeType::KeyUpdate if rest.is_empty() => {
                    return self.handle_key_update(body);
                }
                HandshakeType::KeyUpdate => return Err(RecordError::KeyUpdateNotLast),
                other => return Err(RecordError::UnexpectedHandshake(other)),
            }
        }
        if content.is_empty() { Ok(Opened::Ignored) } else { Err(RecordError::FragmentedHandshake) }
    }

    fn handle_key_update(&mut self, body: &[u8]) -> Result<Opened, RecordError> {
        let answer = match body {
            [0] => false,
            [1] => true,
            _ => return Err(RecordError::MalformedKeyUpdate),
        };
        let schedule = self.schedule.as_mut().ok_or(TrafficKeyError::Inherited)?;
        let secrets = schedule.update_rx().map_err(TrafficKeyError::Schedule)?;
        self.opener.rekey(KeySecret::of(secrets)?)?;
        if answer {
            // Several requests before we could answer are owed one answer.
            self.sealer.owe_key_update();
        }
        Ok(Opened::KeyUpdated)
    }

    /// Whether a `KeyUpdate` has to be sent before further data: the peer asked for one, or the
    /// present key has sealed half of what it may.
    pub fn key_update_due(&self) -> bool {
        self.sealer.owes_key_update() || self.sealer.needs_key_update()
    }

    /// Writes a `KeyUpdate` record into `out` (at least [`KEY_UPDATE_LEN`] bytes), returns its
    /// length, and switches our sending keys. `request` asks the peer to do the same.
    ///
    /// The record must be sent in its turn, before whatever is sealed next.
    pub fn key_update(&mut self, request: bool, out: &mut [u8]) -> Result<usize, SealError> {
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, u8::from(request)];
        // Before anything is sealed.
        self.schedule.as_ref().ok_or(TrafficKeyError::Inherited)?;
        let len = self.seal_message(ContentType::Handshake, message, out)?;
        let schedule = self.schedule.as_mut().ok_or(TrafficKeyError::Inherited)?;
        let secrets = schedule.update_tx().map_err(TrafficKeyError::Schedule)?;
        self.sealer.rekey(KeySecret::of(secrets)?)?;
        Ok(len)
    }

    /// Writes the record that ends our sending, into `out` of at least [`ALERT_LEN`] bytes.
    pub fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, SealError> {
        self.alert(AlertDescription::CloseNotify, out)
    }

    /// Writes the record that tells the peer why we give up, into `out` of at least
    /// [`ALERT_LEN`] bytes. Nothing can be sealed after it.
    pub fn alert(
        &mut self,
        description: AlertDescription,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let level = match description {
            AlertDescription::CloseNotify | AlertDescription::UserCanceled => ALERT_WARNING,
            _ => ALERT_FATAL,
        };
        let len = self.seal_message(ContentType::Alert, [level, description.into()], out)?;
        if description != AlertDescription::UserCanceled {
            self.sealer.close();
        }
        Ok(len)
    }

    fn seal_message<const LEN: usize>(
        &mut self,
        content_type: ContentType,
        message: [u8; LEN],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let have = out.len();
        let Some(content) = out.get_mut(HEADROOM..HEADROOM + LEN) else {
            return Err(SealError::NoRoom { need: HEADROOM + LEN + TAILROOM, have });
        };
        content.copy_from_slice(&message);
        self.sealer.seal(content_type, out, LEN)
    }
}

impl fmt::Debug for RecordLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordLayer")
            .field("sealer", &self.sealer)
            .field("opener", &self.opener)
            .finish_non_exhaustive()
    }
}
