//! Whether a path carries packets there and answers back.
//!
//! ```text
//!            an answer                      2 probes missed, or unreachable
//!  closed ───────────────▶ open        open ───────────────────────────────▶ closed
//!  probed every 2 s if wanted, else    probed every 500 ms while busy, else
//!  every 15 s; soon after a packet     every 15 s
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Time;
use crate::limits::{
    PATH_ANSWER_MAX, PATH_MISSED_MAX, PATH_PROBE_BUSY, PATH_PROBE_IDLE, PATH_PROBE_WANTED,
    PATH_UNANSWERED_MAX,
};

/// Probes and what came of them, towards one address.
#[derive(Debug)]
pub(super) struct Liveness {
    is_open: bool,
    is_wanted: bool,
    /// The path was used since the latest probe.
    is_busy: bool,
    /// Closed, but a packet was heard since the latest probe.
    is_promising: bool,
    is_probe_due: bool,
    probed: Option<Time>,
    /// When the latest probes were sent, by number.
    unanswered: VecDeque<(u64, Time)>,
    missed: u32,
    round_trip: Option<Duration>,
}

impl Liveness {
    /// Closed, and to be probed at once.
    pub(super) fn new() -> Self {
        Self {
            is_open: false,
            is_wanted: false,
            is_busy: false,
            is_promising: false,
            is_probe_due: false,
            probed: None,
            unanswered: VecDeque::new(),
            missed: 0,
            round_trip: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.is_wanted = wanted;
    }

    /// The path is in use.
    pub(super) fn handle_busy(&mut self) {
        self.is_busy = true;
    }

    /// An authentic packet came.
    pub(super) fn handle_heard(&mut self) {
        self.is_promising = !self.is_open;
    }

    /// A challenge proved the address.
    pub(super) fn handle_proven(&mut self, now: Time) {
        *self = Self {
            is_open: true,
            is_wanted: self.is_wanted,
            is_busy: self.is_busy,
            probed: Some(now),
            ..Self::new()
        };
    }

    /// Packets do not get there. Says whether that is news. What was sent before proves nothing any
    /// more; the next probe waits its time, or one refusal would follow the other.
    pub(super) fn handle_unreachable(&mut self) -> bool {
        self.unanswered.clear();
        self.is_promising |= self.is_open;
        std::mem::take(&mut self.is_open)
    }

    /// Whether this answers a probe of ours; it opens the path.
    pub(super) fn handle_pong(&mut self, number: u64, now: Time) -> bool {
        let Some(&(_, sent)) = self.unanswered.iter().find(|(sent, _)| *sent == number) else {
            return false;
        };
        self.unanswered.retain(|(_, other)| *other > sent);
        let sample = now.since(sent);
        self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
        self.missed = 0;
        self.is_open = true;
        self.is_promising = false;
        true
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        let round_trips = 2 * self.round_trip.unwrap_or_default();
        round_trips.clamp(PATH_PROBE_BUSY, PATH_ANSWER_MAX)
    }

    /// When the next probe, or the look at the one under way, is due.
    pub(super) fn poll_timeout(&self) -> Time {
        let Some(probed) = self.probed else {
            return Time(0);
        };
        let wait = match self.is_open {
            true if !self.unanswered.is_empty() => self.patience(),
            true if self.is_busy => PATH_PROBE_BUSY,
            true => PATH_PROBE_IDLE,
            false if self.is_promising => PATH_PROBE_BUSY,
            false if self.is_wanted => PATH_PROBE_WANTED,
            false => PATH_PROBE_IDLE,
        };
        probed + wait
    }

    /// Makes a probe due, or counts the one under way as missed. Says whether that closed the path.
    pub(super) fn handle_timeout(&mut self, now: Time) -> bool {
        if self.is_probe_due || now < self.poll_timeout() {
            return false;
        }
        self.is_probe_due = true;
        if !self.is_open || self.unanswered.is_empty() {
            return false;
        }
        self.missed += 1;
        let is_lost = self.missed >= PATH_MISSED_MAX;
        self.is_open &= !is_lost;
        is_lost
    }

    /// Whether a probe is to be sent now, under this number.
    pub(super) fn poll_ping(&mut self, number: u64, now: Time) -> bool {
        if !std::mem::take(&mut self.is_probe_due) {
            return false;
        }
        if self.unanswered.len() >= PATH_UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((number, now));
        self.probed = Some(now);
        self.is_busy = false;
        self.is_promising = false;
        true
    }
}
