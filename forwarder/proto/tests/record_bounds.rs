//! What a peer that holds the keys, or none, may send: everything that is not allowed is a typed
//! error, and nothing is a panic.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::cell::RefCell;

use adit_proto::limits::RECORD_ACCEPTED_MAX;
use adit_proto::record::{
    AlertDescription, CONTENT_MAX, ContentType, HEADROOM, HandshakeType, KeySchedule, Opened,
    Opener, RecordError, RecordLayer, SealError, TAILROOM,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// A key that both ends count up.
struct Counter {
    tx: u8,
    rx: u8,
}

impl KeySchedule for Counter {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.tx += 1;
        Ok((0, secrets(self.tx)))
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.rx += 1;
        Ok((0, secrets(self.rx)))
    }
}

fn secrets(byte: u8) -> ConnectionTrafficSecrets {
    let (key, iv) = (AeadKey::from([byte; 32]), Iv::from([byte; 12]));
    ConnectionTrafficSecrets::Aes256Gcm { key, iv }
}

fn layer(tx: u8, rx: u8) -> RecordLayer {
    let extracted = ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) };
    RecordLayer::new(extracted, 1 << 24, Box::new(Counter { tx, rx })).unwrap()
}

/// A peer that may seal whatever it likes, and us.
fn peer_and_us() -> (RecordLayer, RecordLayer) {
    (layer(0, 100), layer(100, 0))
}

fn sealed(peer: &mut RecordLayer, content_type: ContentType, content: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADROOM], content, &[0; TAILROOM]].concat();
    peer.sealer.seal(content_type, &mut record, content.len()).unwrap();
    record
}

/// What we make of `content` from an authenticated peer.
fn verdict(content_type: ContentType, content: &[u8]) -> Result<Opened, RecordError> {
    let (mut peer, mut us) = peer_and_us();
    us.open(&mut sealed(&mut peer, content_type, content))
}

/// The header alone decides, as early as it can.
#[test]
fn headers_are_judged_byte_by_byte() {
    assert_eq!(Opener::record_len(&[]), Ok(None));
    assert_eq!(Opener::record_len(&[23]), Ok(None));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0, 17]), Ok(Some(22)));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0, 17, 0, 0]), Ok(Some(22)));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0, 16]), Err(RecordError::TooShort(16)));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0x41, 0]), Ok(Some(RECORD_ACCEPTED_MAX)));
    assert_eq!(Opener::record_len(&[23, 3, 3, 0x41, 1]), Err(RecordError::TooLong(16_641)));
    assert_eq!(Opener::record_len(&[23, 3, 1, 0, 17]), Err(RecordError::Version(0x0301)));
    let alien = RecordError::UnexpectedRecord(ContentType::from(b'G'));
    assert_eq!(Opener::record_len(b"GET / HTTP/1.1\r\n"), Err(alien.clone()));
    assert_eq!(Opener::record_len(b"G"), Err(alien));
}

/// After the handshake nothing comes unsealed, `change_cipher_spec` and alerts included.
#[test]
fn unsealed_records_are_refused() {
    for content_type in [ContentType::ChangeCipherSpec, ContentType::Alert, ContentType::Handshake]
    {
        let (_, mut us) = peer_and_us();
        let mut record = [content_type.into(), 3, 3, 0, 1, 1];
        let refused = us.open(&mut record).unwrap_err();
        assert_eq!(refused, RecordError::UnexpectedRecord(content_type));
        assert_eq!(refused.alert(), AlertDescription::UnexpectedMessage);
    }
}

/// A record that is cut short, or has bytes behind it, is not opened.
#[test]
fn only_exactly_one_record_is_opened() {
    let (mut peer, mut us) = peer_and_us();
    let record = sealed(&mut peer, ContentType::ApplicationData, b"whole");
    for len in 0..record.len() {
        let refused = us.open(&mut record[..len].to_vec()).unwrap_err();
        assert!(matches!(refused, RecordError::NotOneRecord { have, .. } if have == len));
    }
    let mut longer = [&record[..], &[0]].concat();
    assert!(matches!(us.open(&mut longer), Err(RecordError::NotOneRecord { .. })));
    assert_eq!(us.open(&mut record.clone()), Ok(Opened::Data(5..10)));
}

