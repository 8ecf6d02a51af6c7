//! What a pump has to do later: a heap of moments, the nearest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use adit_proto::id::Time;

use super::meter::Queue;
use super::slots::Slot;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The session's own timer: probes, a `POLL`.
    Session(Slot),
    /// A carrier's greeting has taken too long.
    Greeting(Slot),
    /// A narrow line that was full may take more.
    Line(Slot),
    /// A flow that outlived its session has had its time.
    Flush(Slot),
    /// Somebody has waited long enough to hear of the far end.
    Announced(Slot),
    /// Flows that have waited in this queue for their bytes to be paid for go on.
    Quota(Slot, Queue),
    /// A session that is closed has not got rid of its last words.
    Close(Slot),
    /// A listener that ran out of descriptors tries again.
    Accept(Slot),
}

/// Timers are never taken back: whoever is called early looks, and sets a new one.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, Timer)>>,
}

impl Timers {
    pub(crate) fn set(&mut self, due: Time, timer: Timer) {
        self.heap.push(Reverse((due, timer)));
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// A timer that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let Reverse((due, _)) = self.heap.peek()?;
        if *due > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

/// Deadlines that are all as far away when they are set, so that they stand in a line: those of flows
/// that are being opened, of which there may be many more than stay.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    line: VecDeque<(Time, Slot)>,
    /// How long the line may grow before those are looked for that nobody awaits any more.
    sift_at: usize,
}

/// The line is not sifted below this length.
const SIFT_MIN: usize = 256;

impl Openings {
    /// Adds a deadline; no earlier one has been set before.
    pub(crate) fn expect(&mut self, slot: Slot, due: Time, is_awaited: impl Fn(Slot) -> bool) {
        if self.line.len() >= self.sift_at.max(SIFT_MIN) {
            self.line.retain(|(_, slot)| is_awaited(*slot));
            self.sift_at = 2 * self.line.len();
        }
        self.line.push_back((due, slot));
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.line.front().map(|(due, _)| *due)
    }

    /// One that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Slot> {
        self.next_due().filter(|due| *due <= now)?;
        self.line.pop_front().map(|(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::slots::Slots;

    /// However many flows are opened and gone again, the line holds little more than those that are
    /// still awaited, and each of those comes out when it is due.
    #[test]
    fn deadlines_of_flows_that_are_gone_are_forgotten() {
        let (mut openings, mut slots) = (Openings::default(), Slots::default());
        let kept: Vec<Slot> = (0..10).map(|_| slots.insert(())).collect();
        for slot in &kept {
            openings.expect(*slot, Time(1), |_| true);
        }
        for n in 0..1_000_000 {
            let slot = slots.insert(());
            slots.remove(slot);
            openings.expect(slot, Time(2 + n), |slot| slots.get(slot).is_some());
            assert!(openings.line.len() <= 2 * SIFT_MIN, "{}", openings.line.len());
        }
        let due: Vec<Slot> = std::iter::from_fn(|| openings.pop_due(Time(1))).collect();
        assert_eq!(due, kept);
    }
}
