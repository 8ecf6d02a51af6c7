//! One direction's traffic key: what seals and opens, given a sequence number.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    Tag, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use rustls::kernel::KernelConnection;
use rustls::{ConnectionTrafficSecrets, ContentType};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::opener::record_len;
use super::{CONTENT_MAX, HEADROOM, RecordError, TrafficKeyError};

/// A sequence number to start with, and what the key for it is made from.
pub(super) type Secrets = (u64, KeySecret);

/// Where the keys after the present ones come from.
pub trait KeySchedule: Send {
    /// The next secrets for what we send.
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
    /// The next secrets for what we receive.
    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
}

impl<Data: Send> KeySchedule for KernelConnection<Data> {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_tx_secret()
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_rx_secret()
    }
}

/// An AEAD key and the IV that every nonce is made from.
pub(super) struct TrafficKey {
    aead: LessSafeKey,
    secret: KeySecret,
}

/// What a key is made from.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KeySecret {
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
    iv: [u8; NONCE_LEN],
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Cipher {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl KeySecret {
    /// The secrets of a handshake, or of those that follow, with the number of the first record.
    pub(super) fn of(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Secrets, TrafficKeyError> {
        let (cipher, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::Chacha20Poly1305, key, iv)
            }
            _ => return Err(TrafficKeyError::UnknownCipher),
        };
        let Ok(iv) = iv.as_ref().try_into() else {
            return Err(TrafficKeyError::WrongLength);
        };
        Ok((sequence, Self { cipher, key: Zeroizing::new(key.as_ref().to_vec()), iv }))
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySecret").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

impl TrafficKey {
    pub(super) fn new(secret: KeySecret) -> Result<Self, TrafficKeyError> {
        let key = UnboundKey::new(secret.cipher.algorithm(), &secret.key)
            .map_err(|Unspecified| TrafficKeyError::WrongLength)?;
        Ok(Self { aead: LessSafeKey::new(key), secret })
    }

    /// What it was made from.
    pub(super) fn secret(&self) -> &KeySecret {
        &self.secret
    }

    /// RFC 8446 §5.3: the sequence number, as long as the IV, XORed with it.
    fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = self.secret.iv;
        let low = nonce.iter_mut().skip(NONCE_LEN - size_of::<u64>());
        for (byte, sequence) in low.zip(sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    pub(super) fn seal(
        &self,
        sequence: u64,
        header: [u8; HEADROOM],
        inner: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        self.aead.seal_in_place_separate_tag(self.nonce(sequence), Aad::from(header), inner)
    }

    /// Opens exactly one record in place; says what it holds and where.
    pub(super) fn open(
        &self,
        sequence: u64,
        record: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), RecordError> {
        let (expected, have) = (record_len(record)?, record.len());
        let not_one_record = RecordError::NotOneRecord { expected, have };
        if expected != Some(have) {
            return Err(not_one_record);
        }
        let Some((header, body)) = record.split_first_chunk_mut::<HEADROOM>() else {
            return Err(not_one_record);
        };
        let inner = self
            .aead
            .open_in_place(self.nonce(sequence), Aad::from(*header), body)
            .map_err(|Unspecified| RecordError::Forged)?;
        if inner.len() > CONTENT_MAX + 1 {
            return Err(RecordError::ContentTooLong(inner.len()));
        }
        // The content type is the last byte that is not padding (RFC 8446 §5.4).
        let Some((len, content_type)) = inner.iter().enumerate().rfind(|(_, byte)| **byte != 0)
        else {
            return Err(RecordError::NoContentType);
        };
        Ok((ContentType::from(*content_type), HEADROOM..HEADROOM + len))
    }
}

/// The key that sealed a record of ours, kept as long as the record is: after the loss of a
/// carrier the record is opened with it and sealed again under the next carrier's key.
#[derive(Clone)]
pub struct SealedBy {
    pub(super) key: Arc<TrafficKey>,
    pub(super) generation: u64,
}

impl SealedBy {
    /// How many key updates of its carrier came before this key.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Opens in place the record that this key sealed as number `sequence`; says what it holds
    /// and where.
    ///
    /// After an error the memory is spoilt.
    pub fn reopen(
        &self,
        sequence: u64,
        record: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), RecordError> {
        self.key.open(sequence, record)
    }
}

impl fmt::Debug for SealedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBy").field("generation", &self.generation).finish_non_exhaustive()
    }
}
