//! Whether the carrier lives, and how long a round trip takes: `PING` and `PONG`.

use std::time::Duration;

use crate::id::Time;
use crate::limits::{OPENING_MAX, PING_BUSY, PING_IDLE, PING_MISSED_MAX, PING_RETRY};
use crate::session::SessionError;

/// Probes and what came of them.
#[derive(Debug)]
pub(super) struct Liveness {
    /// When the next probe, or the next look at the one under way, is due.
    due: Time,
    number: u64,
    /// When the probe that is under way was sent.
    unanswered: Option<Time>,
    missed: u32,
    /// Flows moved since the last probe: the round trip is worth measuring.
    is_busy: bool,
    is_probe_due: bool,
    /// The number of a probe of the other end that waits for its `PONG`.
    pong_due: Option<u64>,
    round_trip: Option<Duration>,
    round_trip_min: Option<Duration>,
}

impl Liveness {
    pub(super) fn new(now: Time) -> Self {
        Self {
            due: now + OPENING_MAX,
            number: 0,
            unanswered: None,
            missed: 0,
            is_busy: false,
            is_probe_due: false,
            pong_due: None,
            round_trip: None,
            round_trip_min: None,
        }
    }

    /// The session is up: measure the round trip at once.
    pub(super) fn handle_up(&mut self, now: Time) {
        self.is_probe_due = true;
        self.due = now + PING_RETRY;
    }

    /// Any record is a sign of life.
    pub(super) fn handle_record(&mut self) {
        self.missed = 0;
    }

    /// Flows move.
    pub(super) fn handle_busy(&mut self, now: Time) {
        self.is_busy = true;
        if self.unanswered.is_none() && !self.is_probe_due {
            self.due = self.due.min(now + PING_BUSY);
        }
    }

    pub(super) fn handle_ping(&mut self, number: u64) {
        self.pong_due = Some(number);
    }

    pub(super) fn handle_pong(&mut self, number: u64, now: Time) {
        let Some(sent) = self.unanswered.filter(|_| number == self.number) else { return };
        self.unanswered = None;
        self.due = now + if self.is_busy { PING_BUSY } else { PING_IDLE };
        let sample = now.since(sent);
        let smoothed = self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8);
        self.round_trip = Some(smoothed);
        self.round_trip_min = Some(self.round_trip_min.map_or(sample, |min| min.min(sample)));
    }

    /// The smoothed round trip, zero while unknown.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip.unwrap_or_default()
    }

    /// The shortest round trip seen, zero while unknown: the line's own, without our queues.
    pub(super) fn round_trip_min(&self) -> Duration {
        self.round_trip_min.unwrap_or_default()
    }

    /// When [`Liveness::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Time {
        self.due
    }

    /// Makes a probe due, or counts the one under way as missed; once per [`PING_RETRY`], however
    /// often it is called.
    pub(super) fn handle_timeout(&mut self, is_up: bool, now: Time) -> Result<(), SessionError> {
        if now < self.due {
            return Ok(());
        }
        if !is_up {
            return Err(SessionError::Opening);
        }
        // A probe that could not even be sent is missed too: the carrier is stuck.
        if self.unanswered.is_some() || self.is_probe_due {
            self.missed += 1;
            if self.missed >= PING_MISSED_MAX {
                return Err(SessionError::Silent);
            }
        }
        self.is_probe_due = true;
        self.due = now + PING_RETRY;
        Ok(())
    }

    /// The number of the `PING` to send now, if one is due.
    pub(super) fn poll_ping(&mut self, now: Time) -> Option<u64> {
        if !std::mem::take(&mut self.is_probe_due) {
            return None;
        }
        self.number += 1;
        self.unanswered = Some(now);
        self.is_busy = false;
        Some(self.number)
    }

    /// The number of the `PONG` to send now, if one is due.
    pub(super) fn poll_pong(&mut self) -> Option<u64> {
        self.pong_due.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the timer until the carrier is declared dead; the other end answers nothing.
    fn silence_until_dead() -> Duration {
        let mut liveness = Liveness::new(Time(0));
        let mut now = Time(0);
        liveness.handle_up(now);
        loop {
            // Called far more often than anything is due.
            now = now + Duration::from_millis(1);
            match liveness.handle_timeout(true, now) {
                Ok(()) => liveness.poll_ping(now),
                Err(_) => return now.since(Time(0)),
            };
        }
    }

    /// Three probes at most, and seconds, not minutes.
    #[test]
    fn a_silent_carrier_is_noticed_in_seconds() {
        let taken = silence_until_dead();
        assert!(taken > Duration::from_secs(4) && taken < Duration::from_secs(10), "{taken:?}");
    }

    /// An idle carrier is probed within a NAT's shortest idle timeout, and lives for ever.
    #[test]
    fn an_answered_carrier_lives_and_keeps_its_nat_mapping() {
        let mut liveness = Liveness::new(Time(0));
        let mut now = Time(0);
        liveness.handle_up(now);
        for _ in 0..1000 {
            let due = liveness.poll_timeout();
            assert!(due.since(now) <= Duration::from_secs(10));
            now = due;
            liveness.handle_timeout(true, now).unwrap();
            if let Some(number) = liveness.poll_ping(now) {
                now = now + Duration::from_millis(40);
                liveness.handle_record();
                liveness.handle_pong(number, now);
            }
        }
        assert_eq!(liveness.round_trip(), Duration::from_millis(40));
    }

    /// A relay that accepts and then says nothing does not hold the forwarder for ever.
    #[test]
    fn an_opening_that_stalls_is_given_up() {
        let mut liveness = Liveness::new(Time(0));
        assert_eq!(liveness.handle_timeout(false, Time(1)), Ok(()));
        let late = Time(0) + OPENING_MAX;
        assert_eq!(liveness.handle_timeout(false, late), Err(SessionError::Opening));
    }

    /// An answer to an older probe measures nothing.
    #[test]
    fn a_stale_pong_is_no_measurement() {
        let mut liveness = Liveness::new(Time(0));
        liveness.handle_up(Time(0));
        let number = liveness.poll_ping(Time(5)).unwrap();
        liveness.handle_pong(number + 1, Time(6));
        assert_eq!(liveness.round_trip(), Duration::ZERO);
    }
}
