//! What can go wrong with a record, and who is to blame.

use rustls::{AlertDescription, ContentType, HandshakeType};
use thiserror::Error;

use super::CONTENT_MAX;

/// The peer's fault, or that of whoever sits between: the carrier has to be closed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RecordError {
    /// The first byte of the header; a sealed record always claims to be application data. An
    /// unsealed `change_cipher_spec` is allowed only before the peer's `Finished` (RFC 8446 §5).
    #[error("record header claims {0:?}: only sealed application data may follow the handshake")]
    UnexpectedRecord(ContentType),
    /// The version in the header, which TLS 1.3 fixes at 0x0303.
    #[error("record header claims version {0:#06x}, TLS 1.3 has 0x0303 here")]
    Version(u16),
    /// The length in the header, above what RFC 8446 §5.2 allows.
    #[error("record of {0} bytes, above the bound of {CONTENT_MAX} + 256")]
    TooLong(usize),
    /// The length in the header, too little for a content type and a tag.
    #[error("record of {0} bytes, too short for a content type and a tag")]
    TooShort(usize),
    /// What was given to be opened is not exactly one record.
    #[error("{have} bytes given to be opened as one record of {expected:?} bytes")]
    NotOneRecord {
        /// The record's length, if its header is whole.
        expected: Option<usize>,
        /// The bytes given.
        have: usize,
    },
    /// The tag does not fit: the record was altered, reordered, or sealed with another key.
    #[error("record does not authenticate: altered, out of order, or under another key")]
    Forged,
    /// The content is longer than a record may carry.
    #[error("record opens to {0} bytes with its content type, above {CONTENT_MAX} + 1")]
    ContentTooLong(usize),
    /// Nothing but padding.
    #[error("record holds nothing but padding, not even a content type")]
    NoContentType,
    /// Only application data may be empty.
    #[error("empty record of type {0:?}")]
    Empty(ContentType),
    /// A type that may not follow the handshake.
    #[error("record with content of type {0:?}")]
    UnexpectedContent(ContentType),
    /// Too many records in a row without application data.
    #[error("{0} records in a row without any data")]
    TooManyWithoutData(u32),
    /// An alert is two bytes.
    #[error("alert of {0} bytes instead of 2")]
    MalformedAlert(usize),
    /// A handshake message that does not end in its record.
    #[error("handshake message split over records")]
    FragmentedHandshake,
    /// A handshake message that does not belong after the handshake.
    #[error("handshake message {0:?} after the handshake")]
    UnexpectedHandshake(HandshakeType),
    /// A `KeyUpdate` must end its record.
    #[error("key update with more messages behind it in its record")]
    KeyUpdateNotLast,
    /// A `KeyUpdate` is one byte, 0 or 1.
    #[error("malformed key update")]
    MalformedKeyUpdate,
    /// The peer had closed its side, by `close_notify` or an alert.
    #[error("record after the peer's close_notify or alert")]
    Closed,
    /// 2^64 records under one key.
    #[error("the peer never changed its key and ran out of sequence numbers")]
    SequenceExhausted,
    /// The next keys could not be made.
    #[error(transparent)]
    Keys(#[from] TrafficKeyError),
}

impl RecordError {
    /// What to tell the peer about it (RFC 8446 §6.2).
    pub fn alert(&self) -> AlertDescription {
        match self {
            Self::UnexpectedRecord(_)
            | Self::NoContentType
            | Self::Empty(_)
            | Self::UnexpectedContent(_)
            | Self::TooManyWithoutData(_)
            | Self::FragmentedHandshake
            | Self::UnexpectedHandshake(_)
            | Self::KeyUpdateNotLast
            | Self::Closed => AlertDescription::UnexpectedMessage,
            Self::Version(_)
            | Self::TooShort(_)
            | Self::NotOneRecord { .. }
            | Self::MalformedAlert(_) => AlertDescription::DecodeError,
            Self::MalformedKeyUpdate => AlertDescription::IllegalParameter,
            Self::TooLong(_) | Self::ContentTooLong(_) => AlertDescription::RecordOverflow,
            Self::Forged => AlertDescription::BadRecordMac,
            Self::SequenceExhausted | Self::Keys(_) => AlertDescription::InternalError,
        }
    }
}

/// A record that we could not seal: the caller's order of calls is wrong, or the keys are used up.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SealError {
    /// More content than one record carries.
    #[error("{0} bytes of content do not fit a record of at most {CONTENT_MAX}")]
    ContentTooLong(usize),
    /// Too little memory around the content.
    #[error("a record of {need} bytes does not fit {have} bytes of memory")]
    NoRoom {
        /// Header, content, content type and tag.
        need: usize,
        /// The memory given.
        have: usize,
    },
    /// The peer asked for our key update, and has to get it before further data.
    #[error("the peer waits for a key update: send it before further data")]
    KeyUpdateOwed,
    /// The key sealed as many records as it safely may.
    #[error("the key has sealed {0} records, as many as it may: a key update is overdue")]
    KeyExhausted(u64),
    /// We sent `close_notify` or an alert.
    #[error("nothing can be sealed after our close_notify or alert")]
    Closed,
    /// The cipher itself refused.
    #[error("the cipher refused to seal the record")]
    Cipher,
    /// The next keys could not be made.
    #[error(transparent)]
    Keys(#[from] TrafficKeyError),
}

/// Traffic secrets that cannot be used.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TrafficKeyError {
    /// Neither AES-128-GCM, AES-256-GCM nor ChaCha20-Poly1305 of TLS 1.3.
    #[error("the handshake agreed on a cipher that the record layer does not know")]
    UnknownCipher,
    /// A key or an IV of a length that the cipher does not have.
    #[error("traffic secrets of the wrong length for their cipher")]
    WrongLength,
    /// rustls could not derive the next ones.
    #[error("deriving the next traffic secrets failed: {0}")]
    Schedule(rustls::Error),
    /// The process that made the handshake is gone, and with it what they are derived from.
    #[error("the keys were another process's, and nobody can derive those that follow")]
    Inherited,
}
