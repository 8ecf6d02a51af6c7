//! What a pump tells the control plane.

use std::collections::BTreeMap;

use adit_proto::frame::{ControlFrame, GoawayReason, Open, ResetReason};
use adit_proto::id::{FlowId, SessionId};
use serde::{Deserialize, Serialize};

use super::{ContactReport, SessionKey, Times};
use crate::key::PublicKey;
use crate::upgrade::Parcel;

/// What a pump tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// `WELCOME` was sent or received: the session begins, or goes on on another carrier.
    Up {
        /// Which session.
        session: SessionKey,
        /// The name that came with the carrier; another one where that resumes `session`.
        carrier: SessionKey,
        /// The session's name on the wire.
        id: SessionId,
        /// Whether it goes on: what was registered is, and flows run.
        is_resumed: bool,
    },
    /// The session has no carrier any more; it waits for another.
    Lost {
        /// Which session.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// The session's carrier does not answer in time, or does so again.
    Suspect {
        /// Which session.
        session: SessionKey,
        /// Whether another carrier is worth having.
        is_suspect: bool,
    },
    /// A carrier came to nothing; the session that it was for is as it was.
    Dropped {
        /// The name that came with the carrier.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// A registrar's frame from the other end.
    Frame {
        /// Which session.
        session: SessionKey,
        /// The frame.
        frame: ControlFrame,
    },
    /// The other end has opened a flow to a name or an address: wants a [`Command::Answer`](super::Command::Answer).
    Opened {
        /// Which session.
        session: SessionKey,
        /// Which flow.
        flow: FlowId,
        /// Where it is to lead, and who calls.
        open: Open,
    },
    /// Whether a flow's far end is there that the control plane waits to hear of; once for each.
    Heard {
        /// The number that came with the connection.
        call: u64,
        /// Whether, or why not.
        heard: Result<(), ResetReason>,
    },
    /// The session has ended and its key is free.
    Down {
        /// Which session.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// The pump's loop turns.
    Pulse(Asked),
    /// What the pump holds at the moment.
    Report(Report),
    /// Bytes that owners have moved since this was last told, streams and datagrams, both ways
    /// together; at the relay, and before the session ends that moved them.
    Moved(Vec<(PublicKey, u64)>),
    /// The pump stands still: the kernel has nothing of it.
    Quiet,
    /// All that a pump has, for another process.
    Packed {
        /// Which pump, as it was asked.
        pump: usize,
        /// All of it, or why not.
        packed: Result<Parcel, String>,
    },
    /// The pump has taken over what was left to it, or why not.
    Restored(Result<(), String>),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// The control plane asked for it, or it had drained.
    #[error("closed from this end")]
    Closed,
    /// The carrier was closed or reset, by the other end or on the way.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The other end did not answer probes.
    #[error("no answer from the other end")]
    Silent,
    /// The other end said goodbye in so many words.
    #[error("the other end ended the session: {1}")]
    Goaway(GoawayReason, String),
    /// No carrier came in time; the flows were reset.
    #[error("no other connection came in time: its flows are reset")]
    Grace,
    /// The carrier that it was to replace answers again.
    #[error("the present connection answers again")]
    Spare,
    /// The other end does not know this key.
    #[error("the other end does not accept this key")]
    Denied,
    /// The other end broke the protocol.
    #[error("the other end broke the protocol: {0}")]
    Broken(String),
}

/// Which question a report answers, and whose answer it is: one that comes late must not stand for
/// another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Counts the questions.
    pub round: u64,
    /// Which pump was asked.
    pub pump: usize,
}

/// A snapshot of one pump.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it answers.
    pub asked: Asked,
    /// Bytes of buffers that hold something.
    pub memory_held: usize,
    /// Bytes that the pools may grow to.
    pub memory_max: usize,
    /// One entry per session.
    pub sessions: Vec<SessionReport>,
    /// What was counted for each contact point.
    pub contacts: Vec<ContactReport>,
    /// What was measured, where that was asked for.
    pub times: Option<Vec<Times>>,
}

/// A session's datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramReport {
    /// Where they go while they have a path of their own; nothing while they ride the carrier.
    pub path: Option<String>,
    /// The length of the path's packets, as UDP payload.
    pub packet_bytes: usize,
    /// Sent into the tunnel.
    pub sent: u64,
    /// Received from the tunnel.
    pub received: u64,
    /// Dropped, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Packets of the path that were refused, by cause.
    pub packets_refused: BTreeMap<String, u64>,
    /// How often the path was lost, and datagrams fell back to the carrier.
    pub path_losses: u64,
}

/// A snapshot of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionReport {
    /// The control plane's name for it.
    pub key: u64,
    /// Whom it is with.
    pub name: String,
    /// Its name on the wire, shortened.
    pub id: String,
    /// The carrier's other end; empty while there is none.
    pub carrier: String,
    /// How often another carrier has taken over.
    pub resumptions: u64,
    /// Smoothed round trip through the tunnel, in microseconds; 0 while unknown.
    pub round_trip_us: u64,
    /// Flows that are open.
    pub flows: usize,
    /// Flows opened since the start.
    pub flows_opened: u64,
    /// Flows refused or not connected.
    pub flows_failed: u64,
    /// Connections turned away for where they come from.
    pub flows_forbidden: u64,
    /// Connections turned away by the owner's quota.
    pub flows_over_quota: u64,
    /// Datagrams.
    pub datagrams: DatagramReport,
    /// Stream bytes sent into the tunnel.
    pub bytes_sent: u64,
    /// Stream bytes received from the tunnel.
    pub bytes_received: u64,
    /// Records sent that the other end has not acknowledged.
    pub records_retained: usize,
    /// Stream bytes received that no socket has taken yet.
    pub bytes_waiting: u64,
}
