//! Flows of datagrams: what waits of them, on what it goes, and what comes.
//!
//! ```text
//!  opener:    OPEN sent ────────────▶ ACCEPT ────────────▶ RESET, either way
//!               datagrams behind it:    datagrams: on the path,
//!               the TCP carrier only    or ahead of all else
//! ```
//!
//! Nothing is retained and nothing granted: what cannot be sent within
//! [`crate::limits::DATAGRAM_AGE_MAX`] is dropped, each with its cause counted.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::departed::Departures;
use super::{Event, Session};
use crate::datagram;
use crate::datagram::join::{Joins, Part};
use crate::datagram::queue::{Queue, Taken};
use crate::datagram::{Path, PathSnapshot};
use crate::frame::{Datagram, PathOffer};
use crate::id::{FlowId, Side, Time};
use crate::limits::{DATAGRAM_AGE_MAX, DATAGRAM_MAX, DATAGRAM_SEGMENTS_MAX, DATAGRAMS_QUEUED_MAX};

/// What was counted of a session's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramCounters {
    /// Datagrams sent, on a TCP carrier or the path.
    pub sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Those of them that went on the path.
    pub sent_on_path: u64,
    /// Datagrams received whole.
    pub received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Dropped because they had waited too long.
    pub dropped_aged: u64,
    /// Dropped because too much waited.
    pub dropped_overflow: u64,
    /// Dropped because their flow was gone before they were sent.
    pub dropped_ended: u64,
    /// Dropped because they are longer than a datagram can be.
    pub dropped_oversize: u64,
    /// Received for flows that are not there.
    pub dropped_unknown: u64,
    /// Received in parts of which one or more did not come.
    pub dropped_incomplete: u64,
}

/// How far a flow has come, and with it where its datagrams may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Behind its `OPEN`, on the carrier that brings it.
    Opening,
    /// Anywhere.
    Accepted,
}

/// Where frames may stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Where they end at the latest.
    pub(super) end: usize,
    /// How many bytes an empty record or packet takes: what is longer is cut.
    pub(super) full: usize,
}

/// One flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct DatagramFlow {
    stage: Stage,
    /// Its `OPEN` has been handed to a carrier, or came on one.
    is_announced: bool,
    /// It was opened in an outage that lasts: the other end cannot know of it.
    is_unannounced: bool,
    /// Batches that wait behind its `OPEN`.
    early: usize,
    /// What its datagrams count to where times are measured.
    tag: u16,
}

/// The session's flows of datagrams, and what waits of them.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: HashMap<FlowId, DatagramFlow>,
    accepted: Queue,
    /// Of flows that the other end may not know yet.
    opening: Queue,
    /// Flows were accepted while batches of theirs stood in `opening`.
    is_promotion_due: bool,
    joins: Joins,
    /// Counts the datagrams that were cut.
    number: u16,
    pub(super) counters: DatagramCounters,
    pub(super) departed: Departures,
    /// What the relay offers, and the path that came of it; both are the session's, whatever
    /// carries it.
    pub(super) offer: Option<PathOffer>,
    pub(super) path: Option<Path>,
}

/// What of them one process leaves to another: not what waits, which is soon too old.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DatagramsSnapshot {
    flows: Vec<(FlowId, DatagramFlow)>,
    number: u16,
    counters: DatagramCounters,
    offer: Bytes,
    path: Option<PathSnapshot>,
}

impl DatagramsSnapshot {
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }
}

impl Datagrams {
    pub(super) fn snapshot(&self) -> DatagramsSnapshot {
        let mut flows: Vec<_> = self.flows.iter().map(|(id, flow)| (*id, flow.clone())).collect();
        flows.sort_unstable_by_key(|(id, _)| *id);
        let dropped_incomplete = self.counters.dropped_incomplete + self.joins.dropped();
        DatagramsSnapshot {
            flows,
            number: self.number,
            counters: DatagramCounters { dropped_incomplete, ..self.counters },
            offer: self.offer.as_ref().map(PathOffer::to_bytes).unwrap_or_default().into(),
            path: self.path.as_ref().map(Path::snapshot),
        }
    }

    /// Takes over what was left; `None` when that makes no sense.
    pub(super) fn restore(&mut self, left: DatagramsSnapshot, side: Side, now: Time) -> Option<()> {
        let idle = |(id, flow)| (id, DatagramFlow { early: 0, ..flow });
        self.flows = left.flows.into_iter().map(idle).collect();
        (self.number, self.counters) = (left.number, left.counters);
        self.offer = PathOffer::parse(&left.offer)?;
        self.path = match (&self.offer, left.path) {
            (Some(offer), Some(path)) => Some(Path::restore(side, offer, &path, now)),
            (None, Some(_)) => return None,
            (_, None) => None,
        };
        self.tell_wanted();
        Some(())
    }

