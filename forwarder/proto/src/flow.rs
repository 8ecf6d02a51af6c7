//! One flow's state at one end: what waits to be sent, credit both ways, and how each direction
//! ends.
//!
//! ```text
//! sending:    Open ──finish──▶ Finishing ──FIN sent──▶ Finished      RESET, from either
//! receiving:  open ──FIN received──▶ finished                        end, drops the flow
//! ```

mod snapshot;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::Credit;
use crate::id::{ContactId, Time};
use crate::limits::{
    CREDIT_STEP_MAX, FLOW_PIECES, FLOW_QUEUED_SHARED_MAX, FLOW_WINDOW, FLOW_WINDOW_MAX,
    GATHERED_MAX, PAYLOAD_MAX, SHARED_FLOW_MAX, SHARED_FOR,
};

pub(crate) use snapshot::FlowSnapshot;

/// Bytes read from a flow's socket, in the memory they were read into.
#[derive(Debug)]
pub struct Chunk<B> {
    /// The memory. A payload of more than [`crate::limits::GATHERED_MAX`] bytes lies behind
    /// [`crate::limits::SLOT_HEADROOM`] bytes of headroom, with tailroom for the tag after it.
    pub memory: B,
    /// Where in the memory the bytes are.
    pub payload: Range<usize>,
    /// When they were read.
    pub at: Time,
}

impl<B: AsRef<[u8]>> Chunk<B> {
    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().get(self.payload.clone()).unwrap_or_default()
    }
}

/// How far the sending direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Sending {
    Open,
    Finishing,
    Finished,
}

/// How much a flow has sent of late.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Time,
    /// What had been sent by then.
    offset: u64,
    /// Whether it was little in the time before.
    is_slow: bool,
}

/// One flow at one end.
#[derive(Debug)]
pub struct Flow<B> {
    /// The contact point that it was opened through.
    pub(crate) contact: ContactId,
    /// What its bytes count to where times are measured.
    pub(crate) tag: u16,
    queue: VecDeque<Chunk<B>>,
    queued: usize,
    sending: Sending,
    /// Bytes sent, and how far the other end lets us go. What was read beyond the credit (a
    /// kernel may fill more buffers than it was asked to) waits for it in the queue.
    offset: u64,
    pace: Pace,
    credit: u64,
    /// Bytes that the far socket has taken, by the last `CREDIT`.
    taken: u64,
    has_said_blocked: bool,
    /// The socket was not read for want of credit or room, and wants to be told when there is.
    pub(crate) is_starved: bool,
    /// We opened it while there was no carrier, and the other end has not heard of it.
    pub(crate) is_unannounced: bool,
    /// It waits for the session's grant to grow, with nothing or with something under way.
    pub(crate) is_parked: bool,
    pub(crate) is_throttled: bool,
    received: u64,
    is_finished_by_peer: bool,
    window: Window,
    /// The other end waits for a `CREDIT`.
    is_awaited: bool,
    /// A `CREDIT` waits to be sent.
    pub(crate) is_credit_due: bool,
}

impl<B> Flow<B> {
    /// A new flow; `credit` is what the other end grants at the opening.
    pub(crate) fn new(contact: ContactId, credit: u64, now: Time) -> Self {
        Self {
            contact,
            tag: 0,
            queue: VecDeque::new(),
            queued: 0,
            sending: Sending::Open,
            offset: 0,
            pace: Pace { since: now, offset: 0, is_slow: true },
            credit,
            taken: 0,
            has_said_blocked: false,
            is_starved: false,
            is_unannounced: false,
            is_parked: false,
            is_throttled: false,
            received: 0,
            is_finished_by_peer: false,
            window: Window::new(now),
            is_awaited: false,
            is_credit_due: false,
        }
    }

