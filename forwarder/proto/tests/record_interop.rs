//! The record layer against rustls itself as the peer, byte for byte, as client and as server, in
//! all three cipher suites.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use adit_proto::record::{
    ALERT_LEN, AlertDescription, CONTENT_MAX, ContentType, KEY_UPDATE_LEN, Opened, RecordError,
    RecordLayer, SealError, TrafficKeyError,
};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};

#[path = "record_interop/pair.rs"]
mod pair;

use pair::{Got, Ours, Pair, laid_out};

const SUITES: [SupportedCipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

/// Runs `test` for each suite and with either end ours.
fn for_each_pair(test: impl Fn(Pair)) {
    for suite in SUITES {
        for ours in [Ours::Client, Ours::Server] {
            test(Pair::new(suite, ours));
        }
    }
}

/// A test pattern that tells every offset apart from its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// Writes our `KeyUpdate`.
fn key_update(ours: &mut RecordLayer, request: bool) -> Vec<u8> {
    let mut out = vec![0; KEY_UPDATE_LEN];
    let len = ours.key_update(request, &mut out).unwrap();
    assert_eq!(len, KEY_UPDATE_LEN);
    out
}

/// Data of every size class crosses unchanged in both directions.
#[test]
fn records_cross_byte_for_byte() {
    for_each_pair(|mut pair| {
        for len in [1, 2, 8, 1_000, CONTENT_MAX - 1, CONTENT_MAX] {
            let data = pattern(len);
            let record = pair.seal(ContentType::ApplicationData, &data);
            assert_eq!(record.len(), len + 22);
            pair.deliver(&record).unwrap();
            assert_eq!(pair.their_data(), data);
            let records = pair.their_records(&data);
            assert_eq!(pair.open(records), [Got::Data(data)]);
        }
    });
}

/// Several records in one delivery open in their order, at both ends.
#[test]
fn sequence_numbers_advance_with_every_record() {
    for_each_pair(|mut pair| {
        let records: Vec<_> =
            (0..5).map(|i| pair.seal(ContentType::ApplicationData, &[i; 32])).collect();
        assert_eq!(pair.ours.sealer.sealed(), 5);
        pair.deliver(&records.concat()).unwrap();
        assert_eq!(pair.their_data().len(), 5 * 32);
        let theirs: Vec<_> = (0..5).flat_map(|i| pair.their_records(&[i; 32])).collect();
        assert_eq!(pair.open(theirs).len(), 5);
        assert_eq!(pair.ours.opener.opened(), 5);
    });
}

/// Empty application data is allowed, and says nothing.
#[test]
fn empty_data_is_accepted_by_rustls() {
    for_each_pair(|mut pair| {
        let record = pair.seal(ContentType::ApplicationData, &[]);
        pair.deliver(&record).unwrap();
        assert_eq!(pair.their_data(), b"");
        pair.assert_talks();
    });
}

/// rustls changes its keys and asks us to: data waits until our answer is sent.
#[test]
fn key_update_that_rustls_asks_for_is_answered_before_further_data() {
    for_each_pair(|mut pair| {
        for generation in 1..=3 {
            pair.theirs.refresh_traffic_keys().unwrap();
            let records = pair.their_records(b"under the new key");
            let got = pair.open(records);
            let data = Got::Data(b"under the new key".to_vec());
            assert_eq!(got, [Got::Other(Opened::KeyUpdated), data]);
            assert!(pair.ours.key_update_due());

            let mut record = laid_out(b"too early");
            let refused = pair.ours.sealer.seal(ContentType::ApplicationData, &mut record, 9);
            assert_eq!(refused, Err(SealError::KeyUpdateOwed));

            let answer = key_update(&mut pair.ours, false);
            assert!(!pair.ours.key_update_due());
            pair.deliver(&answer).unwrap();
            assert_eq!(pair.ours.sealer.generation(), generation);
            assert_eq!(pair.ours.opener.generation(), generation);
            assert_eq!(pair.ours.sealer.sealed(), 0);
            pair.assert_talks();
        }
    });
}

/// We change our keys alone.
#[test]
fn key_update_of_ours_is_followed_by_rustls() {
    for_each_pair(|mut pair| {
        for _ in 0..3 {
            let update = key_update(&mut pair.ours, false);
            pair.deliver(&update).unwrap();
            pair.assert_talks();
        }
        assert_eq!(pair.ours.sealer.generation(), 3);
        assert_eq!(pair.ours.opener.generation(), 0);
    });
}

/// We change our keys and ask for the same: rustls answers, and wants no answer to that.
#[test]
fn key_update_that_we_ask_for_is_answered_by_rustls() {
    for_each_pair(|mut pair| {
        let update = key_update(&mut pair.ours, true);
        pair.deliver(&update).unwrap();
        let records = pair.their_records(b"answered");
        let data = Got::Data(b"answered".to_vec());
        assert_eq!(pair.open(records), [Got::Other(Opened::KeyUpdated), data]);
        assert!(!pair.ours.key_update_due());
        assert_eq!(pair.ours.opener.generation(), 1);
        pair.assert_talks();
    });
}

/// Our end goes over to another process, again and again: rustls sees nothing of it, until it wants other
/// keys, or we should have them.
#[test]
fn another_process_goes_on_with_the_same_keys() {
    let pass_on = |pair: &mut Pair| {
        let left = postcard::to_allocvec(&pair.ours.leave().unwrap()).unwrap();
        pair.ours = RecordLayer::take_over(postcard::from_bytes(&left).unwrap()).unwrap();
    };
    for_each_pair(|mut pair| {
        let update = key_update(&mut pair.ours, false);
        pair.deliver(&update).unwrap();
        for _ in 0..3 {
            pass_on(&mut pair);
            pair.assert_talks();
        }
        assert!(!pair.ours.is_used_up());
        pair.ours.sealer.limit_records(6);
        assert!(pair.ours.is_used_up());
        let mut out = [0; KEY_UPDATE_LEN];
        let refused = pair.ours.key_update(false, &mut out);
        assert_eq!(refused, Err(SealError::Keys(TrafficKeyError::Inherited)));
        pair.theirs.refresh_traffic_keys().unwrap();
        let mut update = pair.their_records(b"");
        let refused = pair.ours.open(&mut update);
        assert_eq!(refused, Err(RecordError::Keys(TrafficKeyError::Inherited)));
    });
}

/// Where a key update is owed, or the peer has said its last word, there is nothing to go on with.
#[test]
fn a_direction_that_has_to_end_is_not_passed_on() {
    for_each_pair(|mut pair| {
        pair.theirs.refresh_traffic_keys().unwrap();
        let records = pair.their_records(b"");
        pair.open(records);
        assert!(pair.ours.leave().is_none());
        key_update(&mut pair.ours, false);
        assert!(pair.ours.leave().is_some());
        pair.theirs.send_close_notify();
        let records = pair.their_records(b"");
        pair.open(records);
        assert!(pair.ours.leave().is_none());
    });
}

/// Long before a key is used up an update is due; a key that is used up seals no more data.
#[test]
fn key_update_is_due_at_half_of_what_a_key_may_seal() {
    for_each_pair(|mut pair| {
        pair.ours.sealer.limit_records(10);
        for sealed in 0..8 {
            assert_eq!(pair.ours.key_update_due(), sealed >= 5, "after {sealed} records");
            let record = pair.seal(ContentType::ApplicationData, b"data");
            pair.deliver(&record).unwrap();
        }
        let mut record = laid_out(b"data");
        let refused = pair.ours.sealer.seal(ContentType::ApplicationData, &mut record, 4);
        assert_eq!(refused, Err(SealError::KeyExhausted(8)));
        let update = key_update(&mut pair.ours, false);
        pair.deliver(&update).unwrap();
        assert!(!pair.ours.key_update_due());
        assert_eq!(pair.their_data().len(), 8 * 4);
        pair.assert_talks();
    });
}

/// `close_notify` ends one direction cleanly, from either end.
#[test]
fn close_notify_crosses_both_ways() {
    for_each_pair(|mut pair| {
        let mut out = [0; ALERT_LEN];
        assert_eq!(pair.ours.close_notify(&mut out), Ok(ALERT_LEN));
        pair.deliver(&out).unwrap();
        assert!(pair.theirs.process_new_packets().unwrap().peer_has_closed());
        let refused = pair.ours.sealer.seal(ContentType::ApplicationData, &mut laid_out(b"x"), 1);
        assert_eq!(refused, Err(SealError::Closed));

        pair.theirs.send_close_notify();
        let records = pair.their_records(&[]);
        assert_eq!(pair.open(records), [Got::Other(Opened::CloseNotify)]);
        let after = pair.ours.open(&mut [0; 64]);
        assert_eq!(after, Err(RecordError::Closed));
    });
}

/// Our alert reaches rustls with its description.
#[test]
fn alert_of_ours_is_understood_by_rustls() {
    for_each_pair(|mut pair| {
        let mut out = [0; ALERT_LEN];
        assert_eq!(pair.ours.alert(AlertDescription::AccessDenied, &mut out), Ok(ALERT_LEN));
        let error = pair.deliver(&out).unwrap_err();
        assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::AccessDenied));
    });
}

