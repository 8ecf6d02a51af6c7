//! What the whole internet may send to a relay's port.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::datagram::{PACKET_HEADER, Path};
use adit_proto::frame::PathCipher;
use adit_proto::id::Time;
use adit_proto::limits::PATH_WINDOW;

use super::ends::{Random, at, opened, pair, sealed};

const SOURCES: [&str; 4] =
    ["203.0.113.7:1", "203.0.113.7:2", "198.51.100.200:3", "[2001:db8::1]:4"];

/// A packet that was sealed, what it holds, and whether the relay has opened it.
struct Original {
    packet: Vec<u8>,
    counter: u64,
    was_opened: bool,
}

/// Bytes that authentic packets brought from each address, and bytes sent there.
#[derive(Default)]
struct Ledger(BTreeMap<SocketAddr, (usize, usize)>);

impl Ledger {
    /// Nothing goes to an address that was not heard, nor more than came from it.
    fn settle(&mut self, relay: &mut Path, random: &mut Random, now: Time) {
        let mut out = Vec::new();
        while let Some(to) = relay.poll_own(random.draw(), now, &mut out) {
            let (received, sent) = self.0.get_mut(&to).expect("the address was never heard");
            *sent += out.len();
            assert!(sent <= received, "{sent} B to {to}, which sent {received} B");
            out.clear();
        }
    }
}

fn mutant(original: &Original, random: &mut Random) -> Vec<u8> {
    let mut packet = original.packet.clone();
    match random.below(6) {
        // Truncated.
        0 => packet.truncate(random.below(packet.len())),
        // Bits turned over.
        1 => {
            for _ in 0..=random.below(3) {
                let at = random.below(packet.len());
                packet[at] ^= 1 << random.below(8);
            }
        }
        // Another path's id.
        2 => packet[..4].copy_from_slice(&(random.draw() as u32).to_be_bytes()),
        // Another counter: near, or anywhere.
        3 => {
            let near = original.counter.wrapping_add(random.draw() % 5_000).wrapping_sub(2_500);
            let counter = if random.below(2) == 0 { near } else { random.draw() };
            packet[4..PACKET_HEADER].copy_from_slice(&counter.to_be_bytes());
        }
        // Lengthened.
        4 => packet.extend((0..=random.below(40)).map(|_| 0)),
        // Anything.
        _ => packet = (0..random.below(1_500)).map(|_| random.draw() as u8).collect(),
    }
    packet
}

/// Of 100,000 packets, mutilated, replayed, reordered within the window and beyond, exactly those
/// open that were sealed, once each; and no address gets more bytes than came from it.
#[test]
fn no_mutant_opens_and_no_packet_opens_twice() {
    let mut random = Random(1);
    let (mut forwarder, mut relay) = pair(PathCipher::Aes128Gcm, 12);
    let mut originals: VecDeque<Original> = VecDeque::new();
    let mut ledger = Ledger::default();
    let (mut newest, mut counter, mut opened_count) = (0, 0, 0);
    for step in 0..100_000_u64 {
        let now = Time(0) + Duration::from_millis(step);
        let mut packet = Vec::new();
        if forwarder.poll_own(random.draw(), now, &mut packet).is_none() {
            let payload: Vec<u8> = (0..random.below(60)).map(|_| random.draw() as u8).collect();
            packet = sealed(&mut forwarder, &payload);
        }
        originals.push_back(Original { packet, counter, was_opened: false });
        counter += 1;
        if originals.len() > 3_000 {
            originals.pop_front();
        }
        let back = if random.below(2) == 0 { random.below(20) } else { random.below(3_000) };
        let index = originals.len() - 1 - back.min(originals.len() - 1);
        let original = &mut originals[index];
        let source = SOURCES[random.below(SOURCES.len())];
        if random.below(2) == 0 {
            let packet = mutant(original, &mut random);
            if packet != original.packet {
                assert!(opened(&mut relay, &packet, source, now).is_err());
            }
        } else {
            let result = opened(&mut relay, &original.packet, source, now);
            let is_late = newest >= original.counter + PATH_WINDOW;
            assert_eq!(result.is_ok(), !original.was_opened && !is_late, "{result:?}");
            if result.is_ok() {
                original.was_opened = true;
                newest = newest.max(original.counter);
                opened_count += 1;
                ledger.0.entry(at(source)).or_default().0 += original.packet.len();
            }
        }
        ledger.settle(&mut relay, &mut random, now);
    }
    assert_eq!(relay.counters().received, opened_count);
    assert!(opened_count > 20_000 && !relay.is_open(), "{opened_count}");
    assert!(ledger.0.values().any(|(_, sent)| *sent > 0), "no address was ever challenged");
}
