//! Whether the carrier lives, and how long a round trip takes: `PING` and `PONG`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Time;
use crate::limits::{PING_BUSY, PING_IDLE, PING_MISSED_MAX, PING_RETRY, SUSPECT_AFTER};
use crate::session::SessionError;

/// Probes and what came of them, on one carrier.
#[derive(Debug)]
pub(super) struct Liveness {
    /// When the next probe, or the next look at the one under way, is due.
    due: Time,
    number: u64,
    /// When the latest probes were sent, by number: on a line that takes seconds several are under
    /// way.
    unanswered: VecDeque<(u64, Time)>,
    /// Since when an answer is wanted: a carrier that is stuck does not even take the probe.
    wanted: Option<Time>,
    /// Something was heard since then.
    was_heard: bool,
    missed: u32,
    /// Nothing was heard where something should have been.
    is_suspect: bool,
    /// Flows moved since the last probe: the round trip is worth measuring.
    is_busy: bool,
    is_probe_due: bool,
    /// The number of a probe of the other end that waits for its `PONG`.
    pong_due: Option<u64>,
    round_trip: Option<Duration>,
    round_trip_min: Option<Duration>,
    /// The latest one, until it is asked for.
    measured: Option<Duration>,
}

impl Liveness {
    /// A new carrier: the round trip is measured at once.
    pub(super) fn new(now: Time) -> Self {
        Self {
            due: now + PING_RETRY,
            number: 0,
            unanswered: VecDeque::new(),
            wanted: Some(now),
            was_heard: false,
            missed: 0,
            is_suspect: false,
            is_busy: false,
            is_probe_due: true,
            pong_due: None,
            round_trip: None,
            round_trip_min: None,
            measured: None,
        }
    }

    /// Goes on with a carrier that another process had, whose latest probe had this number.
    pub(super) fn take_over(number: u64, pong_due: Option<u64>, now: Time) -> Self {
        Self { number, pong_due, ..Self::new(now) }
    }

    /// The number of the latest probe, and that of the one that waits for its answer.
    pub(super) fn leave(&self) -> (u64, Option<u64>) {
        (self.number, self.pong_due)
    }

    /// This end stood still: what it has not heard meanwhile is nobody's fault.
    pub(super) fn handle_standstill(&mut self, now: Time) {
        (self.missed, self.is_suspect) = (0, false);
        self.unanswered.clear();
        self.want(now);
    }

    /// Any record is a sign of life.
    pub(super) fn handle_record(&mut self) {
        self.missed = 0;
        self.was_heard = true;
        self.is_suspect = false;
    }

    /// Flows move.
    pub(super) fn handle_busy(&mut self, now: Time) {
        self.is_busy = true;
        if self.unanswered.is_empty() && !self.is_probe_due {
            self.due = self.due.min(now + PING_BUSY);
        }
    }

    /// The network has changed: the carrier is suspect until it is heard.
    pub(super) fn handle_doubt(&mut self, now: Time) {
        self.is_suspect = true;
        // Doubts that come again and again do not put off the end of a dead carrier.
        let due = self.due;
        self.want(now);
        self.due = self.due.min(due);
    }

    /// Wants a probe sent and answered.
    fn want(&mut self, now: Time) {
        self.is_probe_due = true;
        self.wanted = Some(now);
        self.was_heard = false;
        self.due = now + PING_RETRY;
    }

