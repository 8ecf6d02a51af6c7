//! The datagram path beside the carrier: either may go while the other stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::datagram::{PACKET_HEADER, PACKET_TRAILER, PacketError};
use adit_proto::frame::{PathCipher, PathOffer};
use adit_proto::limits::{DATAGRAM_MAX, PACKETS_BYTES_MAX, PACKETS_MAX};
use adit_proto::session::{Greeted, Packets, Session};

use super::datagrams::{numbered, open_datagrams, received};
use super::pair::open_udp;
use super::*;

fn offer(id: u32) -> PathOffer {
    PathOffer { id, port: 443, cipher: PathCipher::Aes128Gcm, secret: [id as u8; 32] }
}

/// Where packets of that side come from.
fn address(side: Side) -> SocketAddr {
    match side {
        Side::Forwarder => SocketAddr::from(([198, 51, 100, 7], 40_000)),
        Side::Relay => SocketAddr::from(([203, 0, 113, 1], 443)),
    }
}

/// A pair and a path between them that loses nothing unless told to.
struct Line {
    pair: Pair,
    random: u64,
    /// Every so many packets one is lost; 0 for none.
    loses: usize,
    /// Packets that carried something, by who sent them, and their batches.
    batches: Vec<(Side, Packets, usize)>,
    count: usize,
}

impl Line {
    /// A line whose path is proven at both ends.
    fn new() -> Self {
        let mut relay = End::new(Side::Relay);
        relay.session.offer_path(offer(7));
        let pair = Pair::of(End::new(Side::Forwarder), relay);
        let mut line = Self { pair, random: 1, loses: 0, batches: Vec::new(), count: 0 };
        assert_eq!(line.pair.forwarder.session.path_offer(), Some(&offer(7)));
        line.pair.forwarder.session.open_path(address(Side::Relay), line.pair.now);
        line.open();
        line
    }

    fn open(&mut self) {
        for _ in 0..100 {
            self.wait(Duration::from_millis(200));
            if self.is_open() {
                self.batches.clear();
                return;
            }
        }
        panic!("the path does not open");
    }

    fn is_open(&self) -> bool {
        let ends = [&self.pair.forwarder, &self.pair.relay];
        ends.into_iter().all(|end| end.session.path().is_some_and(|path| path.is_open()))
    }

    /// Lets time pass at both ends, and packets with it.
    fn wait(&mut self, time: Duration) {
        self.pair.now = self.pair.now + time;
        self.pair.forwarder.session.handle_timeout(self.pair.now).unwrap();
        self.pair.relay.session.handle_timeout(self.pair.now).unwrap();
        self.carry();
    }

    /// Carries packets both ways until neither end has more.
    fn carry(&mut self) {
        loop {
            let (down, up) = (self.poll(Side::Relay), self.poll(Side::Forwarder));
            if down.is_empty() && up.is_empty() {
                return;
            }
            self.pair.now = self.pair.now + Duration::from_millis(1);
            down.into_iter().for_each(|packet| self.deliver(Side::Forwarder, packet));
            up.into_iter().for_each(|packet| self.deliver(Side::Relay, packet));
        }
    }

    fn poll(&mut self, side: Side) -> Vec<Vec<u8>> {
        let now = self.pair.now;
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        loop {
            self.random += 1;
            let random = self.random;
            let session = &mut self.end(side).session;
            let Some(batch) = session.poll_packets(random, now, &mut out) else {
                return packets;
            };
            assert_eq!(batch.to, address(side.other()));
            self.batches.push((side, batch, out.len()));
            packets.extend(out.chunks(batch.segment).map(<[u8]>::to_vec));
        }
    }

    /// The next packet that an end sends, which goes nowhere.
    fn next_packet(&mut self, side: Side) -> Vec<u8> {
        for _ in 0..1_000 {
            self.pair.now = self.pair.now + Duration::from_millis(100);
            let now = self.pair.now;
            // Its carrier may well seem silent meanwhile.
            self.end(side).session.handle_timeout(now).ok();
            if let Some(packet) = self.poll(side).into_iter().next() {
                return packet;
            }
        }
        panic!("the {side:?} sends no packet");
    }

    fn deliver(&mut self, side: Side, mut packet: Vec<u8>) {
        self.count += 1;
        if self.loses != 0 && self.count.is_multiple_of(self.loses) {
            return;
        }
        self.take(side, &mut packet).unwrap();
    }

    fn take(&mut self, side: Side, packet: &mut [u8]) -> Result<(), PacketError> {
        self.random += 1;
        let (random, now) = (self.random, self.pair.now);
        let mut events = Vec::new();
        let end = self.end(side);
        let from = address(side.other());
        end.session.handle_packet(packet, from, random, now, &mut events)?;
        events.iter().for_each(|event| end.take_datagrams(event, packet));
        Ok(())
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Forwarder => &mut self.pair.forwarder,
            Side::Relay => &mut self.pair.relay,
        }
    }

    /// Hands `datagram` in at both ends.
    fn send(&mut self, flow: FlowId, datagram: &[u8]) {
        for side in [Side::Forwarder, Side::Relay] {
            let now = self.pair.now;
            self.end(side).session.handle_datagrams(flow, 0, datagram, now);
        }
    }

    fn on_path(&self) -> [u64; 2] {
        [&self.pair.forwarder, &self.pair.relay]
            .map(|end| end.session.datagram_counters().sent_on_path)
    }
}

