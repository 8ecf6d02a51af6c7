//! Carriers without a handshake, for tests that need thousands: both ends know the keys.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use adit::handoff::Carrier;
use adit_proto::frame::{Frame, Hello};
use adit_proto::record::{KeySchedule, RecordLayer};
use adit_proto::session::seal_greeting;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

/// More records than such a carrier ever sees.
const RECORDS_MAX: u64 = 1 << 24;

/// No carrier here lives long enough to change its keys.
struct NeverUpdated;

impl KeySchedule for NeverUpdated {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        Err(Error::General("these keys have no successors".to_owned()))
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        self.update_tx()
    }
}

fn records(tx: u8, rx: u8) -> RecordLayer {
    let secrets = |key| {
        let (key, iv) = (AeadKey::from([key; 32]), Iv::from([7; 12]));
        (0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
    };
    let first = ExtractedSecrets { tx: secrets(tx), rx: secrets(rx) };
    RecordLayer::new(first, RECORDS_MAX, Box::new(NeverUpdated)).unwrap()
}

/// A carrier of the relay's on which `hello` has been said, and the other end to keep it open.
pub(crate) fn said(hello: Hello) -> (Carrier, UnixStream) {
    let (mut stream, for_relay) = UnixStream::pair().unwrap();
    let record = seal_greeting(&Frame::Hello(hello), &mut records(1, 2).sealer).unwrap();
    stream.write_all(&record).unwrap();
    let carrier = Carrier {
        stream: OwnedFd::from(for_relay),
        records: records(2, 1),
        leftover: Vec::new(),
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        peer: [1; 32].into(),
    };
    (carrier, stream)
}
