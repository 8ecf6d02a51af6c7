//! A session: the tunnel as one end knows it. It counts, retains and acknowledges reliable
//! records, keeps the flows, and says what to send next.
//!
//! It outlives its carriers: `session/resume.rs` has its states.
//!
//! **Architecture Invariant:** a session never sends what it cannot retain, and never accepts what
//! it did not grant: stream bytes are bounded by the `POLL` grant, records by
//! [`crate::limits::RETAINED_RECORDS_MAX`].

mod datagrams;
mod departed;
mod error;
mod futile;
mod liveness;
mod paths;
mod receive;
mod resume;
mod share;
mod snapshot;
mod transmit;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flow::{Chunk, Flow};
use crate::frame::{ControlFrame, Frame, Goaway, GoawayReason, Open, Protocol, ResetReason};
use crate::id::{FlowId, SessionId, Side, Time};
use crate::limits::{
    CONTROL_QUEUED_MAX, DATAGRAM_FLOWS_MAX, DATAGRAM_OPENS_QUEUED_MAX, DETACHED_FLOWS_MAX,
    FLOWS_MAX, PAYLOAD_MAX, ROUND_TRIP_MIN, SESSION_WINDOW,
};
use crate::schedule::Schedule;
use datagrams::Datagrams;
use departed::Departures;
use futile::Futile;
use liveness::Liveness;
use resume::{Carriage, Retained};
use share::Waiting;

pub use datagrams::DatagramCounters;
pub use departed::{Departed, relax};
pub use error::{OpenError, SessionError, TransmitError};
pub use paths::Packets;
pub use resume::{Greeted, parse_greeting, seal_greeting};
pub use snapshot::{SessionSnapshot, SnapshotError};

/// What the session asks its owner to do. Ranges are within the record's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The other end's registrar says something.
    Control(ControlFrame),
    /// The other end opened a flow: connect it, then [`Session::accept_flow`], or
    /// [`Session::handle_reset`].
    Opened(FlowId, Open),
    /// The flow that we opened is connected at the far end.
    Accepted(FlowId),
    /// Bytes for the flow's socket. Once it took them: [`Session::handle_taken`].
    Data(FlowId, Range<usize>),
    /// No more data will come: shut the socket's sending direction down after what is queued.
    Finished(FlowId),
    /// The flow is gone: reset its socket.
    Reset(FlowId, ResetReason),
    /// Datagrams for the flow's socket.
    Datagrams {
        /// Whose they are.
        flow: FlowId,
        /// The size of each but the last, which may be shorter; 0 when there is only one.
        segment: u16,
        /// Where they lie: in the record's content, or in the packet.
        range: Range<usize>,
    },
    /// A datagram for the flow's socket, made whole from its parts.
    Joined(FlowId, Vec<u8>),
}

/// A sealed record, to be sent as it is: the first `len` bytes of `memory`.
#[derive(Debug)]
pub struct Sealed<B> {
    /// The record's memory, shared between the retention and the send in flight.
    pub memory: Rc<B>,
    /// The record's length on the wire.
    pub len: usize,
}

impl<B> Clone for Sealed<B> {
    fn clone(&self) -> Self {
        Self { memory: Rc::clone(&self.memory), len: self.len }
    }
}

/// Counters of a session, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Stream bytes sent and received.
    pub bytes_sent: u64,
    /// Stream bytes received.
    pub bytes_received: u64,
    /// Flows opened, by either side.
    pub flows_opened: u64,
    /// Flows that ended in a reset.
    pub flows_reset: u64,
}

/// One end of a session. `B` is a record's memory: a slot of a pool, or a vector in simulations.
#[derive(Debug)]
pub struct Session<B> {
    side: Side,
    id: SessionId,
    /// Counts the carriers.
    epoch: u64,
    carriage: Carriage,
    grace: Duration,
    /// Flows that we opened while there was no carrier.
    opened_detached: usize,
    /// The flows that are streams.
    flows: HashMap<FlowId, Flow<B>>,
    /// Those that are datagrams, and what waits of them.
    datagrams: Datagrams,
    next_flow: FlowId,
    schedule: Schedule,
    /// Bytes of all flows that wait to be sent.
    queued: usize,
    control: VecDeque<Frame<'static>>,
    credits_due: VecDeque<FlowId>,
    waiting: Waiting,
    /// Memory of the record that small frames are gathered into.
    gathered: Vec<u8>,
    /// Flows whose sockets may be read again.
    readable: VecDeque<FlowId>,
    sent: Sent<B>,
    received: Received,
    liveness: Liveness,
    futile: Futile,
    counters: Counters,
    /// What was sealed since it was last asked for.
    departed: Departures,
    /// A flow that says little stands beside others that say much, as far as is known until then.
    shared_until: Option<Time>,
}

/// What was sent, and how far more may be.
#[derive(Debug)]
struct Sent<B> {
    records: u64,
    retained: VecDeque<Retained<B>>,
    /// How many of the retained records, the last ones, the present carrier has yet to bring.
    unsent: usize,
    /// For how long something was retained and nothing acknowledged, as far as this end was awake,
    /// and until when that is reckoned.
    withheld: Duration,
    reckoned_until: Time,
    /// Stream bytes the other end takes in all.
    grant: u64,
    /// A flow's credit at its opening, as the other end grants it.
    flow_window: u64,
}

