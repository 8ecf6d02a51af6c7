//! What was sent, and since when it had waited: for whoever measures.

use std::time::Duration;

use super::Session;
use crate::id::{FlowId, Time};
use crate::limits::{DEPARTED_KEPT, DEPARTED_MAX};

/// A piece of a flow that was put on its way: what one receive from the flow's socket has filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// What [`Session::tag_flow`] said of its flow.
    pub tag: u16,
    /// When it was read.
    pub at: Time,
}

/// Those since they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Departures(Vec<Departed>);

impl Departures {
    /// The bound is met by crowds of tiny pieces alone, of which then only the first are measured.
    pub(super) fn push(&mut self, tag: u16, at: Time) {
        if self.0.len() < DEPARTED_MAX {
            self.0.push(Departed { tag, at });
        }
    }
}

/// Gives back what a burst has taken, once much less is in use: `departed` is empty, and had `used`
/// of its room a moment ago.
pub fn relax(departed: &mut Vec<Departed>, used: usize) {
    let kept = DEPARTED_KEPT.max(2 * used);
    if departed.capacity() > 2 * kept {
        departed.shrink_to(kept);
    }
}

impl<B> Session<B> {
    /// What the flow's bytes count to, where times are measured.
    pub fn tag_flow(&mut self, id: FlowId, tag: u16) {
        match self.flows.get_mut(&id) {
            Some(flow) => flow.tag = tag,
            None => self.datagrams.tag_flow(id, tag),
        }
    }

    /// Adds to `departed` what was sealed since the last call: to be asked after each
    /// [`Session::poll_records`] and [`Session::poll_packets`].
    pub fn take_departed(&mut self, departed: &mut Vec<Departed>) {
        for Departures(own) in [&mut self.departed, &mut self.datagrams.departed] {
            let used = own.len();
            departed.append(own);
            relax(own, used);
        }
    }

    /// What the latest `PONG` has measured; once for each.
    pub fn poll_round_trip(&mut self) -> Option<Duration> {
        self.liveness.poll_round_trip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst's memory is kept while bursts go on, and given back after them.
    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut departures = Departures::default();
        let burst = |departures: &mut Departures| {
            (0..2 * DEPARTED_MAX).for_each(|_| departures.push(0, Time::default()));
            assert_eq!(departures.0.len(), DEPARTED_MAX);
            let used = departures.0.len();
            departures.0.clear();
            relax(&mut departures.0, used);
        };
        burst(&mut departures);
        assert!(departures.0.capacity() >= DEPARTED_MAX);
        relax(&mut departures.0, 1);
        assert!(departures.0.capacity() <= 2 * DEPARTED_KEPT);
    }
}