/// What rustls says about a record that it cannot open reaches us typed.
#[test]
fn alert_of_rustls_is_surfaced_typed() {
    for_each_pair(|mut pair| {
        let mut record = pair.seal(ContentType::ApplicationData, b"altered on its way");
        record[10] ^= 1;
        assert_eq!(pair.deliver(&record), Err(rustls::Error::DecryptError));
        let mut records = Vec::new();
        pair.theirs.write_tls(&mut records).unwrap();
        let alert = Opened::Alert(AlertDescription::BadRecordMac);
        assert_eq!(pair.open(records), [Got::Other(alert)]);
    });
}

/// Tickets that a rustls server sends after the handshake mean nothing to us.
#[test]
fn session_tickets_are_ignored() {
    for suite in SUITES {
        let mut pair = Pair::with_tickets(suite, Ours::Client, 3);
        let records = pair.their_records(b"after the tickets");
        let got = pair.open(records);
        let (data, tickets) = got.split_last().unwrap();
        assert!(!tickets.is_empty());
        assert!(tickets.iter().all(|got| *got == Got::Other(Opened::Ignored)));
        assert_eq!(*data, Got::Data(b"after the tickets".to_vec()));
        pair.assert_talks();
    }
}

/// Padding is left out by rustls and by us. Type 0 behind `data, 23, 0 …` makes a padded record.
#[test]
fn padding_is_stripped_at_both_ends() {
    for_each_pair(|mut pair| {
        for padding in [0, 1, 100, CONTENT_MAX - 8] {
            let mut content = b"padded\0".to_vec();
            content.push(ContentType::ApplicationData.into());
            content.resize(content.len() + padding, 0);
            let (sequence, key) = (pair.ours.sealer.sealed(), pair.ours.sealer.sealed_by());
            let mut record = pair.seal(ContentType::from(0), &content);
            pair.deliver(&record).unwrap();
            assert_eq!(pair.their_data(), b"padded\0");
            let (content_type, range) = key.reopen(sequence, &mut record).unwrap();
            assert_eq!(content_type, ContentType::ApplicationData);
            assert_eq!(&record[range], b"padded\0");
        }
    });
}