    /// Whether another carrier is worth having.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    pub(super) fn handle_ping(&mut self, number: u64) {
        self.pong_due = Some(number);
    }

    pub(super) fn handle_pong(&mut self, number: u64, now: Time) {
        let Some(&(_, sent)) = self.unanswered.iter().find(|(sent, _)| *sent == number) else {
            return;
        };
        self.unanswered.retain(|(sent, _)| *sent > number);
        self.wanted = None;
        self.due = now + if self.is_busy { PING_BUSY } else { PING_IDLE };
        let sample = now.since(sent);
        self.measured = Some(sample);
        let smoothed = self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8);
        self.round_trip = Some(smoothed);
        self.round_trip_min = Some(self.round_trip_min.map_or(sample, |min| min.min(sample)));
    }

    /// The latest round trip, once.
    pub(super) fn poll_round_trip(&mut self) -> Option<Duration> {
        self.measured.take()
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
        self.suspect_from().map_or(self.due, |from| from.min(self.due))
    }

    /// When the want of an answer makes the carrier suspect, if nothing is heard until then.
    fn suspect_from(&self) -> Option<Time> {
        let wanted = self.wanted.filter(|_| !self.was_heard && !self.is_suspect)?;
        Some(wanted + SUSPECT_AFTER.max(4 * self.round_trip()))
    }

    /// Makes a probe due, or counts the one under way as missed; once per [`PING_RETRY`], however
    /// often it is called.
    pub(super) fn handle_timeout(&mut self, now: Time) -> Result<(), SessionError> {
        if self.suspect_from().is_some_and(|from| from <= now) {
            self.is_suspect = true;
        }
        if now < self.due {
            return Ok(());
        }
        // A probe that could not even be sent is missed too: the carrier is stuck.
        if !self.unanswered.is_empty() || self.is_probe_due {
            self.missed += 1;
            self.is_suspect |= !self.was_heard;
            if self.missed >= PING_MISSED_MAX {
                return Err(SessionError::Silent);
            }
        }
        self.want(now);
        Ok(())
    }

    /// Nothing is to be probed yet: the owner has a timer for the greeting.
    pub(super) fn rest(&mut self, now: Time) {
        self.wanted = None;
        self.due = now + PING_RETRY;
    }

    /// The number of the `PING` to send now, if one is due.
    pub(super) fn poll_ping(&mut self, now: Time) -> Option<u64> {
        if !std::mem::take(&mut self.is_probe_due) {
            return None;
        }
        self.number += 1;
        if self.unanswered.len() > PING_MISSED_MAX as usize {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((self.number, now));
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

    /// Runs the timer until `is_over`, with nothing heard; called far more often than is due.
    fn silence_until(is_over: impl Fn(&Liveness, &Result<(), SessionError>) -> bool) -> Duration {
        let mut now = Time(0);
        let mut liveness = Liveness::new(now);
        loop {
            liveness.poll_ping(now);
            now = now + Duration::from_millis(1);
            let result = liveness.handle_timeout(now);
            if is_over(&liveness, &result) {
                return now.since(Time(0));
            }
        }
    }

    /// Three probes at most, and seconds, not minutes.
    #[test]
    fn a_silent_carrier_is_noticed_in_seconds() {
        let taken = silence_until(|_, result| result.is_err());
        assert!(taken > Duration::from_secs(4) && taken < Duration::from_secs(10), "{taken:?}");
    }

    /// Long before it is given up, a carrier that is not heard is suspect: another is dialled.
    #[test]
    fn a_carrier_is_suspect_after_a_second_of_silence() {
        let taken = silence_until(|liveness, _| liveness.is_suspect());
        assert!(taken <= SUSPECT_AFTER + Duration::from_millis(5), "{taken:?}");
    }

    /// A sign of life ends a suspicion; a change of the network begins one.
    #[test]
    fn a_doubt_lasts_until_something_is_heard() {
        let mut liveness = Liveness::new(Time(0));
        liveness.handle_doubt(Time(1));
        assert!(liveness.is_suspect());
        assert!(liveness.poll_ping(Time(2)).is_some());
        liveness.handle_record();
        assert!(!liveness.is_suspect());
    }

    /// An idle carrier is probed within a NAT's shortest idle timeout, and lives for ever without
    /// a suspicion.
    #[test]
    fn an_answered_carrier_lives_and_keeps_its_nat_mapping() {
        let mut liveness = Liveness::new(Time(0));
        let mut now = Time(0);
        for _ in 0..1000 {
            if let Some(number) = liveness.poll_ping(now) {
                now = now + Duration::from_millis(40);
                liveness.handle_record();
                liveness.handle_pong(number, now);
            }
            let due = liveness.poll_timeout();
            assert!(due.since(now) <= Duration::from_secs(10));
            now = due;
            liveness.handle_timeout(now).unwrap();
            assert!(!liveness.is_suspect());
        }
        assert_eq!(liveness.round_trip(), Duration::from_millis(40));
    }

    /// A line whose round trip is seconds long is slow, not suspect.
    #[test]
    fn a_slow_carrier_is_not_suspect() {
        let mut liveness = Liveness::new(Time(0));
        let number = liveness.poll_ping(Time(0)).unwrap();
        let answered = Time(0) + Duration::from_millis(900);
        liveness.handle_record();
        liveness.handle_pong(number, answered);
        let asked = answered + PING_IDLE;
        liveness.handle_timeout(asked).unwrap();
        liveness.poll_ping(asked).unwrap();
        liveness.handle_timeout(asked + Duration::from_millis(1_500)).unwrap();
        assert!(!liveness.is_suspect());
    }

    /// An answer to an older probe measures nothing.
    #[test]
    fn a_stale_pong_is_no_measurement() {
        let mut liveness = Liveness::new(Time(0));
        let number = liveness.poll_ping(Time(5)).unwrap();
        liveness.handle_pong(number + 1, Time(6));
        assert_eq!(liveness.round_trip(), Duration::ZERO);
    }
}