    /// How many bytes may be read from the socket now, so that no more than `queued_max` wait.
    pub(crate) fn room(&self, queued_max: usize) -> usize {
        if self.sending != Sending::Open {
            return 0;
        }
        let credit = usize::try_from(self.credit - self.offset).unwrap_or(usize::MAX);
        credit.min(queued_max).saturating_sub(self.queued)
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Pieces of a byte, of which many wait, are joined: they would cost many times their bytes.
    pub(crate) fn push(&mut self, chunk: Chunk<B>)
    where
        B: AsRef<[u8]> + From<Box<[u8]>>,
    {
        self.queued += chunk.payload.len();
        if self.queue.len() >= FLOW_PIECES
            && let Some(last) = self.queue.back_mut()
            && last.payload.len() + chunk.payload.len() <= GATHERED_MAX
        {
            let joined = [last.bytes(), chunk.bytes()].concat();
            let payload = 0..joined.len();
            // As old as its oldest byte.
            *last = Chunk { memory: B::from(joined.into()), payload, at: last.at };
        } else {
            self.queue.push_back(chunk);
        }
    }

    /// Lets `copy` replace the memory of what waits.
    pub(crate) fn move_out(&mut self, copy: impl Fn(&B) -> Option<B>) {
        for chunk in &mut self.queue {
            if let Some(memory) = copy(&chunk.memory) {
                chunk.memory = memory;
            }
        }
    }

    /// Length of the next chunk, if there is one and the credit covers it.
    pub(crate) fn next_len(&self) -> Option<usize> {
        let len = self.queue.front()?.payload.len();
        (self.offset + len as u64 <= self.credit).then_some(len)
    }

    /// Bytes that the far socket has taken, as far as we know.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that were read and that the far socket has not taken, as far as we know.
    pub(crate) fn under_way(&self) -> u64 {
        self.offset + self.queued as u64 - self.taken
    }

    /// Whether the other end is to be told that this flow waits; true once for each `CREDIT`.
    pub(crate) fn poll_blocked(&mut self) -> bool {
        self.under_way() > 0 && !std::mem::replace(&mut self.has_said_blocked, true)
    }

    pub(crate) fn pop(&mut self) -> Option<Chunk<B>> {
        let chunk = self.queue.pop_front()?;
        self.queued -= chunk.payload.len();
        self.offset += chunk.payload.len() as u64;
        Some(chunk)
    }

    /// Whether the flow says little: all that it had was a small message, and of late there was no
    /// more than [`SHARED_FLOW_MAX`].
    pub(crate) fn says_little(&mut self, now: Time) -> bool {
        let is_slow = self.offset - self.pace.offset <= SHARED_FLOW_MAX;
        if now.since(self.pace.since) >= SHARED_FOR {
            self.pace = Pace { since: now, offset: self.offset, is_slow };
        }
        is_slow && self.pace.is_slow && self.queued == 0
    }

    /// The socket has no more to send; `FIN` follows the queued bytes.
    pub(crate) fn finish(&mut self) {
        if self.sending == Sending::Open {
            self.sending = Sending::Finishing;
        }
    }

    /// Whether it has bytes, or the end of them, to send.
    pub(crate) fn is_active(&self) -> bool {
        !self.queue.is_empty() || self.sending == Sending::Finishing
    }

    /// Whether it is `FIN`'s turn; if so it counts as sent.
    pub(crate) fn take_fin(&mut self) -> bool {
        let is_due = self.sending == Sending::Finishing && self.queue.is_empty();
        if is_due {
            self.sending = Sending::Finished;
        }
        is_due
    }

    /// A `CREDIT` that claims more to be taken than was sent counts for what was sent.
    pub(crate) fn handle_credit(&mut self, credit: Credit) {
        self.credit = self.credit.max(credit.limit);
        self.taken = self.taken.max(credit.taken.min(self.offset));
        self.has_said_blocked = false;
    }

    /// Whether `credit` says more than what is known already, or answers `BLOCKED`.
    pub(crate) fn is_helped_by(&self, credit: Credit) -> bool {
        credit.limit > self.credit || credit.taken > self.taken || self.has_said_blocked
    }

    /// Whether the other end may send `len` more bytes; if so they count as received.
    pub(crate) fn handle_data(&mut self, len: usize) -> bool {
        self.received += len as u64;
        self.received <= self.window.granted && !self.is_finished_by_peer
    }

    /// Whether this `FIN` is the first.
    pub(crate) fn handle_fin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_finished_by_peer, true)
    }

    /// The socket took `len` bytes, of those that were received; true when a `CREDIT` should be
    /// sent. The credit grows no further than to `window_max`.
    pub(crate) fn handle_taken(
        &mut self,
        len: usize,
        now: Time,
        round_trip: Duration,
        window_max: u64,
    ) -> bool {
        let len = (len as u64).min(self.received - self.window.taken);
        let is_due = self.window.handle_taken(len, now, round_trip, window_max);
        (is_due || self.is_awaited && self.has_taken_all()) && !self.is_finished_by_peer
    }

    /// The other end waits to hear what was taken; true when a `CREDIT` should be sent now.
    pub(crate) fn handle_blocked(&mut self) -> bool {
        self.is_awaited = true;
        self.has_taken_all()
    }

    fn has_taken_all(&self) -> bool {
        self.window.taken == self.received
    }

    /// The `CREDIT` to send now.
    pub(crate) fn take_credit(&mut self) -> Credit {
        self.is_awaited = false;
        self.window.grant();
        Credit { limit: self.window.granted, taken: self.window.taken }
    }

    /// Both directions have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.sending == Sending::Finished && self.is_finished_by_peer
    }
}

/// The credit that this end grants: it follows what the socket takes, and grows while a whole
/// window is taken within two round trips, since then the window is what holds the flow back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Window {
    size: u64,
    taken: u64,
    granted: u64,
    measured_from: (u64, Time),
}

impl Window {
    fn new(now: Time) -> Self {
        Self { size: FLOW_WINDOW, taken: 0, granted: FLOW_WINDOW, measured_from: (0, now) }
    }

