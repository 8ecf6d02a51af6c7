//! Record layers that need no handshake, and chunks as a collector hands them over.

use adit_proto::flow::Chunk;
use adit_proto::limits::{GATHERED_MAX, RECORD_TRAILER, SLOT_HEADROOM};
use adit_proto::record::{KeySchedule, RecordLayer};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// The tests never come near a key's limit.
struct NoUpdate;

impl KeySchedule for NoUpdate {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }
    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }
}

/// A record layer whose keys have the numbers `tx` and `rx`.
pub(crate) fn records(tx: u32, rx: u32) -> RecordLayer {
    let secrets = |number: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from(key), iv: Iv::from([7; 12]) }
    };
    let secrets = ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) };
    RecordLayer::new(secrets, 1 << 24, Box::new(NoUpdate)).unwrap()
}

/// What was read from a flow's socket: long payloads lie in a slot, with room around them.
pub(crate) fn chunk(bytes: &[u8]) -> Chunk<Box<[u8]>> {
    if bytes.len() <= GATHERED_MAX {
        return Chunk { memory: bytes.into(), payload: 0..bytes.len() };
    }
    let mut memory = vec![0; SLOT_HEADROOM + bytes.len() + RECORD_TRAILER];
    let payload = SLOT_HEADROOM..SLOT_HEADROOM + bytes.len();
    memory[payload.clone()].copy_from_slice(bytes);
    Chunk { memory: memory.into(), payload }
}
