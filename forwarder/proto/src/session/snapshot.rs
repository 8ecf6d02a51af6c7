//! A session as one process leaves it to another, which goes on with it, and with what carries it: the
//! other end sees nothing but a pause. Where the carrier is not passed on, it was lost.
//!
//! What is retained is kept opened, and sealed anew should it have to be sent again. Deliberately absent:
//! what a carrier's loss loses as well (round trips, datagrams that wait), and what whoever has the sockets
//! finds out by asking again (who waits for room).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::datagrams::DatagramsSnapshot;
use super::liveness::Liveness;
use super::resume::{Carriage, Retained};
use super::{Counters, Received, Sent, Session};
use crate::flow::{Flow, FlowSnapshot};
use crate::frame::{Frame, FrameError, Frames};
use crate::id::{FlowId, SessionId, Side, Time};
use crate::limits::{CONTENT_MAX, CONTROL_QUEUED_MAX, FLOWS_MAX, RETAINED_RECORDS_MAX};
use crate::record::RecordError;

/// All of a session that outlives its process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionSnapshot {
    side: Side,
    id: SessionId,
    epoch: u64,
    grace: Duration,
    opened_detached: usize,
    next_flow: FlowId,
    flows: Vec<(FlowId, FlowSnapshot)>,
    datagrams: DatagramsSnapshot,
    /// As frames.
    control: Bytes,
    credits_due: Vec<FlowId>,
    records_sent: u64,
    /// The contents of the records that are retained.
    retained: Vec<Bytes>,
    grant: u64,
    flow_window: u64,
    records_received: u64,
    bytes_taken: u64,
    records_polled: u64,
    bytes_granted: u64,
    counters: Counters,
    carried: Option<CarriedSnapshot>,
}

/// What counts on the present carrier alone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct CarriedSnapshot {
    /// How many of the retained records are yet to be sent on it.
    unsent: usize,
    /// How many of the records to come are those of an older one.
    repeated: u64,
    probe: u64,
    probe_to_answer: Option<u64>,
}