/// Records of ours can be opened again by the key that sealed them, whatever key we have now.
#[test]
fn sealed_records_are_reopened_across_key_updates() {
    for_each_pair(|mut pair| {
        let mut kept = Vec::new();
        for round in 0..6_u8 {
            let data = pattern(100 + usize::from(round));
            let (sequence, key) = (pair.ours.sealer.sealed(), pair.ours.sealer.sealed_by());
            assert_eq!(key.generation(), u64::from(round / 2));
            let record = pair.seal(ContentType::ApplicationData, &data);
            pair.deliver(&record).unwrap();
            kept.push((sequence, key, record, data));
            if round % 2 == 1 {
                let update = key_update(&mut pair.ours, false);
                pair.deliver(&update).unwrap();
            }
        }
        for (sequence, key, record, data) in kept {
            let mut wrong = record.clone();
            assert_eq!(key.reopen(sequence + 1, &mut wrong), Err(RecordError::Forged));
            let mut record = record;
            let (content_type, range) = key.reopen(sequence, &mut record).unwrap();
            assert_eq!((content_type, &record[range]), (ContentType::ApplicationData, &data[..]));
        }
    });
}

/// One flipped bit anywhere in a record is an error; the record itself still opens after it.
#[test]
fn any_flipped_bit_is_an_error() {
    for_each_pair(|mut pair| {
        let record = pair.their_records(b"every bit of this counts");
        for bit in 0..record.len() * 8 {
            let mut altered = record.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            pair.ours.open(&mut altered).expect_err("an altered record opened");
        }
        assert_eq!(pair.open(record), [Got::Data(b"every bit of this counts".to_vec())]);
    });
}

/// Replayed, skipped and reordered records do not open.
#[test]
fn records_open_only_in_their_order() {
    for_each_pair(|mut pair| {
        let first = pair.their_records(b"first");
        let second = pair.their_records(b"second");
        assert_eq!(pair.ours.open(&mut second.clone()), Err(RecordError::Forged));
        assert_eq!(pair.open(first.clone()), [Got::Data(b"first".to_vec())]);
        assert_eq!(pair.ours.open(&mut first.clone()), Err(RecordError::Forged));
        assert_eq!(pair.open(second), [Got::Data(b"second".to_vec())]);
    });
}