/// A path that is proven takes the datagrams of accepted flows, both ways, and of no others.
#[test]
fn datagrams_of_accepted_flows_go_on_the_path() {
    let mut line = Line::new();
    let flow = open_datagrams(&mut line.pair);
    let sent: Vec<_> = [0, 1, 1_000, 1_400, 20_000, DATAGRAM_MAX, 0, 5]
        .into_iter()
        .enumerate()
        .map(|(number, len)| numbered(number, len))
        .collect();
    sent.iter().for_each(|datagram| line.send(flow, datagram));
    line.pair.exchange();
    assert_eq!(received(&line.pair.forwarder, flow).len(), 0);
    line.carry();
    for end in [&line.pair.forwarder, &line.pair.relay] {
        assert_eq!(received(end, flow), sent);
    }
    assert_eq!(line.on_path(), [8, 8]);
    // OPEN goes with the carrier, and so does what is behind it.
    let opening = line.pair.relay.session.open_flow(open_udp(), line.pair.now).unwrap();
    line.pair.relay.session.handle_datagrams(opening, 0, b"early", line.pair.now);
    line.carry();
    assert_eq!(received(&line.pair.forwarder, opening).len(), 0);
    line.pair.exchange();
    assert_eq!(received(&line.pair.forwarder, opening), [b"early"]);
    assert_eq!(line.on_path(), [8, 8]);
}

/// A session without its carrier goes on with its datagrams, on the same keys afterwards.
#[test]
fn the_path_outlives_the_carrier() {
    let mut line = Line::new();
    let flow = open_datagrams(&mut line.pair);
    line.pair.lose();
    line.send(flow, b"in the outage");
    line.carry();
    for end in [&line.pair.forwarder, &line.pair.relay] {
        assert_eq!(received(end, flow), [b"in the outage"]);
    }
    let sent = line.pair.relay.session.path().unwrap().counters().sent;
    assert_eq!(line.pair.greet(), Ok(Greeted::Resumed));
    line.pair.exchange();
    assert!(line.is_open());
    assert!(line.pair.relay.session.path().unwrap().counters().sent >= sent);
    line.pair.forwarder.session.open_path(address(Side::Relay), line.pair.now);
    line.pair.relay.session.offer_path(offer(8));
    assert_eq!(line.pair.relay.session.path_offer(), Some(&offer(7)));
    line.send(flow, b"after it");
    line.carry();
    assert_eq!(received(&line.pair.forwarder, flow)[1], b"after it");
}

/// A path that fails gives what waits for it to the carrier, and comes back by itself.
#[test]
fn the_carrier_takes_over_from_a_lost_path() {
    let mut line = Line::new();
    let flow = open_datagrams(&mut line.pair);
    line.send(flow, &numbered(1, 3_000));
    let now = line.pair.now;
    for side in [Side::Forwarder, Side::Relay] {
        line.end(side).session.path_mut().unwrap().handle_unreachable(now);
    }
    line.send(flow, b"behind");
    line.pair.exchange();
    for end in [&line.pair.forwarder, &line.pair.relay] {
        assert_eq!(received(end, flow), [numbered(1, 3_000), b"behind".to_vec()]);
    }
    assert_eq!(line.on_path(), [0, 0]);
    line.open();
    line.send(flow, b"back");
    line.carry();
    assert_eq!(line.on_path(), [1, 1]);
}

/// A path that takes everything and brings nothing is found out, and few datagrams go down it.
#[test]
fn a_path_that_went_dark_is_left() {
    let mut line = Line::new();
    let flow = open_datagrams(&mut line.pair);
    line.loses = 1;
    for _ in 0..60 {
        line.send(flow, b"tick");
        line.wait(Duration::from_millis(100));
        line.pair.exchange();
    }
    assert!(!line.is_open());
    let got = received(&line.pair.forwarder, flow).len();
    assert!(got > 25, "{got} of 60 came");
}

/// Another session has another path: the forwarder takes its offer.
#[test]
fn a_new_session_has_a_new_path() {
    let mut line = Line::new();
    line.pair.relay = End::with_id(Side::Relay, SessionId([9; 16]));
    line.pair.relay.session.offer_path(offer(8));
    assert_eq!(line.pair.greet(), Ok(Greeted::Started));
    assert_eq!(line.pair.forwarder.session.path_offer(), Some(&offer(8)));
    assert!(line.pair.forwarder.session.path().is_none());
    let early = line.take(Side::Forwarder, &mut [0; 40]);
    assert_eq!(early, Err(PacketError::OtherId(0)));
    line.pair.forwarder.session.open_path(address(Side::Relay), line.pair.now);
    line.open();
}

