//! Any bytes are split into records or refused, opening them never panics, and a record that we
//! sealed opens to what was put in, wherever the fuzzer's payload takes it.
#![no_main]

use adit_proto::limits::{CONTENT_MAX, RECORD_HEADER, RECORD_TRAILER};
use adit_proto::record::{ContentType, KeySchedule, Opened, Opener, RecordLayer};
use libfuzzer_sys::fuzz_target;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

struct NoUpdate;

impl KeySchedule for NoUpdate {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        Err(Error::HandshakeNotComplete)
    }
    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        Err(Error::HandshakeNotComplete)
    }
}

fn layer() -> RecordLayer {
    let secret = || ConnectionTrafficSecrets::Aes256Gcm {
        key: AeadKey::from([3; 32]),
        iv: Iv::from([4; 12]),
    };
    let secrets = ExtractedSecrets { tx: (0, secret()), rx: (0, secret()) };
    RecordLayer::new(secrets, 1 << 24, Box::new(NoUpdate)).expect("the secrets are well formed")
}

fuzz_target!(|bytes: &[u8]| {
    let mut hostile = layer();
    let mut rest = bytes.to_vec();
    while let Ok(Some(len)) = Opener::record_len(&rest) {
        let Some(record) = rest.get_mut(..len) else { break };
        hostile.open(record).ok();
        rest.drain(..len);
    }

    let mut layer = layer();
    let content = &bytes[..bytes.len().min(CONTENT_MAX)];
    let mut record = vec![0; RECORD_HEADER + content.len() + RECORD_TRAILER];
    record[RECORD_HEADER..RECORD_HEADER + content.len()].copy_from_slice(content);
    let len = layer.sealer.seal(ContentType::ApplicationData, &mut record, content.len());
    assert_eq!(len, Ok(record.len()));
    // The same record with one bit turned over does not open.
    let mut altered = record.clone();
    let at = bytes.first().map_or(0, |b| usize::from(*b)) % altered.len();
    altered[at] ^= 1;
    let mut other = self::layer();
    assert!(other.open(&mut altered).is_err());
    assert_eq!(layer.open(&mut record), Ok(Opened::Data(RECORD_HEADER..RECORD_HEADER + content.len())));
});
