//! Two ends, and what their tests agree on.

use std::net::SocketAddr;
use std::ops::Range;

use adit_proto::datagram::{PACKET_HEADER, PACKET_TRAILER, PacketError, Path};
use adit_proto::frame::{Datagram, Frame, PathCipher, PathOffer};
use adit_proto::id::{FlowId, Side, Time};

pub(crate) const RELAY: &str = "198.51.100.1:443";
pub(crate) const NAT: &str = "203.0.113.7:40000";
pub(crate) const ELSEWHERE: &str = "192.0.2.66:6666";

pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().expect("it is an address")
}

pub(crate) fn offer(cipher: PathCipher) -> PathOffer {
    PathOffer { id: 0x0102_0304, port: 443, cipher, secret: [7; 32] }
}

/// A forwarder's end and a relay's, with keys that last for `2^bits` packets.
pub(crate) fn pair(cipher: PathCipher, bits: u32) -> (Path, Path) {
    let new =
        |side, remote| Path::with_generation_bits(side, &offer(cipher), remote, Time(0), bits);
    (new(Side::Forwarder, Some(at(RELAY))), new(Side::Relay, None))
}

/// A sealed packet with one datagram.
pub(crate) fn sealed(path: &mut Path, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; PACKET_HEADER];
    Frame::Datagram(FlowId(5), Datagram::Whole { segment: 0, payload }).encode(&mut packet);
    packet.resize(packet.len() + PACKET_TRAILER, 0);
    path.seal(&mut packet).expect("it has room");
    packet
}

/// Opens a copy of a packet; what it holds.
pub(crate) fn opened(
    path: &mut Path,
    packet: &[u8],
    from: &str,
    now: Time,
) -> Result<Vec<u8>, PacketError> {
    let mut packet = packet.to_vec();
    let content: Range<usize> = path.handle_packet(&mut packet, at(from), 77, now)?;
    Ok(packet[content].to_vec())
}

/// Carries whatever both ends have to say until they are silent: a wire without faults.
pub(crate) fn settle(forwarder: &mut Path, relay: &mut Path, nat: &str, now: Time) {
    let mut packet = Vec::new();
    for random in 1..200 {
        packet.clear();
        if forwarder.poll_own(random, now, &mut packet).is_some() {
            relay
                .handle_packet(&mut packet, at(nat), random + 1_000, now)
                .expect("it is authentic");
            continue;
        }
        let Some(to) = relay.poll_own(random, now, &mut packet) else {
            return;
        };
        if to == at(nat) {
            forwarder
                .handle_packet(&mut packet, at(RELAY), random + 1_000, now)
                .expect("it is authentic");
        }
    }
    panic!("the ends never stop talking");
}

/// `splitmix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ (number >> 31)
    }

    /// Less than `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }
}
