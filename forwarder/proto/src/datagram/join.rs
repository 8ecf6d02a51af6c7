//! Datagrams that come in parts, until they are whole.
//!
//! Parts may come in any order and twice, and some never: each datagram has a time, and a newer one
//! pushes the oldest out.

use std::collections::VecDeque;
use std::ops::Range;

use crate::id::{FlowId, Time};
use crate::limits::{DATAGRAM_MAX, JOIN_BEHIND_MAX, JOIN_PARTS_MAX, JOIN_TIME_MAX, JOINS_MAX};

/// A part of a datagram, as its frame has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) flow: FlowId,
    pub(crate) number: u16,
    pub(crate) offset: u16,
    pub(crate) total: u16,
    pub(crate) payload: &'a [u8],
}

/// One datagram of which something is missing.
#[derive(Debug)]
struct Join {
    flow: FlowId,
    number: u16,
    total: usize,
    since: Time,
    /// The bytes as far as any part has reached.
    bytes: Vec<u8>,
    /// Where the parts lie that have come.
    parts: Vec<Range<usize>>,
    /// How many bytes they are.
    joined: usize,
}

/// The datagrams of one session that wait for their parts, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    joins: VecDeque<Join>,
    dropped: u64,
}

impl Joins {
    /// Takes a part, and returns the datagram that it makes whole.
    pub(crate) fn handle_part(&mut self, part: Part<'_>, now: Time) -> Option<Vec<u8>> {
        self.expire(now);
        self.forget_overtaken(part.number);
        let total = usize::from(part.total);
        if total > DATAGRAM_MAX {
            self.dropped += 1;
            return None;
        }
        let index = self.find(&part, now);
        let join = self.joins.get_mut(index)?;
        if !join.take(&part) {
            // More parts than anyone has reason to cut it into.
            self.remove(index);
            self.dropped += 1;
            return None;
        }
        (join.joined == total).then(|| self.remove(index)).flatten()
    }

    /// Forgets what has waited too long for its parts.
    pub(crate) fn expire(&mut self, now: Time) {
        while self.joins.front().is_some_and(|join| now.since(join.since) > JOIN_TIME_MAX) {
            self.joins.pop_front();
            self.dropped += 1;
        }
    }

    /// Forgets what is so far behind `number` that its own may come to name another datagram.
    fn forget_overtaken(&mut self, number: u16) {
        let before = self.joins.len();
        let is_near = |join: &Join| {
            let behind = number.wrapping_sub(join.number);
            behind <= JOIN_BEHIND_MAX || behind > u16::MAX - JOIN_BEHIND_MAX
        };
        self.joins.retain(is_near);
        self.dropped += (before - self.joins.len()) as u64;
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.dropped += self.joins.len() as u64;
        self.joins.clear();
    }

    /// Datagrams that never became whole.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Where the part's datagram stands; a new one comes last.
    fn find(&mut self, part: &Part<'_>, now: Time) -> usize {
        let total = usize::from(part.total);
        let is_same =
            |join: &Join| (join.flow, join.number, join.total) == (part.flow, part.number, total);
        if let Some(index) = self.joins.iter().position(is_same) {
            return index;
        }
        if self.joins.len() >= JOINS_MAX {
            self.joins.pop_front();
            self.dropped += 1;
        }
        self.joins.push_back(Join {
            flow: part.flow,
            number: part.number,
            total,
            since: now,
            bytes: Vec::new(),
            parts: Vec::new(),
            joined: 0,
        });
        self.joins.len() - 1
    }

    fn remove(&mut self, index: usize) -> Option<Vec<u8>> {
        self.joins.remove(index).map(|join| join.bytes)
    }
}

impl Join {
    /// Puts the part where it belongs; false when there are too many. What has come already stays
    /// as it came first.
    fn take(&mut self, part: &Part<'_>) -> bool {
        let start = usize::from(part.offset);
        let end = start + part.payload.len();
        if self.parts.iter().any(|known| start < known.end && known.start < end) {
            return true;
        }
        if self.parts.len() >= JOIN_PARTS_MAX {
            return false;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(part.payload);
        }
        self.parts.push(start..end);
        self.joined += part.payload.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn part(number: u16, offset: u16, total: u16, payload: &[u8]) -> Part<'_> {
        Part { flow: FlowId(2), number, offset, total, payload }
    }

    /// Parts make the datagram in whatever order they come, and however often.
    #[test]
    fn parts_join_in_any_order() {
        let mut joins = Joins::default();
        assert_eq!(joins.handle_part(part(7, 3, 6, b"def"), Time(0)), None);
        assert_eq!(joins.handle_part(part(7, 3, 6, b"def"), Time(0)), None);
        assert_eq!(joins.handle_part(part(8, 0, 6, b"ghi"), Time(0)), None);
        assert_eq!(joins.handle_part(part(7, 0, 6, b"abc"), Time(0)), Some(b"abcdef".to_vec()));
        assert_eq!((joins.joins.len(), joins.dropped()), (1, 0));
    }

    /// What misses a part for too long is forgotten, and so is the oldest of too many.
    #[test]
    fn what_stays_incomplete_is_dropped_and_counted() {
        let mut joins = Joins::default();
        for number in 0..20 {
            assert_eq!(joins.handle_part(part(number, 0, 2, b"a"), Time(0)), None);
        }
        assert_eq!((joins.joins.len(), joins.dropped()), (JOINS_MAX, 4));
        assert_eq!(joins.handle_part(part(0, 1, 2, b"b"), Time(0)), None);
        assert_eq!((joins.joins.len(), joins.dropped()), (JOINS_MAX, 5));
        joins.expire(Time(0) + JOIN_TIME_MAX + Duration::from_nanos(1));
        assert_eq!((joins.joins.len(), joins.dropped()), (0, 21));
    }

    /// A number that comes round again does not find what it named before.
    #[test]
    fn a_reused_number_names_another_datagram() {
        let mut joins = Joins::default();
        assert_eq!(joins.handle_part(part(1, 0, 2, b"a"), Time(0)), None);
        assert_eq!(joins.handle_part(part(30_000, 0, 2, b"a"), Time(0)), None);
        assert_eq!(joins.handle_part(part(1, 1, 2, b"b"), Time(0)), None);
        assert_eq!((joins.joins.len(), joins.dropped()), (1, 2));
    }

    /// A datagram in a thousand parts, or longer than any, costs no more than a bounded one.
    #[test]
    fn a_datagram_in_too_many_parts_is_dropped() {
        let mut joins = Joins::default();
        for offset in 0..u16::try_from(JOIN_PARTS_MAX).unwrap() {
            assert_eq!(joins.handle_part(part(1, 2 * offset, 60_000, b"a"), Time(0)), None);
        }
        assert_eq!((joins.joins.len(), joins.dropped()), (1, 0));
        assert_eq!(joins.handle_part(part(1, 50_000, 60_000, b"a"), Time(0)), None);
        assert_eq!(joins.handle_part(part(2, 0, u16::MAX, b"a"), Time(0)), None);
        assert_eq!((joins.joins.len(), joins.dropped()), (0, 2));
    }
}
