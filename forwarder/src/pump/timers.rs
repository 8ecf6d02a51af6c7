//! What a pump has to do later: a heap of moments, the nearest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use adit_proto::id::Time;

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
    /// A connect to an internal peer has taken too long.
    Connect(Slot),
    /// Flows that have waited for their owner's bytes to be paid for go on.
    Quota(Slot),
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
