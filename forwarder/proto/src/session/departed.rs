//! What was sent, and since when it had waited: for whoever measures.

use std::time::Duration;

use super::Session;
use crate::id::{FlowId, Time};
use crate::limits::DEPARTED_MAX;

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
        departed.append(&mut self.departed.0);
        departed.append(&mut self.datagrams.departed.0);
    }

    /// What the latest `PONG` has measured; once for each.
    pub fn poll_round_trip(&mut self) -> Option<Duration> {
        self.liveness.poll_round_trip()
    }
}
