//! The sending direction.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use rustls::ContentType;

use super::key::{SealedBy, Secrets, TrafficKey};
use super::{CONTENT_MAX, HEADROOM, SealError, TAILROOM, TrafficKeyError};

/// Records of a key that data may not take: a key update and the alert after a failed one.
const RECORDS_RESERVED: u64 = 2;

/// Seals what we send.
pub struct Sealer {
    key: SealedBy,
    sequence: u64,
    records_max: u64,
    update_owed: bool,
    closed: bool,
}

impl Sealer {
    pub(super) fn new(
        (sequence, secret): Secrets,
        records_max: u64,
    ) -> Result<Self, TrafficKeyError> {
        let key = SealedBy { key: Arc::new(TrafficKey::new(secret)?), generation: 0 };
        Ok(Self { key, sequence, records_max, update_owed: false, closed: false })
    }

    /// Whether data may be sent.
    pub(super) fn is_passable(&self) -> bool {
        !self.closed && !self.update_owed
    }

    /// The number of the next record and the key's secret, and how many records the key may seal.
    pub(super) fn leave(&self) -> (Secrets, u64) {
        ((self.sequence, self.key.key.secret().clone()), self.records_max)
    }

    /// Seals one record in place and returns its length, `content_len` + 22.
    ///
    /// `record` begins with [`HEADROOM`] free bytes; `content_len` bytes of content and
    /// [`TAILROOM`] free bytes follow. The record's sequence number is what [`Sealer::sealed`]
    /// said before.
    pub fn seal(
        &mut self,
        content_type: ContentType,
        record: &mut [u8],
        content_len: usize,
    ) -> Result<usize, SealError> {
        self.permit(content_type)?;
        if content_len > CONTENT_MAX {
            return Err(SealError::ContentTooLong(content_len));
        }
        let (need, have) = (HEADROOM + content_len + TAILROOM, record.len());
        let no_room = SealError::NoRoom { need, have };
        let Ok(body_len) = u16::try_from(content_len + TAILROOM) else {
            return Err(SealError::ContentTooLong(content_len));
        };
        let Some((header, body)) =
            record.get_mut(..need).and_then(|record| record.split_first_chunk_mut::<HEADROOM>())
        else {
            return Err(no_room);
        };
        let Some((inner, tag_room)) = body.split_at_mut_checked(content_len + 1) else {
            return Err(no_room);
        };
        let Some(type_room) = inner.last_mut() else { return Err(no_room) };
        *type_room = content_type.into();
        let [high, low] = body_len.to_be_bytes();
        *header = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let tag = self
            .key
            .key
            .seal(self.sequence, *header, inner)
            .map_err(|Unspecified| SealError::Cipher)?;
        tag_room.copy_from_slice(tag.as_ref());
        self.sequence += 1;
        Ok(need)
    }

    fn permit(&self, content_type: ContentType) -> Result<(), SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        let data = content_type == ContentType::ApplicationData;
        if data && self.update_owed {
            return Err(SealError::KeyUpdateOwed);
        }
        let reserved = if data { RECORDS_RESERVED } else { 0 };
        if self.sequence >= self.records_max.saturating_sub(reserved) {
            return Err(SealError::KeyExhausted(self.sequence));
        }
        Ok(())
    }

    /// How many records the present key has sealed, and so the next record's sequence number.
    pub fn sealed(&self) -> u64 {
        self.sequence
    }

    /// How many key updates of ours came before the present key.
    pub fn generation(&self) -> u64 {
        self.key.generation
    }

    /// The present key, to [reopen](SealedBy::reopen) later what it seals now.
    pub fn sealed_by(&self) -> SealedBy {
        self.key.clone()
    }

    /// Whether the present key has sealed half of what it safely may: for AES-GCM 2^23 records,
    /// 128 GiB of full ones. The other half is time enough to send the update.
    pub fn needs_key_update(&self) -> bool {
        self.sequence >= self.records_max / 2
    }

    /// Bounds the records under one key more tightly than the cipher does.
    pub fn limit_records(&mut self, records_max: u64) {
        self.records_max = self.records_max.min(records_max);
    }

    /// Whether the peer asked for a key update that it has not got yet.
    pub fn owes_key_update(&self) -> bool {
        self.update_owed
    }

    pub(super) fn owe_key_update(&mut self) {
        self.update_owed = true;
    }

    pub(super) fn rekey(&mut self, (sequence, secret): Secrets) -> Result<(), TrafficKeyError> {
        let generation = self.key.generation + 1;
        self.key = SealedBy { key: Arc::new(TrafficKey::new(secret)?), generation };
        self.sequence = sequence;
        self.update_owed = false;
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("sequence", &self.sequence)
            .field("generation", &self.key.generation)
            .field("records_max", &self.records_max)
            .field("update_owed", &self.update_owed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
