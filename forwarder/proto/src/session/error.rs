//! What can be wrong with the other end, and why a flow cannot be opened.

use crate::frame::{FrameError, Kind};
use crate::id::FlowId;
use crate::limits::{
    DETACHED_FLOWS_MAX, FLOWS_MAX, FUTILE_FRAMES_MAX, PING_MISSED_MAX, UNACKNOWLEDGED_MAX, VERSION,
};
use crate::record::{RecordError, SealError};

/// What the other end did wrong, or did not do; it concerns one session and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Its bytes are not frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It speaks another version of the protocol.
    #[error("it speaks version {0} of the protocol, this end version {VERSION}")]
    Version(u16),
    /// A frame came where its kind may not.
    #[error("a {0:?} frame came out of place")]
    Unexpected(Kind),
    /// Reliable and unreliable frames in one record could not be counted.
    #[error("one record mixed reliable and unreliable frames")]
    Mixed,
    /// It sent more than a flow's credit.
    #[error("flow {} went beyond its credit, or its end", .0.0)]
    Credit(FlowId),
    /// It sent more than the session's grant.
    #[error("it went beyond the session's grant")]
    Grant,
    /// It acknowledged records that were never sent: the ends disagree for good.
    #[error("it acknowledged {acknowledged} records of {sent}")]
    Acknowledged {
        /// The count it claims.
        acknowledged: u64,
        /// The count that was sent.
        sent: u64,
    },
    /// It will not send again what this end lacks: the ends disagree for good.
    #[error("it goes on from record {replays_from}, and this end has {received}")]
    Gap {
        /// Where it goes on.
        replays_from: u64,
        /// What arrived.
        received: u64,
    },
    /// A carrier that has been overtaken by a newer one; it changes nothing.
    #[error("carrier {offered} of the session comes after carrier {present}")]
    Stale {
        /// The epoch that it offers.
        offered: u64,
        /// The newest that was seen.
        present: u64,
    },
    /// It opened a flow under an id that is not its to choose, or in use.
    #[error("it opened flow {}, which is not free to it", .0.0)]
    FlowTaken(FlowId),
    /// It sent bytes for a flow of datagrams, or datagrams for a stream.
    #[error("flow {} is of another protocol than what came for it", .0.0)]
    WrongProtocol(FlowId),
    /// It makes us owe more answers than it takes.
    #[error("it asks more than it reads")]
    Flooded,
    /// It sends frames that change nothing, and hardly any others.
    #[error("it sent more than {FUTILE_FRAMES_MAX} frames that change nothing")]
    Futile,
    /// It answers probes and acknowledges nothing.
    #[error("it acknowledged nothing for {} s", UNACKNOWLEDGED_MAX.as_secs())]
    Unacknowledged,
    /// It grants flows less than one record's payload.
    #[error("it grants a flow only {0} bytes, less than one record")]
    FlowWindow(u64),
    /// It answers no probes: the carrier is lost, the session is not.
    #[error("it answered none of {PING_MISSED_MAX} probes")]
    Silent,
    /// No carrier came back in time.
    #[error("no carrier came back within the session's grace")]
    Grace,
}

/// Why nothing can be sent any more.
#[derive(Debug, thiserror::Error)]
pub enum TransmitError {
    /// The key may seal no more.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A retained record could not be opened to be sent again.
    #[error("a retained record could not be sent again: {0}")]
    Replay(#[from] RecordError),
}

/// Why a flow cannot be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// `WELCOME` has not come yet.
    #[error("the tunnel is not up yet")]
    NotUp,
    /// The session has [`FLOWS_MAX`] flows, or datagram flows are opened faster than it can say.
    #[error("the tunnel has {FLOWS_MAX} flows already, or too many are being opened at once")]
    Limit,
    /// There is no carrier, and [`DETACHED_FLOWS_MAX`] flows wait for one.
    #[error("{DETACHED_FLOWS_MAX} connections wait for the tunnel already")]
    Detached,
}
