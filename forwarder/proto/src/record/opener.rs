//! The receiving direction.

use std::fmt;
use std::ops::Range;

use rustls::ContentType;

use super::key::{Secrets, TrafficKey};
use super::{HEADROOM, RecordError, TAILROOM, TrafficKeyError};
use crate::limits::RECORD_ACCEPTED_MAX;

/// How many records in a row may carry no application data: key updates, tickets, empty records.
/// BoringSSL and rustls allow a peer as many. Each costs us an opening, and a key update two
/// derivations; a peer of ours never sends two in a row.
const RECORDS_WITHOUT_DATA_MAX: u32 = 32;

/// What the header of every sealed record claims (RFC 8446 §5.2).
const LEGACY_VERSION: [u8; 2] = [3, 3];

/// The length of the first record in `bytes`; see [`Opener::record_len`].
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    // As early as its byte is there: what does not speak TLS may never send a fifth one.
    if let Some(&first) = bytes.first()
        && ContentType::from(first) != ContentType::ApplicationData
    {
        return Err(RecordError::UnexpectedRecord(ContentType::from(first)));
    }
    let Some((&[_, major, minor, high, low], _)) = bytes.split_first_chunk::<HEADROOM>() else {
        return Ok(None);
    };
    if [major, minor] != LEGACY_VERSION {
        return Err(RecordError::Version(u16::from_be_bytes([major, minor])));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len < TAILROOM {
        return Err(RecordError::TooShort(len));
    }
    if HEADROOM + len > RECORD_ACCEPTED_MAX {
        return Err(RecordError::TooLong(len));
    }
    Ok(Some(HEADROOM + len))
}

/// Opens what the peer sealed, in the order in which it was sealed.
pub struct Opener {
    key: TrafficKey,
    sequence: u64,
    generation: u64,
    records_without_data: u32,
    closed: bool,
}

impl Opener {
    pub(super) fn new((sequence, secret): Secrets) -> Result<Self, TrafficKeyError> {
        let key = TrafficKey::new(secret)?;
        Ok(Self { key, sequence, generation: 0, records_without_data: 0, closed: false })
    }

    /// Whether more may come.
    pub(super) fn is_passable(&self) -> bool {
        !self.closed
    }

    /// The number of the next record, and the key's secret.
    pub(super) fn leave(&self) -> Secrets {
        (self.sequence, self.key.secret().clone())
    }

    /// The length of the first record in `bytes`, header included, or `None` until its header is
    /// whole. The record itself may still be incomplete.
    pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        record_len(bytes)
    }

    /// Opens exactly one record in place; says what it holds and where. Padding is left out.
    ///
    /// After an error the memory is spoilt and the carrier is to be closed.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), RecordError> {
        if self.closed {
            return Err(RecordError::Closed);
        }
        let Some(next) = self.sequence.checked_add(1) else {
            return Err(RecordError::SequenceExhausted);
        };
        let (content_type, content) = self.key.open(self.sequence, record)?;
        self.sequence = next;
        match (content_type, content.is_empty()) {
            (ContentType::ApplicationData, false) => self.records_without_data = 0,
            (ContentType::ApplicationData, true)
            | (ContentType::Handshake | ContentType::Alert, false) => {
                self.records_without_data += 1;
            }
            (ContentType::Handshake | ContentType::Alert, true) => {
                return Err(RecordError::Empty(content_type));
            }
            _ => return Err(RecordError::UnexpectedContent(content_type)),
        }
        if self.records_without_data > RECORDS_WITHOUT_DATA_MAX {
            return Err(RecordError::TooManyWithoutData(self.records_without_data));
        }
        Ok((content_type, content))
    }

    /// How many records were opened under the present key.
    pub fn opened(&self) -> u64 {
        self.sequence
    }

    /// How many key updates of the peer came before the present key.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn rekey(&mut self, (sequence, secret): Secrets) -> Result<(), TrafficKeyError> {
        self.key = TrafficKey::new(secret)?;
        self.sequence = sequence;
        self.generation += 1;
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("sequence", &self.sequence)
            .field("generation", &self.generation)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
