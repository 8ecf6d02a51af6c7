//! Packets: sealed, opened, mutilated.

use adit_proto::datagram::{PACKET_HEADER, PACKET_TRAILER, PacketError};
use adit_proto::frame::PathCipher::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
use adit_proto::id::Time;

use super::ends::{NAT, RELAY, at, opened, pair, sealed, settle};

/// Under each cipher and over many keys, both ends open what the other sealed, each packet once.
#[test]
fn what_is_sealed_opens_once_over_generations() {
    for cipher in [Aes128Gcm, Aes256Gcm, Chacha20Poly1305] {
        let (mut forwarder, mut relay) = pair(cipher, 3);
        for number in 0_u32..100 {
            let payload = vec![number as u8; number as usize * 11];
            for is_up in [true, false] {
                let (from, to) =
                    if is_up { (&mut forwarder, &mut relay) } else { (&mut relay, &mut forwarder) };
                let packet = sealed(from, &payload);
                let content = opened(to, &packet, NAT, Time(1)).unwrap();
                assert!(content.ends_with(&payload));
                let again = opened(to, &packet, NAT, Time(1));
                assert_eq!(again, Err(PacketError::Replayed(u64::from(number))));
            }
        }
        assert_eq!((forwarder.counters().sent, forwarder.counters().received), (100, 100));
        assert_eq!(relay.counters().replayed, 100);
    }
}

/// On a wire without faults both ends open at once and find the longest packet.
#[test]
fn both_ends_open_and_find_the_packet_size() {
    let (mut forwarder, mut relay) = pair(Aes256Gcm, 22);
    assert!(!forwarder.is_open() && !relay.is_open());
    settle(&mut forwarder, &mut relay, NAT, Time(1));
    assert_eq!((forwarder.remote(), relay.remote()), (Some(at(RELAY)), Some(at(NAT))));
    for path in [forwarder, relay] {
        assert_eq!(path.content_max(), 8_972 - PACKET_HEADER - PACKET_TRAILER);
        assert_eq!(path.counters().returns, 1);
    }
}