    pub(super) fn flow_ids(&self) -> Vec<FlowId> {
        let mut ids: Vec<FlowId> = self.flows.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn has_flow(&self, id: FlowId) -> bool {
        self.flows.contains_key(&id)
    }

    /// A flow that this end opens.
    pub(super) fn open_flow(&mut self, id: FlowId, is_unannounced: bool) {
        let stage = Stage::Opening;
        let flow = DatagramFlow { stage, is_announced: false, is_unannounced, early: 0, tag: 0 };
        self.flows.insert(id, flow);
        self.tell_wanted();
    }

    /// A flow that the other end opened: it knows of it.
    pub(super) fn handle_open(&mut self, id: FlowId) {
        let stage = Stage::Accepted;
        let flow =
            DatagramFlow { stage, is_announced: true, is_unannounced: false, early: 0, tag: 0 };
        self.flows.insert(id, flow);
        self.tell_wanted();
    }

    /// The flow's `OPEN` goes to the carrier now.
    pub(super) fn handle_announced(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.is_announced = true;
        }
    }

    /// The other end has the flow's socket; false when it is no flow of datagrams.
    pub(super) fn handle_accept(&mut self, id: FlowId) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        flow.stage = Stage::Accepted;
        self.is_promotion_due |= flow.early > 0;
        true
    }

    /// There is a carrier again, which will bring every `OPEN`.
    pub(super) fn handle_attached(&mut self) {
        self.flows.values_mut().for_each(|flow| flow.is_unannounced = false);
    }

    pub(super) fn is_unannounced(&self, id: FlowId) -> bool {
        self.flows.get(&id).is_some_and(|flow| flow.is_unannounced)
    }

    pub(super) fn tag_flow(&mut self, id: FlowId, tag: u16) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.tag = tag;
        }
    }

    pub(super) fn remove_flow(&mut self, id: FlowId) -> bool {
        let was_there = self.flows.remove(&id).is_some();
        if was_there {
            self.tell_wanted();
        }
        was_there
    }

    /// A path that nobody needs is probed less often.
    pub(super) fn tell_wanted(&mut self) {
        let is_wanted = !self.flows.is_empty();
        if let Some(path) = &mut self.path {
            path.set_wanted(is_wanted);
        }
    }

    /// Whether datagrams of accepted flows go on the path.
    pub(super) fn is_path_open(&self) -> bool {
        self.path.as_ref().is_some_and(Path::is_open)
    }

    /// No flow is left.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
        self.accepted = Queue::default();
        self.opening = Queue::default();
        self.joins.clear();
        self.tell_wanted();
    }

    /// Whether datagrams wait behind their `OPEN`.
    pub(super) fn are_opening(&self) -> bool {
        self.opening.len() > 0
    }

    fn queue(&mut self, stage: Stage) -> &mut Queue {
        match stage {
            Stage::Opening => &mut self.opening,
            Stage::Accepted => &mut self.accepted,
        }
    }

    /// Takes a batch of one flow.
    fn push(&mut self, id: FlowId, segment: usize, payload: &[u8], now: Time) {
        let segment = if segment >= payload.len() { 0 } else { segment };
        let longest = if segment == 0 { payload.len() } else { segment };
        let count = datagram::count(segment, payload.len());
        let Some(segment) = u16::try_from(segment).ok().filter(|_| longest <= DATAGRAM_MAX) else {
            self.counters.dropped_oversize += count;
            return;
        };
        let Some(flow) = self.flows.get_mut(&id) else {
            self.counters.dropped_ended += count;
            return;
        };
        // What came later may not overtake what waits there still.
        let is_early = flow.stage == Stage::Opening || flow.early > 0;
        flow.early += usize::from(is_early);
        let stage = if is_early { Stage::Opening } else { Stage::Accepted };
        self.queue(stage).push(id, segment, payload, now);
        while self.accepted.cost() + self.opening.cost() > DATAGRAMS_QUEUED_MAX {
            self.counters.dropped_overflow += self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> u64 {
        let oldest = match (self.opening.front(), self.accepted.front()) {
            (Some(opening), Some(accepted)) if opening.at <= accepted.at => Stage::Opening,
            (Some(_), None) => Stage::Opening,
            _ => Stage::Accepted,
        };
        self.drop_front(oldest)
    }

    fn drop_front(&mut self, stage: Stage) -> u64 {
        let queue = self.queue(stage);
        let Some(front) = queue.front() else { return 0 };
        let count = queue.drop_front();
        if stage == Stage::Opening {
            self.count_early_out(front.flow);
        }
        count
    }

    fn count_early_out(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.early = flow.early.saturating_sub(1);
        }
    }

    /// Moves what waits of flows that were accepted to where nothing holds it back: one pass,
    /// however many were.
    pub(super) fn promote(&mut self) {
        if !std::mem::take(&mut self.is_promotion_due) {
            return;
        }
        let flows = &mut self.flows;
        self.opening.move_to(&mut self.accepted, |id| {
            let flow = flows.get_mut(&id).filter(|flow| flow.stage == Stage::Accepted);
            flow.map(|flow| flow.early = 0).is_some()
        });
    }

    /// The flow that is next, when it may be sent; drops what has grown old before it.
    fn next_flow(&mut self, stage: Stage, now: Time) -> Option<FlowId> {
        loop {
            let front = self.queue(stage).front()?;
            let Some(flow) = self.flows.get(&front.flow) else {
                self.counters.dropped_ended += self.drop_front(stage);
                continue;
            };
            if !front.is_cut && now.since(front.at) > DATAGRAM_AGE_MAX {
                self.counters.dropped_aged += self.drop_front(stage);
                continue;
            }
            return flow.is_announced.then_some(front.flow);
        }
    }

    /// Fills `out` with frames, as far as `room` says: where they end, and how many bytes of them
    /// an empty record or packet takes.
    pub(super) fn encode(&mut self, stage: Stage, room: Room, now: Time, out: &mut Vec<u8>) {
        while let Some(flow) = self.next_flow(stage, now) {
            let since = self.queue(stage).front().map(|front| front.at);
            let left = room.end.saturating_sub(out.len());
            let queue = match stage {
                Stage::Opening => &mut self.opening,
                Stage::Accepted => &mut self.accepted,
            };
            let Some(taken) = queue.encode(left, room.full, &mut self.number, out) else { return };
            self.count_sent(taken);
            if let (true, Some(at)) = (taken.is_last, since) {
                self.departed.push(self.flows.get(&flow).map_or(0, |flow| flow.tag), at);
            }
            if taken.is_last && stage == Stage::Opening {
                self.count_early_out(flow);
            }
        }
    }

    fn count_sent(&mut self, taken: Taken) {
        self.counters.sent += taken.datagrams;
        self.counters.bytes_sent += taken.bytes as u64;
    }

    /// Datagrams came. `end` is where their frame ends in what brought it.
    pub(super) fn handle_datagram(
        &mut self,
        flow: FlowId,
        datagram: Datagram<'_>,
        end: usize,
        now: Time,
        events: &mut Vec<Event>,
    ) {
        match datagram {
            Datagram::Whole { segment, payload } => {
                let start = end - payload.len();
                let count = datagram::count(segment.into(), payload.len());
                if !self.has_flow(flow) {
                    self.counters.dropped_unknown += count;
                    return;
                }
                self.count_received(count, payload.len());
                push_batches(flow, segment, start..end, events);
            }
            Datagram::Part { number, offset, total, payload } => {
                if !self.has_flow(flow) {
                    // One of its parts has the beginning.
                    self.counters.dropped_unknown += u64::from(offset == 0);
                    return;
                }
                let part = Part { flow, number, offset, total, payload };
                if let Some(datagram) = self.joins.handle_part(part, now) {
                    self.count_received(1, datagram.len());
                    events.push(Event::Joined(flow, datagram));
                }
            }
        }
    }

    /// Forgets what waits for parts in vain, and lets time pass on the path.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.joins.expire(now);
        if let Some(path) = &mut self.path {
            path.handle_timeout(now);
        }
    }

    fn count_received(&mut self, datagrams: u64, bytes: usize) {
        self.counters.received += datagrams;
        self.counters.bytes_received += bytes as u64;
    }
}