/// Content types that have no place in a sealed record.
#[test]
fn content_of_other_types_is_refused() {
    for content_type in [ContentType::ChangeCipherSpec, ContentType::Heartbeat, 99.into()] {
        let refused = verdict(content_type, b"\x01");
        assert_eq!(refused, Err(RecordError::UnexpectedContent(content_type)));
    }
    assert_eq!(verdict(ContentType::from(0), &[0; 50]), Err(RecordError::NoContentType));
    assert_eq!(verdict(ContentType::from(0), &[]), Err(RecordError::NoContentType));
    for content_type in [ContentType::Handshake, ContentType::Alert] {
        assert_eq!(verdict(content_type, &[]), Err(RecordError::Empty(content_type)));
    }
}

/// Alerts are two bytes; of all descriptions only two are no end in disgrace.
#[test]
fn alerts_are_told_apart() {
    for malformed in [&[2][..], &[2, 40, 0]] {
        let refused = verdict(ContentType::Alert, malformed);
        assert_eq!(refused, Err(RecordError::MalformedAlert(malformed.len())));
    }
    assert_eq!(verdict(ContentType::Alert, &[1, 0]), Ok(Opened::CloseNotify));
    assert_eq!(verdict(ContentType::Alert, &[1, 90]), Ok(Opened::Ignored));
    // The level is ignored.
    for level in [1, 2, 77] {
        let alert = Opened::Alert(AlertDescription::AccessDenied);
        assert_eq!(verdict(ContentType::Alert, &[level, 49]), Ok(alert));
    }
    let unknown = Opened::Alert(AlertDescription::from(200));
    assert_eq!(verdict(ContentType::Alert, &[2, 200]), Ok(unknown));
}

/// Handshake messages: tickets and key updates, whole, the key update last.
#[test]
fn handshake_messages_are_told_apart() {
    let handshake = |content: &[u8]| verdict(ContentType::Handshake, content);
    let ticket = [4, 0, 0, 2, 9, 9];
    assert_eq!(handshake(&ticket), Ok(Opened::Ignored));
    assert_eq!(handshake(&ticket.repeat(3)), Ok(Opened::Ignored));
    assert_eq!(handshake(&ticket[..5]), Err(RecordError::FragmentedHandshake));
    assert_eq!(handshake(&[24, 0, 0]), Err(RecordError::FragmentedHandshake));
    assert_eq!(handshake(&[4, 255, 255, 255]), Err(RecordError::FragmentedHandshake));
    assert_eq!(handshake(&[24, 0, 0, 1, 0]), Ok(Opened::KeyUpdated));
    assert_eq!(handshake(&[24, 0, 0, 1, 2]), Err(RecordError::MalformedKeyUpdate));
    assert_eq!(handshake(&[24, 0, 0, 0]), Err(RecordError::MalformedKeyUpdate));
    assert_eq!(handshake(&[24, 0, 0, 2, 0, 0]), Err(RecordError::MalformedKeyUpdate));
    let followed = [24, 0, 0, 1, 0].repeat(2);
    assert_eq!(handshake(&followed), Err(RecordError::KeyUpdateNotLast));
    let hello = RecordError::UnexpectedHandshake(HandshakeType::ClientHello);
    assert_eq!(handshake(&[1, 0, 0, 0]), Err(hello));
}