/// What was received, and what the other end was told of it.
#[derive(Debug, Default)]
struct Received {
    records: u64,
    /// How many of the next reliable records the older carrier has brought already.
    repeated: u64,
    /// Stream bytes that sockets took, of those in [`Counters::bytes_received`].
    taken: u64,
    polled_records: u64,
    grant: u64,
    /// When the next `POLL` is due, if something is unacknowledged.
    poll_due: Option<Time>,
}

impl<B> Session<B> {
    /// A session that has had no greeting yet. `id` is the relay's random choice, and `grace` how
    /// long it will wait for another carrier; a forwarder passes [`SessionId::NONE`] and any grace,
    /// and learns both from `WELCOME`.
    pub fn new(side: Side, id: SessionId, grace: Duration, now: Time) -> Self {
        Self {
            side,
            id,
            epoch: 0,
            carriage: Carriage::Opening,
            grace,
            opened_detached: 0,
            flows: HashMap::new(),
            datagrams: Datagrams::default(),
            next_flow: side.first_flow(),
            schedule: Schedule::default(),
            queued: 0,
            control: VecDeque::new(),
            credits_due: VecDeque::new(),
            waiting: Waiting::default(),
            gathered: Vec::new(),
            readable: VecDeque::new(),
            sent: Sent {
                records: 0,
                retained: VecDeque::new(),
                unsent: 0,
                withheld: Duration::ZERO,
                reckoned_until: now,
                grant: 0,
                flow_window: 0,
            },
            received: Received { grant: SESSION_WINDOW, ..Received::default() },
            liveness: Liveness::new(now),
            futile: Futile::default(),
            counters: Counters::default(),
            departed: Departures::default(),
            shared_until: None,
        }
    }

    /// Whether `WELCOME` was sent or received: flows may be opened, with a carrier or without.
    pub fn is_up(&self) -> bool {
        self.carriage != Carriage::Opening
    }

    /// Whether there is a carrier that frames may go on.
    pub fn is_carried(&self) -> bool {
        self.carriage == Carriage::Carried
    }

    /// Whether a probe is overdue, or the network has changed, and nothing was heard since: another
    /// carrier is worth having.
    pub fn is_suspect(&self) -> bool {
        self.liveness.is_suspect()
    }

    /// The network has changed: probes the carrier, and suspects it until it answers.
    pub fn handle_doubt(&mut self, now: Time) {
        self.liveness.handle_doubt(now);
    }

    /// Opens a flow to what is registered under the contact point, a stream or one of datagrams.
    ///
    /// # Errors
    /// When the session is not up or has as many flows as it may; for one of datagrams also when
    /// many an `OPEN` waits to be sent already.
    pub fn open_flow(&mut self, open: Open, now: Time) -> Result<FlowId, OpenError> {
        if !self.is_up() {
            return Err(OpenError::NotUp);
        }
        if self.flows() >= FLOWS_MAX {
            return Err(OpenError::Limit);
        }
        let is_datagram = open.protocol == Protocol::Udp;
        let is_flood = self.control.len() >= DATAGRAM_OPENS_QUEUED_MAX
            || self.datagrams.flows() >= DATAGRAM_FLOWS_MAX;
        if is_datagram && is_flood {
            return Err(OpenError::Limit);
        }
        if !self.is_carried() {
            // Anybody's datagram opens a flow: a crowd of them leaves half to connections.
            let max = match open.protocol {
                Protocol::Tcp => DETACHED_FLOWS_MAX,
                Protocol::Udp => DETACHED_FLOWS_MAX / 2,
            };
            if self.opened_detached >= max {
                return Err(OpenError::Detached);
            }
            self.opened_detached += 1;
        }
        while self.has_flow(self.next_flow) {
            self.advance_flow_id();
        }
        let id = self.next_flow;
        self.advance_flow_id();
        let is_unannounced = !self.is_carried();
        if is_datagram {
            self.datagrams.open_flow(id, is_unannounced);
        } else {
            let mut flow = Flow::new(open.contact, self.sent.flow_window, now);
            flow.is_unannounced = is_unannounced;
            self.flows.insert(id, flow);
        }
        self.counters.flows_opened += 1;
        // It will be answered, and what is said of it may cross its end: neither is the other's fault.
        self.futile.redeem();
        self.control.push_back(Frame::Open(id, open));
        Ok(id)
    }

    fn advance_flow_id(&mut self) {
        let next = FlowId(self.next_flow.0.wrapping_add(2));
        self.next_flow = if next.0 < 2 { self.side.first_flow() } else { next };
    }

    fn has_flow(&self, id: FlowId) -> bool {
        self.flows.contains_key(&id) || self.datagrams.has_flow(id)
    }

    /// The flow that the other end opened is connected.
    pub fn accept_flow(&mut self, id: FlowId) {
        if self.has_flow(id) {
            self.control.push_back(Frame::Accept(id));
        }
    }