/// A datagram that names a stream is dropped; the session does not suffer.
#[test]
fn a_packet_for_a_stream_is_dropped() {
    let mut line = Line::new();
    let flow = line.pair.open();
    let mut packet = vec![0; PACKET_HEADER];
    let datagram = adit_proto::frame::Datagram::Whole { segment: 0, payload: b"x" };
    Frame::Datagram(flow, datagram).encode(&mut packet);
    packet.resize(packet.len() + PACKET_TRAILER, 0);
    line.pair.relay.session.path_mut().unwrap().seal(&mut packet).unwrap();
    let again = packet.clone();
    assert_eq!(line.take(Side::Forwarder, &mut packet), Ok(()));
    let is_replay =
        matches!(line.take(Side::Forwarder, &mut again.clone()), Err(PacketError::Replayed(_)));
    assert!(is_replay);
    assert_eq!(line.pair.forwarder.session.datagram_counters().dropped_unknown, 1);
}

/// Batches are what the kernel can cut: equal packets, the last no longer, within its bounds.
#[test]
fn packets_of_a_batch_are_of_one_size() {
    let mut line = Line::new();
    let flow = open_datagrams(&mut line.pair);
    for number in 0..400 {
        let len = [1_000, 1_000, 1_000, 100, 3_000, 1_100][number / 70];
        let now = line.pair.now;
        line.pair.relay.session.handle_datagrams(flow, 0, &numbered(number, len), now);
    }
    line.batches.clear();
    line.carry();
    assert_eq!(received(&line.pair.forwarder, flow).len(), 400);
    let mut is_full = false;
    for (_, batch, len) in &line.batches {
        assert!(*len <= PACKETS_BYTES_MAX && len.div_ceil(batch.segment) <= PACKETS_MAX);
        is_full |= *len > 40_000;
    }
    assert!(is_full, "{:?}", line.batches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is lost or comes out of order, what comes out went in, once and unaltered.
    #[test]
    fn a_path_that_loses_and_reorders_alters_nothing(
        datagrams in prop::collection::vec((0..3_000_usize, any::<bool>(), 0..1_500_usize), 1..80),
        shuffle in 1..20_usize,
        loses in prop_oneof![Just(0_usize), 2..20_usize],
    ) {
        let mut line = Line::new();
        let flow = open_datagrams(&mut line.pair);
        let mut sent: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (number, (len, is_long, segment)) in datagrams.into_iter().enumerate() {
            let payload = numbered(number, if is_long { 10 * len } else { len });
            let now = line.pair.now;
            line.pair.relay.session.handle_datagrams(flow, segment, &payload, now);
            let size = if segment == 0 { payload.len().max(1) } else { segment };
            if payload.is_empty() {
                *sent.entry(Vec::new()).or_default() += 1;
            }
            for datagram in payload.chunks(size) {
                *sent.entry(datagram.to_vec()).or_default() += 1;
            }
        }
        let mut packets = line.poll(Side::Relay);
        let count = packets.len();
        (0..count).for_each(|at| packets.swap(at, at * shuffle % count));
        line.loses = loses;
        let duplicates = packets.iter().step_by(3).cloned().collect::<Vec<_>>();
        packets.into_iter().for_each(|packet| line.deliver(Side::Forwarder, packet));
        line.loses = 0;
        for mut packet in duplicates {
            // What was lost the first time may still come.
            let taken = line.take(Side::Forwarder, &mut packet);
            prop_assert!(matches!(taken, Ok(()) | Err(PacketError::Replayed(_))));
        }
        let total: usize = sent.values().sum();
        let got = received(&line.pair.forwarder, flow);
        let count = got.len();
        for datagram in got {
            let left = sent.get_mut(datagram);
            prop_assert!(left.as_ref().is_some_and(|left| **left > 0));
            if let Some(left) = left {
                *left -= 1;
            }
        }
        let overflow = line.pair.relay.session.datagram_counters().dropped_overflow;
        if loses == 0 && overflow == 0 && shuffle == 1 {
            prop_assert_eq!(count, total);
        }
    }
}

/// An end whose process was replaced goes on with its path: no packet number comes twice under one key, and
/// nothing from before is taken again.
#[test]
fn an_upgraded_end_goes_on_counting_packets() {
    for side in [Side::Forwarder, Side::Relay] {
        let mut line = Line::new();
        let mut from_before = line.next_packet(side.other());
        line.take(side, &mut from_before.clone()).unwrap();
        let sent = line.end(side).session.path().unwrap().counters().sent;
        assert!(sent > 0);
        let end = line.end(side);
        let bytes = postcard::to_allocvec(&end.session.snapshot().unwrap()).unwrap();
        let now = line.pair.now;
        let end = line.end(side);
        end.session = Session::restore(postcard::from_bytes(&bytes).unwrap(), now).unwrap();
        assert_eq!(line.pair.greet().unwrap(), Greeted::Resumed);
        let refused = line.take(side, &mut from_before);
        assert!(matches!(refused, Err(PacketError::Replayed(_))), "{refused:?}");
        let next = line.next_packet(side);
        assert_eq!(number(&next), sent, "{side:?}");
        line.open();
    }
}

/// Which packet of its path it is.
fn number(packet: &[u8]) -> u64 {
    u64::from_be_bytes(packet[4..PACKET_HEADER].try_into().unwrap())
}
