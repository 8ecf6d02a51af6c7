//! What a session's packets under way have of flows, send by send.

use std::collections::VecDeque;

use adit_proto::limits::DEPARTED_MAX;
use adit_proto::session::Departed;

/// Sends that are not complete, oldest first: a socket completes them in the order in which they were
/// given to it.
#[derive(Debug, Default)]
pub(in crate::pump) struct InFlight {
    sends: VecDeque<Vec<Departed>>,
    /// How much all of them have.
    len: usize,
    /// Memory to be used again.
    room: Vec<Departed>,
}

impl InFlight {
    /// An empty list.
    pub(in crate::pump) fn take_room(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.room)
    }

    /// Takes a list back.
    pub(in crate::pump) fn keep_room(&mut self, mut room: Vec<Departed>) {
        room.clear();
        self.room = room;
    }

    /// So many sends were given to the socket; the last of them ends what departed. Beyond the bound
    /// nothing is measured.
    pub(in crate::pump) fn handle_sends(&mut self, sends: usize, mut departed: Vec<Departed>) {
        departed.truncate(DEPARTED_MAX - self.len);
        self.len += departed.len();
        self.sends.extend((1..sends).map(|_| Vec::new()));
        if sends > 0 {
            self.sends.push_back(departed);
        }
    }

    /// The oldest is complete: what it had.
    pub(in crate::pump) fn handle_sent(&mut self) -> Vec<Departed> {
        let departed = self.sends.pop_front().unwrap_or_default();
        self.len -= departed.len();
        if self.sends.is_empty() {
            self.sends.shrink_to(SENDS_KEPT);
        }
        departed
    }
}

/// How many sends keep their places when nothing is under way.
const SENDS_KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use adit_proto::id::Time;

    use super::*;

    fn departed(tag: u16) -> Vec<Departed> {
        vec![Departed { tag, at: Time::default() }]
    }

    /// Each send's completion is that of its own bytes; where bytes took several sends, of the last.
    #[test]
    fn a_completion_is_of_its_own_send() {
        let mut in_flight = InFlight::default();
        in_flight.handle_sends(1, departed(1));
        in_flight.handle_sends(2, departed(2));
        let tags = [(); 4].map(|()| in_flight.handle_sent().first().map(|departed| departed.tag));
        assert_eq!(tags, [Some(1), None, Some(2), None]);
    }

    /// However much is under way, a bounded part of it is measured.
    #[test]
    fn what_is_under_way_is_bounded() {
        let mut in_flight = InFlight::default();
        (0..2 * DEPARTED_MAX).for_each(|_| in_flight.handle_sends(1, departed(1)));
        let found = (0..2 * DEPARTED_MAX).map(|_| in_flight.handle_sent().len()).sum::<usize>();
        assert_eq!((found, in_flight.len), (DEPARTED_MAX, 0));
    }
}
