//! Single messages over a finished handshake, for what is too short to be a tunnel: each fits in
//! one record.
//!
//! The order of calls: [`Messages::seal`] gives what is to be sent; [`Messages::handle_bytes`]
//! takes what was received until it gives a message.

use adit_proto::id::Side;
use adit_proto::record::{
    ContentType, HEADROOM, Opened, Opener, RecordError, RecordLayer, SealError, TAILROOM,
};

use super::HandshakeError;

/// The longest message.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// One end of an exchange of messages.
#[derive(Debug)]
pub struct Messages {
    records: RecordLayer,
    side: Side,
    unread: Vec<u8>,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The other end gave up, and says why.
    #[error(transparent)]
    Refused(HandshakeError),
    /// The other end closed instead of answering.
    #[error("the other end closed the connection without a word")]
    Closed,
    /// More than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes: {MESSAGE_BYTES_MAX} are the most")]
    TooLong(usize),
    /// The record is none, or was tampered with.
    #[error("a broken record: {0}")]
    Record(#[from] RecordError),
    /// Our own end.
    #[error("cannot seal: {0}")]
    Seal(#[from] SealError),
}

impl Messages {
    /// Takes over from a handshake: its `records` and its `leftover`.
    pub fn new(side: Side, records: RecordLayer, leftover: Vec<u8>) -> Self {
        Self { records, side, unread: leftover }
    }

    /// The record that carries `message`.
    ///
    /// # Errors
    /// When the message is too long.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, MessageError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong(message.len()));
        }
        let mut record = [&[0; HEADROOM], message, &[0; TAILROOM]].concat();
        let content = ContentType::ApplicationData;
        let len = self.records.sealer.seal(content, &mut record, message.len())?;
        record.truncate(len);
        Ok(record)
    }

    /// Takes what was received; gives the next message once it is whole. Without bytes it gives
    /// what came with the handshake.
    ///
    /// # Errors
    /// When what was received is no message. Nothing more can be received then.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, MessageError> {
        self.unread.extend_from_slice(bytes);
        while let Some(len) = Opener::record_len(&self.unread)? {
            let content_len = len.saturating_sub(HEADROOM + TAILROOM);
            if content_len > MESSAGE_BYTES_MAX {
                return Err(MessageError::TooLong(content_len));
            }
            if self.unread.len() < len {
                return Ok(None);
            }
            let mut record: Vec<u8> = self.unread.drain(..len).collect();
            match self.records.open(&mut record)? {
                Opened::Data(range) if range.is_empty() => {}
                Opened::Data(range) => {
                    return Ok(Some(record.get(range).unwrap_or_default().to_vec()));
                }
                Opened::KeyUpdated | Opened::Ignored => {}
                Opened::CloseNotify => return Err(MessageError::Closed),
                Opened::Alert(alert) => {
                    let error = HandshakeError::from_alert(alert, self.side);
                    return Err(MessageError::Refused(error));
                }
            }
        }
        Ok(None)
    }
}