/// A peer cannot keep us busy with records that carry nothing.
#[test]
fn records_without_data_are_bounded() {
    let nothing: [(ContentType, &[u8]); 4] = [
        (ContentType::ApplicationData, &[]),
        (ContentType::Handshake, &[4, 0, 0, 0]),
        (ContentType::Handshake, &[24, 0, 0, 1, 1]),
        (ContentType::Alert, &[1, 90]),
    ];
    for (content_type, content) in nothing {
        let (mut peer, mut us) = peer_and_us();
        let mut step = |peer: &mut RecordLayer, data: bool| {
            let mut record = if data {
                sealed(peer, ContentType::ApplicationData, b"data")
            } else if content == [24, 0, 0, 1, 1] {
                let mut out = vec![0; 64];
                let len = peer.key_update(true, &mut out).unwrap();
                out[..len].to_vec()
            } else {
                sealed(peer, content_type, content)
            };
            us.open(&mut record)
        };
        for _ in 0..32 {
            step(&mut peer, false).unwrap();
        }
        step(&mut peer, true).unwrap();
        for _ in 0..32 {
            step(&mut peer, false).unwrap();
        }
        assert_eq!(step(&mut peer, false), Err(RecordError::TooManyWithoutData(33)));
    }
}

/// What does not fit is refused before anything is written or counted.
#[test]
fn sealing_checks_its_room() {
    let (mut peer, mut us) = peer_and_us();
    let mut large = vec![0; 2 * CONTENT_MAX];
    let data = ContentType::ApplicationData;
    let too_long = peer.sealer.seal(data, &mut large, CONTENT_MAX + 1);
    assert_eq!(too_long, Err(SealError::ContentTooLong(CONTENT_MAX + 1)));
    let no_room = peer.sealer.seal(data, &mut large[..26], 5);
    assert_eq!(no_room, Err(SealError::NoRoom { need: 27, have: 26 }));
    assert!(matches!(peer.sealer.seal(data, &mut [], 0), Err(SealError::NoRoom { .. })));
    assert!(matches!(peer.close_notify(&mut [0; 6]), Err(SealError::NoRoom { .. })));
    assert!(matches!(peer.key_update(false, &mut [0; 26]), Err(SealError::NoRoom { .. })));
    assert_eq!((peer.sealer.sealed(), peer.sealer.generation()), (0, 0));
    let len = peer.sealer.seal(data, &mut large, CONTENT_MAX).unwrap();
    assert_eq!(us.open(&mut large[..len]), Ok(Opened::Data(5..5 + CONTENT_MAX)));
}

/// Random bytes, with and without a plausible header, are errors and never a panic.
#[test]
fn random_bytes_never_open() {
    let us = RefCell::new(layer(1, 2));
    let plausible = (proptest::collection::vec(any::<u8>(), 17..400), any::<bool>()).prop_map(
        |(body, exact)| {
            let len = u16::try_from(body.len()).unwrap() + u16::from(!exact);
            let [high, low] = len.to_be_bytes();
            [&[23, 3, 3, high, low], &body[..]].concat()
        },
    );
    let strategy = prop_oneof![proptest::collection::vec(any::<u8>(), 0..400), plausible];
    TestRunner::new(Config::with_cases(2_000))
        .run(&strategy, |mut bytes| {
            if let Ok(Some(len)) = Opener::record_len(&bytes) {
                prop_assert!((HEADROOM + TAILROOM..=RECORD_ACCEPTED_MAX).contains(&len));
            }
            prop_assert!(us.borrow_mut().open(&mut bytes).is_err());
            Ok(())
        })
        .unwrap();
}

/// Whatever an authenticated peer seals, opening it never panics, and data stays in its record.
#[test]
fn random_content_never_panics() {
    let types = prop_oneof![Just(20), Just(21), Just(22), Just(23), any::<u8>()];
    let first = prop_oneof![Just(4), Just(24), any::<u8>()];
    let content = (first, proptest::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..60))
        .prop_map(|(first, rest)| [&[first], &rest[..]].concat());
    TestRunner::new(Config::with_cases(2_000))
        .run(&(types, content), |(content_type, content)| {
            let (mut peer, mut us) = peer_and_us();
            let mut record = sealed(&mut peer, content_type.into(), &content);
            if let Ok(Opened::Data(range)) = us.open(&mut record) {
                // Type 0 makes the end of the content padding.
                prop_assert!(content.starts_with(&record[range]));
            }
            Ok(())
        })
        .unwrap();
}
