//! How much of the session's grant one flow may take up.
//!
//! Bytes that no socket takes stay in the grant. Were each flow let go to its credit, a few hundred
//! that nobody reads would take all of it and hold up every other. So a flow has a share of what is
//! left: plenty while little is taken up, and from then on as much as its reader has earned it.

use std::collections::{HashMap, VecDeque};

use super::Session;
use crate::flow::Flow;
use crate::frame::Frame;
use crate::id::{FlowId, Time};
use crate::limits::{
    FLOW_QUEUED_MAX, FLOW_QUEUED_SHARED_MAX, FLOW_SHARE_MIN, FLOW_SHARE_PROVEN, GRANT_SHARES,
    PAYLOAD_MAX, POLL_DELAY, SESSION_QUEUED_MAX, SESSION_WINDOW, THROTTLED_WAKE_MAX,
    WAITING_GONE_MAX,
};

/// How many bytes a flow may have under way. `left` is what is left of the session's grant,
/// `flows` how many flows there are, `taken` how many bytes this one's reader has taken so far.
///
/// Where more than an eighth of the grant is taken up, a reader that has taken little gets little,
/// since kernels take some hundred KiB for one that never reads. The cube keeps 10,000 of those
/// within the grant, and lets one that reads grow to a full share: twice what is left, so that a
/// flow alone may have two thirds of the grant under way.
fn share(left: u64, flows: usize, taken: u64) -> u64 {
    let full = 2 * left;
    if left >= SESSION_WINDOW / 8 * 7 {
        return full;
    }
    // In 16 KiB, so that the product fits.
    let (earned, proven) = (taken.min(FLOW_SHARE_PROVEN) >> 14, FLOW_SHARE_PROVEN >> 14);
    let earned = full * earned.pow(3) / proven.pow(3);
    let even = left / GRANT_SHARES / flows.max(1) as u64;
    earned.max(even).max(FLOW_SHARE_MIN)
}

/// How many more bytes such a flow may have under way than the `under_way` that it has: never more
/// than is left.
fn allowance(left: u64, flows: usize, taken: u64, under_way: u64) -> u64 {
    share(left, flows, taken).saturating_sub(under_way).min(left)
}

/// The flows that wait for the grant to grow; each may stand once in either line.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// They have nothing under way, so that nothing else will wake them.
    parked: VecDeque<FlowId>,
    /// They hear of it when what they have under way is taken, but need not wait for that.
    throttled: VecDeque<FlowId>,
    /// When parked flows were last woken for no other reason than the time.
    woken_at: Time,
}

impl Waiting {
    /// Bounds both lines by the flows that there are, at a cost that is spread over the flows that
    /// came in since.
    fn forget_gone<B>(&mut self, flows: &HashMap<FlowId, Flow<B>>) {
        for line in [&mut self.parked, &mut self.throttled] {
            if line.len() > 2 * flows.len() + WAITING_GONE_MAX {
                line.retain(|id| flows.contains_key(id));
            }
        }
    }
}

impl<B> Session<B> {
    /// Whether a flow that says little stands beside others that say much. Then less is done at
    /// once: its next message waits no longer than a small send takes.
    pub(super) fn is_shared(&self) -> bool {
        self.shared_until.is_some()
    }

    /// How many bytes may be read from the flow's socket now. When it is none,
    /// [`Session::poll_readable`] names the flow as soon as it is worth asking again.
    pub fn room(&mut self, id: FlowId) -> usize {
        let queued_max = if self.is_shared() { FLOW_QUEUED_SHARED_MAX } else { FLOW_QUEUED_MAX };
        let (left, flows) = (self.left(), self.flows.len());
        let Some(flow) = self.flows.get_mut(&id) else { return 0 };
        let room = flow.room(queued_max);
        if room < PAYLOAD_MAX || self.queued >= SESSION_QUEUED_MAX && flow.queued() > 0 {
            flow.is_starved = true;
            return 0;
        }
        let allowed = allowance(left, flows, flow.taken(), flow.under_way());
        if allowed >= FLOW_SHARE_MIN {
            return room.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        }
        flow.is_starved = true;
        // With nothing under way there is no `CREDIT` to come that would wake it.
        let (waiting, is_in) = match flow.under_way() {
            0 => (&mut self.waiting.parked, &mut flow.is_parked),
            _ => (&mut self.waiting.throttled, &mut flow.is_throttled),
        };
        if !std::mem::replace(is_in, true) {
            waiting.push_back(id);
        }
        if flow.poll_blocked() {
            self.control.push_back(Frame::Blocked(id));
        }
        self.waiting.forget_gone(&self.flows);
        0
    }

