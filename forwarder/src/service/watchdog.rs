//! Whether every pump has answered lately. A state machine: time and answers come in as arguments.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::handoff::Asked;

/// A watchdog is fed so many times in the time after which it strikes.
const FED_PER_INTERVAL: u32 = 2;

/// Asks the pumps, and knows which have answered.
#[derive(Debug)]
pub(super) struct Watchdog {
    every: Duration,
    pumps: usize,
    round: u64,
    /// Those that have yet to answer, while a round is under way.
    silent: BTreeSet<usize>,
    /// When the next round is due, or the present one overdue.
    due: Instant,
    /// When the present round began.
    asked_at: Instant,
}

impl Watchdog {
    /// For one that strikes after `interval`, and so many pumps; the first round is due at once.
    pub(super) fn new(interval: Duration, pumps: usize, now: Instant) -> Self {
        let every = interval / FED_PER_INTERVAL;
        Self { every, pumps, round: 0, silent: BTreeSet::new(), due: now, asked_at: now }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Whom to ask now. Who has not answered is not asked again: the answer that is missing comes as
    /// soon as any would.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Asked> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + self.every;
        if !self.silent.is_empty() {
            let (pumps, since) = (&self.silent, now.duration_since(self.asked_at));
            tracing::error!(?pumps, ?since, "pumps are stuck: the watchdog is not fed");
            return Vec::new();
        }
        self.round += 1;
        self.asked_at = now;
        self.silent = (0..self.pumps).collect();
        self.silent.iter().map(|&pump| Asked { round: self.round, pump }).collect()
    }

    /// Takes an answer; whether the watchdog is to be fed.
    pub(super) fn handle_pulse(&mut self, asked: Asked, now: Instant) -> bool {
        let is_news = asked.round == self.round && self.silent.remove(&asked.pump);
        let is_fed = is_news && self.silent.is_empty();
        if is_fed {
            // The next round keeps the pace of this one, however late the answer was.
            self.due = (self.asked_at + self.every).max(now);
        }
        is_fed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    /// It is fed when the last pump has answered, twice in its interval.
    #[test]
    fn a_watchdog_is_fed_when_every_pump_has_answered() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(INTERVAL, 2, now);
        for _ in 0..3 {
            let asked = watchdog.handle_timeout(now);
            assert_eq!(asked.len(), 2);
            assert!(!watchdog.handle_pulse(asked[1], now));
            assert!(!watchdog.handle_pulse(asked[1], now));
            assert!(watchdog.handle_pulse(asked[0], now));
            assert_eq!(watchdog.poll_timeout(), now + INTERVAL / 2);
            assert!(watchdog.handle_timeout(now).is_empty());
            now += INTERVAL / 2;
        }
    }

    /// One pump that is silent keeps it hungry, whatever the others say; it is fed again as soon as that
    /// one answers, and nobody's late answer stands for the next round's.
    #[test]
    fn a_watchdog_starves_while_one_pump_is_silent() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(INTERVAL, 2, now);
        let first = watchdog.handle_timeout(now);
        watchdog.handle_pulse(first[0], now);
        for _ in 0..5 {
            now = watchdog.poll_timeout();
            assert!(watchdog.handle_timeout(now).is_empty());
            assert!(!watchdog.handle_pulse(first[0], now));
        }
        assert!(watchdog.handle_pulse(first[1], now));
        assert_eq!(watchdog.poll_timeout(), now);
        let second = watchdog.handle_timeout(now);
        assert!(!watchdog.handle_pulse(first[0], now) && !watchdog.handle_pulse(first[1], now));
        assert!(!watchdog.handle_pulse(second[0], now) && watchdog.handle_pulse(second[1], now));
    }
}
