//! A stranger's bytes never open; authentic packets with any content open once, to what was put
//! in; and whatever comes, no address gets an answer that it has not paid for.
#![no_main]

use std::net::SocketAddr;

use adit_proto::datagram::{PACKET_HEADER, PACKET_TRAILER, PacketError, Path};
use adit_proto::frame::{PathCipher, PathOffer};
use adit_proto::id::{Side, Time};
use adit_proto::limits::PATH_PACKET_MAX;
use libfuzzer_sys::fuzz_target;

const OFFER: PathOffer =
    PathOffer { id: 0x0102_0304, port: 1, cipher: PathCipher::Aes128Gcm, secret: [7; 32] };

fuzz_target!(|bytes: &[u8]| {
    let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let new = |side, remote| Path::with_generation_bits(side, &OFFER, remote, Time(0), 2);
    let (mut forwarder, mut relay) =
        (new(Side::Forwarder, Some(addresses[0])), new(Side::Relay, None));

    let mut forged = bytes.to_vec();
    assert!(relay.handle_packet(&mut forged, addresses[0], 1, Time(0)).is_err());
    let mut forged = [&OFFER.id.to_be_bytes(), bytes].concat();
    assert!(relay.handle_packet(&mut forged, addresses[0], 1, Time(0)).is_err());
    assert_eq!(relay.poll_own(1, Time(0), &mut Vec::new()), None);

    // The content of each packet, behind one byte that says how it comes.
    let (mut now, mut balance, mut rest) = (Time(1), [0; 2], bytes);
    while let [how, length, behind @ ..] = rest {
        let (content, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        now = Time(now.0 + (u64::from(*how) << 24));
        let mut packet = vec![0; PACKET_HEADER + content.len() + PACKET_TRAILER];
        packet[PACKET_HEADER..PACKET_HEADER + content.len()].copy_from_slice(content);
        assert!(packet.len() <= PATH_PACKET_MAX);
        forwarder.seal(&mut packet).expect("it has room");
        let from = usize::from(how & 1);
        let mut copy = packet.clone();
        match relay.handle_packet(&mut packet, addresses[from], 2, now) {
            Ok(range) => assert_eq!(&packet[range], content),
            Err(PacketError::Malformed(_) | PacketError::Unexpected(_)) => {}
            Err(error) => panic!("an authentic packet was refused: {error}"),
        }
        assert!(relay.handle_packet(&mut copy, addresses[from], 3, now).is_err());
        balance[from] += copy.len();
        let mut out = Vec::new();
        while let Some(to) = relay.poll_own(4, now, &mut out) {
            // From its opening on, the path has an address that has proven itself.
            if relay.counters().returns == 0 {
                let to = usize::from(to == addresses[1]);
                assert!(out.len() <= balance[to], "more goes out than came in");
                balance[to] -= out.len();
            }
            out.clear();
        }
    }
});
