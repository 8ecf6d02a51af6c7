//! What seals and opens packets: a key per direction, replaced every 2^22 packets.

use std::fmt;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    Tag, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, HKDF_SHA256, KeyType, Prk};

use super::packet::PACKET_HEADER;
use crate::frame::{PathCipher, PathOffer};
use crate::id::Side;

const FIT: &str = "invariant: HKDF-SHA256 yields far more than a key, an IV or a secret";

/// The length of an IV, for HKDF.
struct IvLen;

impl KeyType for IvLen {
    fn len(&self) -> usize {
        NONCE_LEN
    }
}

/// An AEAD key and the IV that every nonce is made from.
struct Key {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl Key {
    fn new(secret: &Prk, algorithm: &'static Algorithm) -> Self {
        let key: UnboundKey = secret.expand(&[b"key"], algorithm).expect(FIT).into();
        let mut iv = [0; NONCE_LEN];
        secret.expand(&[b"iv"], IvLen).and_then(|okm| okm.fill(&mut iv)).expect(FIT);
        Self { aead: LessSafeKey::new(key), iv }
    }

    /// The counter, as long as the IV, XORed with it.
    fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = self.iv;
        let low = nonce.iter_mut().skip(NONCE_LEN - size_of::<u64>());
        for (byte, counter) in low.zip(counter.to_be_bytes()) {
            *byte ^= counter;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// One direction's secrets, each made from the one before.
struct Chain {
    algorithm: &'static Algorithm,
    /// The secret of the key after the one that was handed out last.
    secret: Prk,
    generation_bits: u32,
}

impl Chain {
    /// The chain for what `sender` sends.
    fn new(sender: Side, offer: &PathOffer, generation_bits: u32) -> Self {
        let algorithm: &'static Algorithm = match offer.cipher {
            PathCipher::Aes128Gcm => &AES_128_GCM,
            PathCipher::Aes256Gcm => &AES_256_GCM,
            PathCipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let label: &[u8] = match sender {
            Side::Forwarder => b"adit path forwarder",
            Side::Relay => b"adit path relay",
        };
        let secret = expand(&Prk::new_less_safe(HKDF_SHA256, &offer.secret), label);
        Self { algorithm, secret, generation_bits }
    }

    fn next(&mut self) -> Key {
        let key = Key::new(&self.secret, self.algorithm);
        self.secret = expand(&self.secret, b"next");
        key
    }

    fn generation(&self, counter: u64) -> u64 {
        counter >> self.generation_bits
    }
}

fn expand(secret: &Prk, label: &[u8]) -> Prk {
    let info = [label];
    let okm: hkdf::Okm<'_, hkdf::Algorithm> = secret.expand(&info, HKDF_SHA256).expect(FIT);
    okm.into()
}

/// What seals this end's packets.
pub(super) struct Sealing {
    chain: Chain,
    key: Key,
    generation: u64,
}

impl Sealing {
    pub(super) fn new(side: Side, offer: &PathOffer, generation_bits: u32) -> Self {
        let mut chain = Chain::new(side, offer, generation_bits);
        Self { key: chain.next(), chain, generation: 0 }
    }

    /// Seals `content` in place. Counters come in ascending order, each once.
    pub(super) fn seal(
        &mut self,
        counter: u64,
        header: [u8; PACKET_HEADER],
        content: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        while self.generation < self.chain.generation(counter) {
            self.key = self.chain.next();
            self.generation += 1;
        }
        let nonce = self.key.nonce(counter);
        self.key.aead.seal_in_place_separate_tag(nonce, Aad::from(header), content)
    }
}

/// What opens the other end's packets.
pub(super) struct Opening {
    chain: Chain,
    /// The generation that `current` is of; packets may overtake a change of keys.
    generation: u64,
    previous: Option<Key>,
    current: Key,
    /// Made ahead of its first packet, so that a forged one costs no derivation.
    next: Key,
}

impl Opening {
    /// `side` is this end: what opens is what the other end seals with.
    pub(super) fn new(side: Side, offer: &PathOffer, generation_bits: u32) -> Self {
        let mut chain = Chain::new(side.other(), offer, generation_bits);
        let (current, next) = (chain.next(), chain.next());
        Self { chain, generation: 0, previous: None, current, next }
    }

    /// Goes on where packets below `counter` were opened before.
    pub(super) fn skip_to(&mut self, counter: u64) {
        while self.generation < self.chain.generation(counter.saturating_sub(1)) {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let next = std::mem::replace(&mut self.next, self.chain.next());
        self.previous = Some(std::mem::replace(&mut self.current, next));
        self.generation += 1;
    }

    /// Opens content and tag in place; the content keeps its place. Any failure is one and the
    /// same.
    pub(super) fn open(
        &mut self,
        counter: u64,
        header: [u8; PACKET_HEADER],
        sealed: &mut [u8],
    ) -> Result<(), Unspecified> {
        let generation = self.chain.generation(counter);
        let key = if generation == self.generation {
            &self.current
        } else if generation == self.generation + 1 {
            &self.next
        } else if generation + 1 == self.generation {
            self.previous.as_ref().ok_or(Unspecified)?
        } else {
            return Err(Unspecified);
        };
        key.aead.open_in_place(key.nonce(counter), Aad::from(header), sealed)?;
        if generation > self.generation {
            self.advance();
        }
        Ok(())
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("generation", &self.generation).finish_non_exhaustive()
    }
}