    /// A flow whose socket may be read again.
    pub fn poll_readable(&mut self) -> Option<FlowId> {
        self.readable.pop_front()
    }

    /// The flow's socket has no more to send; the other direction goes on.
    pub fn handle_end(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.finish();
        self.schedule.activate(flow.contact, id);
    }

    /// The flow is gone at this end: its socket was reset, or it could not be connected.
    pub fn handle_reset(&mut self, id: FlowId, reason: ResetReason) {
        let is_unannounced = match self.flows.get(&id) {
            Some(flow) => flow.is_unannounced,
            None => self.datagrams.is_unannounced(id),
        };
        if !self.remove_flow(id) {
            return;
        }
        self.counters.flows_reset += 1;
        if is_unannounced && !self.is_carried() {
            // The other end has never heard of it.
            self.opened_detached -= 1;
            self.control.retain(|frame| !matches!(frame, Frame::Open(opened, _) if *opened == id));
        } else {
            self.control.push_back(Frame::Reset(id, reason));
        }
    }

    /// The flow's socket took `len` bytes of the other end's data, or will never take them. Counts
    /// for the session even when the flow is gone.
    ///
    /// A socket may still hand out what came in a session before this one: no more counts than
    /// was received in this one.
    pub fn handle_taken(&mut self, id: FlowId, len: usize, now: Time) {
        self.received.taken = self.counters.bytes_received.min(self.received.taken + len as u64);
        // No window grows beyond two thirds of what slow sockets leave of the grant.
        let window_max = SESSION_WINDOW.saturating_sub(self.bytes_waiting()) / 3 * 2;
        let round_trip = self.liveness.round_trip_min().max(ROUND_TRIP_MIN);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.handle_taken(len, now, round_trip, window_max) && !flow.is_credit_due {
            flow.is_credit_due = true;
            self.credits_due.push_back(id);
        }
    }

    /// Sends a registrar's frame.
    pub fn handle_control(&mut self, frame: ControlFrame) {
        self.control.push_back(frame.into());
    }

    /// Ends the session from this side: nothing but a last word is sent any more. Its flows are
    /// gone; the other end resets them when it hears it.
    pub fn handle_close(&mut self, reason: GoawayReason, why: &str) {
        self.flows.clear();
        self.datagrams.clear();
        self.queued = 0;
        self.control.clear();
        self.credits_due.clear();
        self.handle_goaway(reason, why);
    }

    /// Tells the other end that this one drains or ends.
    pub fn handle_goaway(&mut self, reason: GoawayReason, text: &str) {
        let goaway = Goaway { reason, text: text.to_owned(), place: String::new() };
        self.handle_control(ControlFrame::Goaway(goaway));
    }

    /// Whether control frames wait to be sent.
    pub fn owes_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Flows' bytes that wait to be sent.
    pub fn bytes_queued(&self) -> usize {
        self.queued
    }

    /// Flows that are open, streams and those of datagrams.
    pub fn flows(&self) -> usize {
        self.flows.len() + self.datagrams.flows()
    }

    /// Reliable records sent that the other end has not acknowledged.
    pub fn records_retained(&self) -> usize {
        self.sent.retained.len()
    }

    /// Memory that waits to be sent or acknowledged, in bytes; full records are assumed.
    pub fn bytes_held(&self) -> usize {
        self.queued + self.sent.retained.len() * PAYLOAD_MAX
    }

    /// Stream bytes received that no socket has taken yet.
    pub fn bytes_waiting(&self) -> u64 {
        self.counters.bytes_received - self.received.taken
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The session's id; [`SessionId::NONE`] until a forwarder has learnt it.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The smoothed round trip, zero while unknown.
    pub fn round_trip(&self) -> Duration {
        self.liveness.round_trip()
    }

    fn remove_flow(&mut self, id: FlowId) -> bool {
        let Some(flow) = self.flows.remove(&id) else { return self.datagrams.remove_flow(id) };
        self.queued -= flow.queued();
        true
    }

    fn remove_if_over(&mut self, id: FlowId) {
        if self.flows.get(&id).is_some_and(Flow::is_over) {
            self.remove_flow(id);
        }
    }

    fn check_control(&self) -> Result<(), SessionError> {
        if self.control.len() > CONTROL_QUEUED_MAX { Err(SessionError::Flooded) } else { Ok(()) }
    }
}

impl<B: AsRef<[u8]> + From<Box<[u8]>>> Session<B> {
    /// Takes what was read from the flow's socket. It is dropped when the flow is gone.
    pub fn handle_input(&mut self, id: FlowId, chunk: Chunk<B>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        self.queued += chunk.payload.len();
        flow.push(chunk);
        self.schedule.activate(flow.contact, id);
    }

    /// Lets `copy` replace the memory of what waits and of what is retained: a session without a
    /// carrier is not to hold what others need.
    pub fn move_out(&mut self, copy: impl Fn(&B) -> Option<B>) {
        self.flows.values_mut().for_each(|flow| flow.move_out(&copy));
        self.sent.retained.iter_mut().for_each(|record| record.move_out(&copy));
    }
}
