//! Addresses that have proven nothing.

use std::time::Duration;

use adit_proto::datagram::PacketError;
use adit_proto::frame::{Frame, PathCipher};
use adit_proto::id::Time;

use super::ends::{ELSEWHERE, NAT, at, opened, pair, sealed, settle};

/// Neither end speaks to anybody before it has heard somebody, but for the forwarder to its relay.
#[test]
fn a_relay_that_heard_nobody_is_silent() {
    let (_, mut relay) = pair(PathCipher::Aes128Gcm, 22);
    let forged = [&[1, 2, 3, 4][..], &[0; 60]].concat();
    assert_eq!(opened(&mut relay, &forged, ELSEWHERE, Time(1)), Err(PacketError::Forged));
    let other = [9; 60];
    let id = PacketError::OtherId(0x0909_0909);
    assert_eq!(opened(&mut relay, &other, ELSEWHERE, Time(1)), Err(id));
    assert_eq!(opened(&mut relay, &[1; 27], ELSEWHERE, Time(1)), Err(PacketError::TooShort(27)));
    assert_eq!(relay.poll_own(1, Time(2), &mut Vec::new()), None);
    assert_eq!(relay.poll_timeout(), Time(u64::MAX));
    let counters = relay.counters();
    assert_eq!((counters.forged, counters.other_id, counters.malformed), (1, 1, 1));
}

/// While another address is challenged, datagrams go where they went; the answer of the old address
/// to what was asked of the new one proves nothing.
#[test]
fn datagrams_stay_until_the_challenge_is_answered() {
    let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 22);
    settle(&mut forwarder, &mut relay, NAT, Time(1));
    let packet = sealed(&mut forwarder, &[0; 100]);
    opened(&mut relay, &packet, ELSEWHERE, Time(2)).unwrap();
    assert_eq!(relay.remote(), Some(at(NAT)));
    let mut challenge = Vec::new();
    assert_eq!(relay.poll_own(1, Time(2), &mut challenge), Some(at(ELSEWHERE)));
    assert!(challenge.len() <= packet.len());
    opened(&mut forwarder, &challenge, NAT, Time(2)).unwrap();
    let mut answer = Vec::new();
    assert!(forwarder.poll_own(1, Time(2), &mut answer).is_some());
    // Overtaken, so that the challenge stands when the answer comes.
    let overtaking = sealed(&mut forwarder, b"x");
    opened(&mut relay, &overtaking, ELSEWHERE, Time(3)).unwrap();
    opened(&mut relay, &answer, NAT, Time(3)).unwrap();
    assert_eq!(relay.remote(), Some(at(NAT)));
}

/// An address that never answers gets no more bytes than it sends, however long it goes on.
#[test]
fn a_silent_address_gets_no_more_than_it_sends() {
    for len in [10, 40, 100, 1_000] {
        let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 22);
        let (mut received, mut sent, mut now) = (0, 0, Time(1));
        for _ in 0..200 {
            now = now + Duration::from_millis(300);
            let packet = sealed(&mut forwarder, &vec![0; len]);
            opened(&mut relay, &packet, ELSEWHERE, now).unwrap();
            received += packet.len();
            for _ in 0..20 {
                let mut out = Vec::new();
                while relay.poll_own(9, now, &mut out).is_some() {}
                sent += out.len();
                assert!(sent <= received, "{sent} B sent for {received} B");
                now = relay.poll_timeout().min(now + Duration::from_millis(100));
            }
        }
        assert!(sent > 0);
    }
}

/// A late packet from another address is taken, but neither challenged nor answered.
#[test]
fn a_late_packet_from_elsewhere_moves_nothing() {
    let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 22);
    settle(&mut forwarder, &mut relay, NAT, Time(1));
    let late = sealed(&mut forwarder, &[0; 100]);
    let newer = sealed(&mut forwarder, b"newer");
    opened(&mut relay, &newer, NAT, Time(2)).unwrap();
    assert!(opened(&mut relay, &late, ELSEWHERE, Time(2)).is_ok());
    assert_eq!(relay.poll_own(1, Time(2), &mut Vec::new()), None);
}

/// An address may be written as IPv4 or as IPv4 within IPv6: it is the same.
#[test]
fn a_mapped_address_is_no_other() {
    let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 22);
    settle(&mut forwarder, &mut relay, NAT, Time(1));
    let packet = sealed(&mut forwarder, b"x");
    opened(&mut relay, &packet, "[::ffff:203.0.113.7]:40000", Time(2)).unwrap();
    assert_eq!(relay.poll_own(1, Time(2), &mut Vec::new()), None);
}

/// What does not belong into a packet makes nobody act on the rest of it.
#[test]
fn an_unexpected_frame_spoils_its_packet() {
    let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 22);
    let mut packet = vec![0; 12];
    Frame::Ping(4).encode(&mut packet);
    Frame::Data(adit_proto::id::FlowId(1), b"x").encode(&mut packet);
    packet.resize(packet.len() + 16, 0);
    forwarder.seal(&mut packet).unwrap();
    let result = opened(&mut relay, &packet, NAT, Time(1));
    assert_eq!(result, Err(PacketError::Unexpected(adit_proto::frame::Kind::Data)));
    assert_eq!(relay.poll_own(1, Time(1), &mut Vec::new()), None);
    assert_eq!((relay.counters().received, relay.counters().malformed), (1, 1));
}
