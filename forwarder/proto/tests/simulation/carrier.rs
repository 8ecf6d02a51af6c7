//! A carrier as the network has it: two lines, each with a latency, a bounded kernel buffer, and
//! faults.

use std::collections::VecDeque;
use std::time::Duration;

use adit_proto::id::{Side, Time};

use crate::random::Random;

/// One direction of a carrier.
#[derive(Debug)]
pub(crate) struct Line {
    segments: VecDeque<(Time, Vec<u8>)>,
    under_way: usize,
    /// The sender's kernel buffer: what is under way at most.
    capacity: usize,
    latency: Duration,
    /// When the last segment arrives: none overtakes another.
    last: Time,
    /// Nothing arrives until it heals.
    pub(crate) is_hung: bool,
    /// Nothing sent from now on arrives at all.
    pub(crate) is_cut: bool,
    /// The receiver is to learn that the carrier is gone, once the line lets it.
    pub(crate) owes_end: bool,
}

impl Line {
    fn new(capacity: usize, latency: Duration) -> Self {
        Self {
            segments: VecDeque::new(),
            under_way: 0,
            capacity,
            latency,
            last: Time(0),
            is_hung: false,
            is_cut: false,
            owes_end: false,
        }
    }

    /// Takes as much as the kernel buffer has room for, in segments of any length.
    pub(crate) fn write(&mut self, bytes: &[u8], now: Time, random: &mut Random) -> usize {
        let taken = bytes.len().min(self.capacity - self.under_way);
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let len = if random.chance(80) { rest.len() } else { random.between(1, rest.len()) };
            let (segment, more) = rest.split_at(len);
            self.last = self.last.max(now + self.latency + random.micros(0, 300));
            self.under_way += len;
            if !self.is_cut {
                self.segments.push_back((self.last, segment.to_vec()));
            }
            rest = more;
        }
        taken
    }

    /// When something arrives.
    pub(crate) fn next_arrival(&self) -> Option<Time> {
        let (at, _) = self.segments.front().filter(|_| !self.is_hung)?;
        Some(*at)
    }

    /// The next segment that has arrived.
    pub(crate) fn arrive(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.next_arrival().is_none_or(|at| at > now) {
            return None;
        }
        let (_, segment) = self.segments.pop_front()?;
        self.under_way -= segment.len();
        Some(segment)
    }

    /// Of what is under way only the first `keep` bytes arrive, and of what follows nothing.
    pub(crate) fn cut(&mut self, keep: usize) {
        self.is_cut = true;
        let mut left = keep;
        for (_, segment) in &mut self.segments {
            segment.truncate(left);
            left -= segment.len();
        }
        self.segments.retain(|(_, segment)| !segment.is_empty());
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Lets through what was held up.
    pub(crate) fn heal(&mut self, now: Time) {
        self.is_hung = false;
        let soonest = now + self.latency;
        for (at, _) in &mut self.segments {
            *at = (*at).max(soonest);
        }
        self.last = self.last.max(soonest);
    }

    /// When the end of the line reaches its receiver: behind what is under way.
    pub(crate) fn end_arrival(&self, now: Time) -> Time {
        self.last.max(now + self.latency)
    }
}

/// One carrier.
#[derive(Debug)]
pub(crate) struct Carrier {
    up: Line,
    down: Line,
    /// Whether the end, the forwarder first, still has its socket open.
    pub(crate) is_open: [bool; 2],
}

impl Carrier {
    pub(crate) fn new(random: &mut Random, is_heavy: bool) -> Self {
        let (capacity_min, latency_max) =
            if is_heavy { (400_000, 5_000) } else { (2_000, 200_000) };
        let latency = random.micros(100, latency_max);
        let [up, down] = [(); 2].map(|()| Line::new(capacity_min + random.size(400_000), latency));
        Self { up, down, is_open: [true, true] }
    }

    /// What the end sends on.
    pub(crate) fn line_from(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Forwarder => &mut self.up,
            Side::Relay => &mut self.down,
        }
    }

    /// What the end receives on.
    pub(crate) fn line_to(&mut self, side: Side) -> &mut Line {
        self.line_from(side.other())
    }

    pub(crate) fn next_arrival(&self) -> Option<(Time, Side)> {
        let up = self.up.next_arrival().map(|at| (at, Side::Relay));
        let down = self.down.next_arrival().map(|at| (at, Side::Forwarder));
        match (up, down) {
            (Some(up), Some(down)) => Some(if up.0 <= down.0 { up } else { down }),
            (up, down) => up.or(down),
        }
    }
}