/// The other end may have put more into one frame than one send takes.
fn push_batches(flow: FlowId, segment: u16, range: Range<usize>, events: &mut Vec<Event>) {
    let batch = usize::from(segment) * DATAGRAM_SEGMENTS_MAX;
    let mut start = range.start;
    loop {
        let end = if batch == 0 { range.end } else { range.end.min(start + batch) };
        let is_one = end - start <= usize::from(segment);
        let segment = if is_one { 0 } else { segment };
        events.push(Event::Datagrams { flow, segment, range: start..end });
        start = end;
        if start >= range.end {
            return;
        }
    }
}

impl<B> Session<B> {
    /// Takes what came from the flow's socket: datagrams of `segment` bytes each, of which the last
    /// may be shorter, or one when that is 0. What cannot be kept is dropped and counted.
    pub fn handle_datagrams(&mut self, id: FlowId, segment: usize, payload: &[u8], now: Time) {
        self.datagrams.push(id, segment, payload, now);
    }

    /// Batches of datagrams that wait to be sent.
    pub fn datagrams_queued(&self) -> usize {
        self.datagrams.accepted.len() + self.datagrams.opening.len()
    }

    /// What was counted of datagrams so far.
    pub fn datagram_counters(&self) -> DatagramCounters {
        DatagramCounters {
            dropped_incomplete: self.datagrams.counters.dropped_incomplete
                + self.datagrams.joins.dropped(),
            ..self.datagrams.counters
        }
    }
}