/// Why a session cannot be left to another process, or not be taken over.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    /// Nobody could go on with it.
    #[error("the session has not begun")]
    NotUp,
    /// A retained record cannot be opened.
    #[error("a retained record cannot be opened: {0}")]
    Retained(#[from] RecordError),
    /// What waits to be said is no frames.
    #[error("what waits to be said cannot be read: {0}")]
    Control(#[from] FrameError),
    /// There is more of something than a session may have.
    #[error("it has more {0} than a session may have")]
    TooMany(&'static str),
    /// The datagram path cannot be read.
    #[error("its datagram path cannot be read")]
    Path,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + From<Box<[u8]>>> Session<B> {
    /// The session as it is now. It may go on here all the same, should nobody take it over; what it
    /// does then is not in the snapshot.
    ///
    /// # Errors
    /// When it has not begun, or what it retains is spoilt.
    pub fn snapshot(&self) -> Result<SessionSnapshot, SnapshotError> {
        if !self.is_up() {
            return Err(SnapshotError::NotUp);
        }
        let mut flows: Vec<_> =
            self.flows.iter().map(|(id, flow)| (*id, flow.snapshot())).collect();
        flows.sort_unstable_by_key(|(id, _)| *id);
        let mut control = Vec::new();
        self.control.iter().for_each(|frame| frame.encode(&mut control));
        let retained = self.sent.retained.iter().map(Retained::content);
        Ok(SessionSnapshot {
            side: self.side,
            id: self.id,
            epoch: self.epoch,
            grace: self.grace,
            opened_detached: self.opened_detached,
            next_flow: self.next_flow,
            flows,
            datagrams: self.datagrams.snapshot(),
            control: control.into(),
            credits_due: self.credits_due.iter().copied().collect(),
            records_sent: self.sent.records,
            retained: retained.collect::<Result<_, _>>()?,
            grant: self.sent.grant,
            flow_window: self.sent.flow_window,
            records_received: self.received.records,
            bytes_taken: self.received.taken,
            records_polled: self.received.polled_records,
            bytes_granted: self.received.grant,
            counters: self.counters,
            carried: self.is_carried().then(|| self.carried_snapshot()),
        })
    }

    fn carried_snapshot(&self) -> CarriedSnapshot {
        let (probe, probe_to_answer) = self.liveness.leave();
        let (unsent, repeated) = (self.sent.unsent, self.received.repeated);
        CarriedSnapshot { unsent, repeated, probe, probe_to_answer }
    }

    /// Goes on with a session that was left, on the carrier that it had, and otherwise without one: then
    /// the grace begins now. Should the carrier not be here, [`Session::handle_carrier_lost`] is next.
    ///
    /// # Errors
    /// When it is none that this version can go on with.
    pub fn restore(snapshot: SessionSnapshot, now: Time) -> Result<Self, SnapshotError> {
        check(&snapshot)?;
        let SessionSnapshot { side, id, epoch, grace, counters, carried, .. } = snapshot;
        let probes = carried.map(|left| Liveness::take_over(left.probe, left.probe_to_answer, now));
        let mut session = Self {
            epoch,
            carriage: carried.map_or(Carriage::Lost { since: now }, |_| Carriage::Carried),
            liveness: probes.unwrap_or_else(|| Liveness::new(now)),
            opened_detached: snapshot.opened_detached,
            next_flow: snapshot.next_flow,
            control: control(&snapshot.control)?,
            credits_due: snapshot.credits_due.into(),
            sent: Sent {
                records: snapshot.records_sent,
                retained: snapshot.retained.into_iter().map(Retained::from).collect(),
                unsent: carried.map_or(0, |left| left.unsent),
                withheld: Duration::ZERO,
                reckoned_until: now,
                grant: snapshot.grant,
                flow_window: snapshot.flow_window,
            },
            received: Received {
                records: snapshot.records_received,
                repeated: carried.map_or(0, |left| left.repeated),
                taken: snapshot.bytes_taken,
                polled_records: snapshot.records_polled,
                grant: snapshot.bytes_granted,
                poll_due: carried.map(|_| now),
            },
            counters,
            ..Self::new(side, id, grace, now)
        };
        session.datagrams.restore(snapshot.datagrams, side, now).ok_or(SnapshotError::Path)?;
        for (id, flow) in snapshot.flows {
            let flow = Flow::restore(flow).ok_or(SnapshotError::TooMany("bytes in one piece"))?;
            session.queued += flow.queued();
            if flow.is_active() {
                session.schedule.activate(flow.contact, id);
            }
            session.flows.insert(id, flow);
        }
        Ok(session)
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The flows of datagrams, the lowest id first.
    pub fn datagram_flows(&self) -> Vec<FlowId> {
        self.datagrams.flow_ids()
    }

    /// The streams, the lowest id first.
    pub fn stream_flows(&self) -> Vec<FlowId> {
        let mut ids: Vec<FlowId> = self.flows.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

fn check(snapshot: &SessionSnapshot) -> Result<(), SnapshotError> {
    // The last turn may have added a gathered record and a full one.
    let too_many = if snapshot.retained.len() > RETAINED_RECORDS_MAX + 2 {
        "retained records"
    } else if snapshot.retained.iter().any(|content| content.len() > CONTENT_MAX) {
        "bytes in a record"
    } else if snapshot.retained.len() as u64 > snapshot.records_sent {
        "records retained than sent"
    } else if snapshot.carried.is_some_and(|left| left.unsent > snapshot.retained.len()) {
        "records to be sent than retained"
    } else if snapshot.flows.len() + snapshot.datagrams.flows() > FLOWS_MAX {
        "flows"
    } else if snapshot.bytes_taken > snapshot.counters.bytes_received {
        "bytes taken than received"
    } else {
        return Ok(());
    };
    Err(SnapshotError::TooMany(too_many))
}

fn control(frames: &[u8]) -> Result<VecDeque<Frame<'static>>, SnapshotError> {
    let mut control = VecDeque::new();
    for frame in Frames::new(frames) {
        let frame = frame?.into_owned().ok_or(SnapshotError::TooMany("kinds of frames waiting"))?;
        if control.len() > CONTROL_QUEUED_MAX {
            return Err(SnapshotError::TooMany("frames waiting"));
        }
        control.push_back(frame);
    }
    Ok(control)
}
