//! Datagrams that wait to be sent: first in, first out, in one arena of bytes.

use std::collections::VecDeque;

use crate::frame::{Datagram, Frame};
use crate::id::{FlowId, Time};
use crate::limits::{
    DATAGRAM_COST, DATAGRAM_PART_HEADER, DATAGRAM_PART_MIN, DATAGRAM_SEGMENTS_MAX,
    DATAGRAM_WHOLE_HEADER,
};

/// A batch of one flow: datagrams of equal size, of which the last may be shorter.
#[derive(Clone, Copy, Debug)]
struct Entry {
    flow: FlowId,
    /// The size of each; 0 when there is only one.
    segment: u16,
    /// Bytes of it that still lie in the arena.
    len: usize,
    at: Time,
    /// The first datagram is being sent in parts.
    cut: Option<Cut>,
}

/// How far a datagram that goes in parts has come.
#[derive(Clone, Copy, Debug)]
struct Cut {
    number: u16,
    offset: u16,
    total: u16,
}

/// The batch that is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) flow: FlowId,
    pub(crate) at: Time,
    /// A part of its first datagram has been sent: the others are to follow.
    pub(crate) is_cut: bool,
}

/// What one frame took from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Datagrams that are sent with it; of one in parts only the last part counts.
    pub(crate) datagrams: u64,
    pub(crate) bytes: usize,
    /// Nothing is left of the batch.
    pub(crate) is_last: bool,
}

/// Batches in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: VecDeque<u8>,
    entries: VecDeque<Entry>,
}

impl Entry {
    /// The length of the first datagram, as far as it has not been sent.
    fn first_len(&self) -> usize {
        match (self.cut, self.segment) {
            (Some(cut), _) => usize::from(cut.total - cut.offset),
            (None, 0) => self.len,
            (None, segment) => self.len.min(segment.into()),
        }
    }

    fn datagrams(&self) -> u64 {
        let behind = self.len - self.first_len();
        // A batch of one has no segment, and nothing behind its first.
        1 + behind.div_ceil(usize::from(self.segment).max(1)) as u64
    }
}

impl Queue {
    /// Puts a batch last. `segment` is 0 for one datagram.
    pub(crate) fn push(&mut self, flow: FlowId, segment: u16, payload: &[u8], at: Time) {
        self.bytes.extend(payload);
        self.entries.push_back(Entry { flow, segment, len: payload.len(), at, cut: None });
    }

    /// What the queue takes up, as [`crate::limits::DATAGRAMS_QUEUED_MAX`] counts it.
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + self.entries.len() * DATAGRAM_COST
    }

    /// Batches that wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The batch that is next.
    pub(crate) fn front(&self) -> Option<Front> {
        let entry = self.entries.front()?;
        let is_cut = entry.cut.is_some_and(|cut| cut.offset > 0);
        Some(Front { flow: entry.flow, at: entry.at, is_cut })
    }

    /// Drops the batch that is next; returns how many datagrams are lost with it.
    pub(crate) fn drop_front(&mut self) -> u64 {
        let Some(entry) = self.entries.pop_front() else { return 0 };
        self.bytes.drain(..entry.len);
        entry.datagrams()
    }

    /// Moves the batches that `belongs` names, in their order, behind those of `other`.
    pub(crate) fn move_to(&mut self, other: &mut Self, mut belongs: impl FnMut(FlowId) -> bool) {
        let entries = std::mem::take(&mut self.entries);
        let bytes = std::mem::take(&mut self.bytes);
        let bytes = Vec::from(bytes);
        let mut kept = Vec::with_capacity(bytes.len());
        let mut start = 0;
        for entry in entries {
            let end = start + entry.len;
            let payload = bytes.get(start..end).unwrap_or_default();
            if belongs(entry.flow) {
                other.bytes.extend(payload);
                other.entries.push_back(entry);
            } else {
                kept.extend_from_slice(payload);
                self.entries.push_back(entry);
            }
            start = end;
        }
        self.bytes = kept.into();
    }

    /// Appends the next frame to `out`, where `room` bytes are left of a record or packet that
    /// takes `full`. `None` when there is nothing, or it is worth waiting for an empty one. `number`
    /// counts the datagrams that were cut.
    pub(crate) fn encode(
        &mut self,
        room: usize,
        full: usize,
        number: &mut u16,
        out: &mut Vec<u8>,
    ) -> Option<Taken> {
        let entry = self.entries.front_mut()?;
        if entry.cut.is_none() {
            let frame_len = DATAGRAM_WHOLE_HEADER + entry.first_len();
            if frame_len <= room {
                return self.encode_whole(room, out);
            }
            if frame_len <= full {
                return None;
            }
            let total = u16::try_from(entry.first_len()).ok()?;
            entry.cut = Some(Cut { number: *number, offset: 0, total });
            *number = number.wrapping_add(1);
        }
        self.encode_part(room, out)
    }

    /// As many of the batch as there is room for; the caller knows that there is for one.
    fn encode_whole(&mut self, room: usize, out: &mut Vec<u8>) -> Option<Taken> {
        let entry = self.entries.front_mut()?;
        let segment = usize::from(entry.segment);
        let room = room - DATAGRAM_WHOLE_HEADER;
        let len = match room.checked_div(segment) {
            None => entry.len,
            Some(_) if entry.len <= room && entry.len <= segment * DATAGRAM_SEGMENTS_MAX => {
                entry.len
            }
            Some(count) => entry.len.min(segment * count.min(DATAGRAM_SEGMENTS_MAX)),
        };
        let before = entry.datagrams();
        entry.len -= len;
        let is_last = entry.len == 0;
        let datagrams = if is_last { before } else { before - entry.datagrams() };
        let segment = if datagrams > 1 { entry.segment } else { 0 };
        let head = Frame::Datagram(entry.flow, Datagram::Whole { segment, payload: &[] });
        self.encode_with(&head, len, out);
        Some(self.taken(datagrams, len, is_last))
    }

    fn encode_part(&mut self, room: usize, out: &mut Vec<u8>) -> Option<Taken> {
        let entry = self.entries.front_mut()?;
        let Cut { number, offset, total } = entry.cut?;
        let left = entry.first_len();
        let len = room.checked_sub(DATAGRAM_PART_HEADER)?.min(left);
        if len < left.min(DATAGRAM_PART_MIN) {
            return None;
        }
        let part = Datagram::Part { number, offset, total, payload: &[] };
        let head = Frame::Datagram(entry.flow, part);
        let offset = offset + u16::try_from(len).ok()?;
        let is_whole = offset == total;
        entry.cut = (!is_whole).then_some(Cut { number, offset, total });
        entry.len -= len;
        let is_last = entry.len == 0;
        self.encode_with(&head, len, out);
        Some(self.taken(is_whole.into(), len, is_last))
    }

    /// Appends the frame whose payload is the arena's first `len` bytes.
    fn encode_with(&mut self, head: &Frame<'_>, len: usize, out: &mut Vec<u8>) {
        let start = out.len();
        head.encode(out);
        let (first, second) = self.bytes.as_slices();
        let first = first.get(..len).unwrap_or(first);
        out.extend_from_slice(first);
        out.extend_from_slice(second.get(..len - first.len()).unwrap_or_default());
        self.bytes.drain(..len);
        Frame::set_length(out, start);
    }

    fn taken(&mut self, datagrams: u64, bytes: usize, is_last: bool) -> Taken {
        if is_last {
            self.entries.pop_front();
        }
        Taken { datagrams, bytes, is_last }
    }
}
