//! Record layers that need no handshake, and chunks as a collector hands them over.

use adit_proto::flow::Chunk;
use adit_proto::id::Time;
use adit_proto::limits::{GATHERED_MAX, RECORD_TRAILER, SLOT_HEADROOM};
use adit_proto::record::{KeySchedule, RecordLayer};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// The keys of one carrier, in each direction one after the other.
struct Keys {
    tx: u32,
    rx: u32,
    updates: (u32, u32),
}

impl KeySchedule for Keys {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.updates.0 += 1;
        Ok((0, secrets(self.tx, self.updates.0)))
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.updates.1 += 1;
        Ok((0, secrets(self.rx, self.updates.1)))
    }
}

fn secrets(number: u32, updates: u32) -> ConnectionTrafficSecrets {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..8].copy_from_slice(&updates.to_be_bytes());
    ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from(key), iv: Iv::from([7; 12]) }
}

/// A record layer whose keys have the numbers `tx` and `rx`.
pub(crate) fn records(tx: u32, rx: u32) -> RecordLayer {
    let first = ExtractedSecrets { tx: (0, secrets(tx, 0)), rx: (0, secrets(rx, 0)) };
    RecordLayer::new(first, 1 << 24, Box::new(Keys { tx, rx, updates: (0, 0) })).unwrap()
}

/// What was read from a flow's socket: long payloads lie in a slot, with room around them.
pub(crate) fn chunk(bytes: &[u8]) -> Chunk<Box<[u8]>> {
    let at = Time::default();
    if bytes.len() <= GATHERED_MAX {
        return Chunk { memory: bytes.into(), payload: 0..bytes.len(), at };
    }
    let mut memory = vec![0; SLOT_HEADROOM + bytes.len() + RECORD_TRAILER];
    let payload = SLOT_HEADROOM..SLOT_HEADROOM + bytes.len();
    memory[payload.clone()].copy_from_slice(bytes);
    Chunk { memory: memory.into(), payload, at }
}
