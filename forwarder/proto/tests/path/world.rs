//! Both ends, a NAT and a wire, in virtual time.
//!
//! ```text
//!  forwarder ── NAT ── wire: loss, delay, MTU, each way open or black ── relay
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::datagram::{PACKET_HEADER, PACKET_TRAILER, Path};
use adit_proto::frame::{Datagram, Frame, Frames, PathCipher};
use adit_proto::id::{FlowId, Time};

use super::ends::{ELSEWHERE, NAT, RELAY, Random, at, pair};

/// What the wire does to packets.
pub(crate) struct Wire {
    /// Towards the relay, and towards the forwarder.
    pub(crate) is_up: [bool; 2],
    pub(crate) loss_percent: usize,
    pub(crate) delay_ms: (usize, usize),
    pub(crate) mtu: usize,
    /// The forwarder's address as the relay sees it.
    pub(crate) nat: SocketAddr,
    /// Somebody copies packets to the relay and sends them from elsewhere, ahead of the originals.
    pub(crate) is_copied: bool,
}

struct Flying {
    is_to_relay: bool,
    from: SocketAddr,
    packet: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) forwarder: Path,
    pub(crate) relay: Path,
    pub(crate) wire: Wire,
    /// Both ends send datagrams every so often, while their path is open.
    pub(crate) every: Option<Duration>,
    /// Datagrams that arrived, at the relay and at the forwarder.
    pub(crate) arrived: [u64; 2],
    /// The path's own packets, by the forwarder and by the relay.
    pub(crate) own: [u64; 2],
    /// Bytes that came from elsewhere, and that the relay sent there.
    pub(crate) elsewhere: [usize; 2],
    flying: BTreeMap<(Time, u64), Flying>,
    number: u64,
    next_datagram: Time,
    random: Random,
}

impl World {
    /// A perfect wire of 20 ms; both ends want the path and use it.
    pub(crate) fn new(seed: u64) -> Self {
        let (mut forwarder, mut relay) = pair(PathCipher::Aes256Gcm, 8);
        forwarder.set_wanted(true);
        relay.set_wanted(true);
        Self {
            now: Time(0),
            forwarder,
            relay,
            wire: Wire {
                is_up: [true; 2],
                loss_percent: 0,
                delay_ms: (20, 20),
                mtu: 1_472,
                nat: at(NAT),
                is_copied: false,
            },
            every: Some(Duration::from_millis(40)),
            arrived: [0; 2],
            own: [0; 2],
            elsewhere: [0; 2],
            flying: BTreeMap::new(),
            number: 0,
            next_datagram: Time(0),
            random: Random(seed),
        }
    }

    pub(crate) fn both_open(&self) -> bool {
        self.forwarder.is_open() && self.relay.is_open()
    }

    /// Lets that much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Runs until something is so; panics if it is not within `time`.
    pub(crate) fn wait(&mut self, time: Duration, is_so: impl Fn(&Self) -> bool) {
        let (begin, end) = (self.now, self.now + time);
        self.run_until(end, &is_so);
        assert!(is_so(self), "not so from {begin:?} within {time:?}: {self}");
    }

    fn run_until(&mut self, end: Time, is_over: impl Fn(&Self) -> bool) {
        loop {
            self.speak();
            if is_over(self) {
                return;
            }
            let mut next = self.forwarder.poll_timeout().min(self.relay.poll_timeout());
            if let Some((&(arrival, _), _)) = self.flying.first_key_value() {
                next = next.min(arrival);
            }
            if self.every.is_some() {
                next = next.min(self.next_datagram);
            }
            if next > end {
                self.now = end;
                return;
            }
            // A timer that stays in the past would be a busy loop in a daemon.
            self.number += 1;
            assert!(self.number < 10_000_000, "time stands still at {:?}", self.now);
            self.now = self.now.max(next);
            self.arrive();
            self.forwarder.handle_timeout(self.now);
            self.relay.handle_timeout(self.now);
        }
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= self.now) {
            let Flying { is_to_relay, from, mut packet } = entry.remove();
            let path = if is_to_relay { &mut self.relay } else { &mut self.forwarder };
            let random = self.random.draw();
            let bytes = packet.len();
            let Ok(content) = path.handle_packet(&mut packet, from, random, self.now) else {
                continue;
            };
            if from == at(ELSEWHERE) {
                self.elsewhere[0] += bytes;
            }
            let datagrams = Frames::new(&packet[content])
                .filter(|frame| matches!(frame, Ok(Frame::Datagram(..))))
                .count();
            self.arrived[usize::from(!is_to_relay)] += datagrams as u64;
        }
    }

    /// Sends what both ends have to say.
    fn speak(&mut self) {
        for is_to_relay in [true, false] {
            let mut packet = Vec::new();
            loop {
                let path = if is_to_relay { &mut self.forwarder } else { &mut self.relay };
                let Some(to) = path.poll_own(self.random.draw(), self.now, &mut packet) else {
                    break;
                };
                self.own[usize::from(!is_to_relay)] += 1;
                self.fly(is_to_relay, to, std::mem::take(&mut packet));
            }
        }
        let Some(every) = self.every.filter(|_| self.next_datagram <= self.now) else {
            return;
        };
        self.next_datagram = self.now + every;
        for is_to_relay in [true, false] {
            let path = if is_to_relay { &mut self.forwarder } else { &mut self.relay };
            let Some(to) = path.remote() else { continue };
            let payload = vec![1; path.content_max() - 10];
            let datagram = Datagram::Whole { segment: 0, payload: &payload };
            let mut packet = vec![0; PACKET_HEADER];
            Frame::Datagram(FlowId(5), datagram).encode(&mut packet);
            packet.resize(packet.len() + PACKET_TRAILER, 0);
            path.seal(&mut packet).expect("it has room");
            path.handle_sent(self.now);
            self.fly(is_to_relay, to, packet);
        }
    }

    fn fly(&mut self, is_to_relay: bool, to: SocketAddr, packet: Vec<u8>) {
        let wire = &self.wire;
        if is_to_relay && wire.is_copied && to == at(RELAY) {
            let copy = Flying { is_to_relay, from: at(ELSEWHERE), packet: packet.clone() };
            self.flying.insert((self.now + Duration::from_millis(1), self.number), copy);
        }
        if to == at(ELSEWHERE) {
            self.elsewhere[1] += packet.len();
        }
        self.number += 1;
        let is_there = to == if is_to_relay { at(RELAY) } else { wire.nat };
        let is_lost = self.random.below(100) < wire.loss_percent;
        if !is_there || is_lost || !wire.is_up[usize::from(!is_to_relay)] || packet.len() > wire.mtu
        {
            return;
        }
        let (low, high) = wire.delay_ms;
        let delay = Duration::from_millis((low + self.random.below(high - low + 1)) as u64);
        let from = if is_to_relay { wire.nat } else { at(RELAY) };
        let flying = Flying { is_to_relay, from, packet };
        self.flying.insert((self.now + delay, self.number), flying);
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:?}\n{:?}\n{:?}", self.now, self.forwarder, self.relay)
    }
}
