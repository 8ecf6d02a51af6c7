//! The longest packet that the path carries (RFC 8899): sizes are tried upwards, three times each.

use std::time::Duration;

use crate::id::Time;
use crate::limits::{
    PATH_PACKET_BASE, PATH_PACKET_CANDIDATES, PATH_SEARCH_AGAIN, PATH_SEARCH_TRIES,
};

/// What is known of the path's packet size.
#[derive(Debug)]
pub(super) struct Search {
    /// The size that is in use.
    size: usize,
    /// The numbers of the probes of the next size that were sent.
    tried: Vec<u64>,
    /// When the next probe is due, of the next size or of a new search.
    due: Time,
}

impl Search {
    /// Knows nothing: the base size, and a search at once.
    pub(super) fn new(now: Time) -> Self {
        Self { size: PATH_PACKET_BASE, tried: Vec::new(), due: now }
    }

    /// The size of packets.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn candidate(&self) -> Option<usize> {
        PATH_PACKET_CANDIDATES.into_iter().find(|candidate| *candidate > self.size)
    }

    pub(super) fn poll_timeout(&self) -> Time {
        if self.candidate().is_some() { self.due } else { Time(u64::MAX) }
    }

    /// The size to probe now, under this number. `patience` is how long an answer may take.
    pub(super) fn poll_ping(
        &mut self,
        number: u64,
        patience: Duration,
        now: Time,
    ) -> Option<usize> {
        let candidate = self.candidate().filter(|_| self.due <= now)?;
        if self.tried.len() >= PATH_SEARCH_TRIES {
            self.tried.clear();
            self.due = now + PATH_SEARCH_AGAIN;
            return None;
        }
        self.tried.push(number);
        self.due = now + patience;
        Some(candidate)
    }

    /// Whether this answers a probe of ours; its size is in use from now on.
    pub(super) fn handle_pong(&mut self, number: u64, now: Time) -> bool {
        let Some(candidate) = self.candidate().filter(|_| self.tried.contains(&number)) else {
            return false;
        };
        *self = Self { size: candidate, ..Self::new(now) };
        true
    }
}