    /// What is left of the grant.
    fn left(&self) -> u64 {
        self.sent.grant.saturating_sub(self.counters.bytes_sent + self.queued as u64)
    }

    /// When more of the parked flows may try: those woken before may have had nothing to say.
    pub(super) fn wake_due(&self) -> Option<Time> {
        let is_due = !self.waiting.parked.is_empty() && self.left() >= FLOW_SHARE_MIN;
        is_due.then(|| self.waiting.woken_at + POLL_DELAY)
    }

    /// Wakes parked flows if that is due: ever fewer at a time, and no more than may well be sent.
    pub(super) fn wake_parked(&mut self, now: Time) {
        if self.wake_due().is_some_and(|due| due <= now) {
            self.waiting.woken_at = now;
            let sendable = usize::try_from(self.left()).unwrap_or(usize::MAX) / PAYLOAD_MAX;
            let count = (self.waiting.parked.len() / THROTTLED_WAKE_MAX).min(sendable);
            self.wake(count.max(THROTTLED_WAKE_MAX));
        }
    }

    /// Lets the flows try again that have waited longest for the grant to grow.
    pub(super) fn wake(&mut self, count: usize) {
        let mut woken = 0;
        while woken < count {
            let (id, was_parked) = match self.waiting.parked.pop_front() {
                Some(id) => (id, true),
                None => match self.waiting.throttled.pop_front() {
                    Some(id) => (id, false),
                    None => return,
                },
            };
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let is_in = if was_parked { &mut flow.is_parked } else { &mut flow.is_throttled };
            *is_in = false;
            if std::mem::take(&mut flow.is_starved) {
                self.readable.push_back(id);
                woken += 1;
            }
        }
    }

    /// The flow waits to hear what was taken.
    pub(super) fn handle_blocked(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.handle_blocked() && !std::mem::replace(&mut flow.is_credit_due, true) {
            self.credits_due.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FLOW_WINDOW;

    /// What kernels take, at both ends of a socket, for a reader that never reads.
    const UNREAD: u64 = 400 * 1024;

    /// 10,000 flows that are never read leave a reader that takes what it gets room for more than
    /// a fast line holds, wherever it comes in.
    #[test]
    fn ten_thousand_stalled_flows_leave_room_for_one_that_reads() {
        let mut left = SESSION_WINDOW;
        for stalled in 1..=10_000 {
            let take = share(left, stalled, UNREAD).min(FLOW_WINDOW);
            left -= take;
            let reader = share(left, stalled + 1, FLOW_SHARE_PROVEN);
            assert!(reader >= 512 * 1024, "{reader} bytes beside {stalled} stalled flows");
        }
    }

    /// A reader that has taken nothing yet is not held back where there is plenty.
    #[test]
    fn a_new_flow_has_its_full_credit_while_little_is_taken_up() {
        assert!(share(SESSION_WINDOW, 1, 0) >= FLOW_WINDOW);
        assert!(share(SESSION_WINDOW - SESSION_WINDOW / 8, 1, 0) >= FLOW_WINDOW);
    }

    /// However short the grant is, a share is one that can be read; and what one flow takes up leaves
    /// a third of the grant to others.
    #[test]
    fn a_share_is_worth_reading_and_leaves_a_third() {
        for left in [FLOW_SHARE_MIN, 1 << 20, 1 << 24, SESSION_WINDOW] {
            for taken in [0, UNREAD, FLOW_SHARE_PROVEN, u64::MAX] {
                let share = share(left, 65_536, taken);
                assert!((FLOW_SHARE_MIN..=2 * left).contains(&share), "{left} {taken}: {share}");
                let allowed = allowance(left, 65_536, taken, 0);
                assert!((FLOW_SHARE_MIN..=left).contains(&allowed), "{left} {taken}: {allowed}");
            }
        }
        assert_eq!(allowance(0, 1, u64::MAX, 0), 0);
        let third = SESSION_WINDOW / 3;
        assert!(share(third, 1, u64::MAX) <= SESSION_WINDOW - third);
    }
}
