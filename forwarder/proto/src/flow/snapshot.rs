//! A flow as one process leaves it to another.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Chunk, Flow, Pace, Sending, Window};
use crate::id::{ContactId, Time};
use crate::limits::{GATHERED_MAX, PAYLOAD_MAX, RECORD_TRAILER, SLOT_HEADROOM};

/// All of a flow that is not to be found out anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FlowSnapshot {
    contact: ContactId,
    queue: Vec<(Bytes, Time)>,
    sending: Sending,
    offset: u64,
    credit: u64,
    taken: u64,
    has_said_blocked: bool,
    is_unannounced: bool,
    received: u64,
    is_finished_by_peer: bool,
    window: Window,
    is_awaited: bool,
    is_credit_due: bool,
}

impl<B: AsRef<[u8]>> Flow<B> {
    pub(crate) fn snapshot(&self) -> FlowSnapshot {
        let piece = |chunk: &Chunk<B>| (Bytes::copy_from_slice(chunk.bytes()), chunk.at);
        FlowSnapshot {
            contact: self.contact,
            queue: self.queue.iter().map(piece).collect(),
            sending: self.sending,
            offset: self.offset,
            credit: self.credit,
            taken: self.taken,
            has_said_blocked: self.has_said_blocked,
            is_unannounced: self.is_unannounced,
            received: self.received,
            is_finished_by_peer: self.is_finished_by_peer,
            window: self.window,
            is_awaited: self.is_awaited,
            is_credit_due: self.is_credit_due,
        }
    }
}

impl<B: From<Box<[u8]>>> Flow<B> {
    /// The flow as it was left. Nobody waits for room in it yet: its socket is to be read again.
    /// `None` when a piece is longer than any that a socket is read in.
    pub(crate) fn restore(snapshot: FlowSnapshot) -> Option<Self> {
        let queue: Option<_> = snapshot.queue.iter().map(|(bytes, at)| chunk(bytes, *at)).collect();
        Some(Self {
            queue: queue?,
            queued: snapshot.queue.iter().map(|(bytes, _)| bytes.len()).sum(),
            sending: snapshot.sending,
            offset: snapshot.offset,
            // As if it had said little so far: how much it really says shows soon.
            pace: Pace { since: Time::default(), offset: snapshot.offset, is_slow: true },
            taken: snapshot.taken,
            has_said_blocked: snapshot.has_said_blocked,
            is_unannounced: snapshot.is_unannounced,
            received: snapshot.received,
            is_finished_by_peer: snapshot.is_finished_by_peer,
            window: snapshot.window,
            is_awaited: snapshot.is_awaited,
            is_credit_due: snapshot.is_credit_due,
            ..Self::new(snapshot.contact, snapshot.credit, Time::default())
        })
    }
}

/// A long payload lies where it will be sealed.
fn chunk<B: From<Box<[u8]>>>(bytes: &Bytes, at: Time) -> Option<Chunk<B>> {
    if bytes.len() > PAYLOAD_MAX {
        return None;
    }
    if bytes.len() <= GATHERED_MAX {
        return Some(Chunk { memory: B::from(Box::from(&**bytes)), payload: 0..bytes.len(), at });
    }
    let payload = SLOT_HEADROOM..SLOT_HEADROOM + bytes.len();
    let mut memory = Vec::with_capacity(payload.end + RECORD_TRAILER);
    memory.extend_from_slice(&[0; SLOT_HEADROOM]);
    memory.extend_from_slice(bytes);
    memory.extend_from_slice(&[0; RECORD_TRAILER]);
    Some(Chunk { memory: B::from(memory.into_boxed_slice()), payload, at })
}