    fn handle_taken(&mut self, len: u64, now: Time, round_trip: Duration, max: u64) -> bool {
        self.taken += len;
        let (taken_then, then) = self.measured_from;
        if self.taken - taken_then >= self.size {
            if now.since(then) < 2 * round_trip {
                self.size = (2 * self.size).min(max.min(FLOW_WINDOW_MAX)).max(self.size);
            }
            self.measured_from = (self.taken, now);
        }
        self.taken + self.size >= self.granted + (self.size / 4).min(CREDIT_STEP_MAX)
    }

    fn grant(&mut self) {
        self.granted = self.granted.max(self.taken + self.size);
    }
}

const _: () = assert!(FLOW_QUEUED_SHARED_MAX >= 4 * PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow() -> Flow<Box<[u8]>> {
        Flow::new(ContactId(1), FLOW_WINDOW, Time(0))
    }

    /// What the other end grants is never less after an older grant arrives late.
    #[test]
    fn a_stale_credit_takes_nothing_back() {
        let mut flow = flow();
        flow.handle_credit(Credit { limit: FLOW_WINDOW + 1000, taken: 0 });
        flow.handle_credit(Credit { limit: 10, taken: 0 });
        assert_eq!(flow.credit, FLOW_WINDOW + 1000);
    }

    /// A peer that sends past its credit is found out.
    #[test]
    fn data_beyond_the_grant_is_refused() {
        let mut flow = flow();
        assert!(flow.handle_data(usize::try_from(FLOW_WINDOW).unwrap()));
        assert!(!flow.handle_data(1));
    }

    /// Data after FIN breaks the protocol.
    #[test]
    fn data_after_fin_is_refused() {
        let mut flow = flow();
        assert!(flow.handle_fin());
        assert!(!flow.handle_fin());
        assert!(!flow.handle_data(1));
    }

    /// Pieces of a byte that wait cost little more than their bytes, and come out in order.
    #[test]
    fn tiny_pieces_that_wait_are_joined() {
        let mut flow = flow();
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for byte in &bytes {
            flow.push(Chunk { memory: Box::from([*byte]), payload: 0..1, at: Time(0) });
        }
        assert!(flow.queue.len() <= FLOW_PIECES + bytes.len() / (GATHERED_MAX / 2));
        flow.handle_credit(Credit { limit: 1 << 20, taken: 0 });
        let mut out = Vec::new();
        while let Some(chunk) = flow.pop() {
            out.extend_from_slice(chunk.bytes());
        }
        assert!(out == bytes);
    }

    /// FIN waits for the bytes before it, and goes once.
    #[test]
    fn fin_follows_the_queued_bytes_once() {
        let mut flow = flow();
        flow.push(Chunk { memory: Box::from([1, 2, 3]), payload: 0..3, at: Time(0) });
        flow.finish();
        assert!(!flow.take_fin());
        flow.pop().unwrap();
        assert!(flow.take_fin());
        assert!(!flow.take_fin());
        assert_eq!(flow.room(FLOW_QUEUED_SHARED_MAX), 0);
    }

    /// A fast flow over a long line gets a window that fits it; a slow one keeps its first.
    #[test]
    fn the_window_grows_only_while_it_holds_the_flow_back() {
        let round_trip = Duration::from_millis(40);
        let grow = |gap: Duration, max: u64| {
            let mut window = Window::new(Time(0));
            let mut now = Time(0);
            for _ in 0..5000 {
                now = now + gap;
                if window.handle_taken(16 * 1024, now, round_trip, max) {
                    window.grant();
                }
            }
            window.size
        };
        assert_eq!(grow(Duration::from_micros(10), u64::MAX), FLOW_WINDOW_MAX);
        assert_eq!(grow(Duration::from_micros(10), 3 * FLOW_WINDOW), 3 * FLOW_WINDOW);
        assert_eq!(grow(Duration::from_micros(10), 0), FLOW_WINDOW);
        assert_eq!(grow(Duration::from_millis(10), u64::MAX), FLOW_WINDOW);
    }

    proptest! {
        /// Whatever is taken in whatever portions, the grant never exceeds what was taken by more
        /// than the largest window, never shrinks, and never lets the other end starve.
        #[test]
        fn grants_are_bounded_monotonic_and_live(
            takes in proptest::collection::vec((1_usize..100_000, 0_u64..10_000_000), 1..200)
        ) {
            let mut window = Window::new(Time(0));
            let mut now = Time(0);
            for (len, gap) in takes {
                now = now + Duration::from_nanos(gap);
                // The other end has sent no more than it was granted.
                let len = (len as u64).min(window.granted - window.taken);
                let before = window.granted;
                if window.handle_taken(len, now, Duration::from_millis(1), u64::MAX) {
                    window.grant();
                }
                prop_assert!(window.granted >= before);
                prop_assert!(window.granted - window.taken <= FLOW_WINDOW_MAX);
                prop_assert!(window.granted - window.taken >= PAYLOAD_MAX as u64);
            }
        }
    }
}
