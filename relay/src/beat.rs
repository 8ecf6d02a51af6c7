//! The beat at which calls are refused, so that the time of an answer tells nothing about what was
//! looked up for it.

use std::time::{Duration, Instant};

/// A caller that waits does not notice it; a look-up is some thousand times faster.
const BEAT: Duration = Duration::from_millis(20);
/// Refusals that may wait for a beat. A pump takes them at once, so they are fewer than what may
/// wait for it.
const WAITING_MAX: usize = 4_096;

/// What waits for the next beat.
#[derive(Debug)]
pub(crate) struct Beat<T> {
    start: Instant,
    waiting: Vec<T>,
    due: Option<Instant>,
}

impl<T> Beat<T> {
    /// A beat whose multiples begin at `start`.
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, waiting: Vec::new(), due: None }
    }

    /// Takes a refusal. What is returned is to be answered at once: all that wait, should there be
    /// too many of them.
    pub(crate) fn refuse(&mut self, whom: T, now: Instant) -> Vec<T> {
        self.waiting.push(whom);
        self.due.get_or_insert_with(|| next(self.start, now));
        if self.waiting.len() < WAITING_MAX { Vec::new() } else { self.take() }
    }

    /// When the next beat is, if anything waits for it.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// What is due, to be answered.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<T> {
        if self.due.is_some_and(|due| due <= now) { self.take() } else { Vec::new() }
    }

    fn take(&mut self) -> Vec<T> {
        self.due = None;
        std::mem::take(&mut self.waiting)
    }
}

/// The first multiple of the beat after `now`.
fn next(start: Instant, now: Instant) -> Instant {
    let into = now.duration_since(start).as_nanos() % BEAT.as_nanos();
    let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
    now + (BEAT - into)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whenever a refusal comes between two beats, its answer goes out at the later one.
    #[test]
    fn refusals_of_one_interval_are_answered_together() {
        let start = Instant::now();
        let mut beat = Beat::new(start);
        let beats = 7 * BEAT;
        for offset in [Duration::ZERO, BEAT / 3, BEAT - Duration::from_nanos(1)] {
            assert!(beat.refuse(offset, start + beats + offset).is_empty());
            assert_eq!(beat.poll_timeout(), Some(start + beats + BEAT));
        }
        let almost = start + beats + BEAT - Duration::from_nanos(1);
        assert!(beat.handle_timeout(almost).is_empty());
        assert_eq!(beat.handle_timeout(start + beats + BEAT).len(), 3);
        assert_eq!(beat.poll_timeout(), None);
    }

    /// A flood does not pile up until the beat.
    #[test]
    fn what_waits_is_bounded() {
        let start = Instant::now();
        let mut beat = Beat::new(start);
        let most = (0..10 * WAITING_MAX).map(|whom| beat.refuse(whom, start).len()).max();
        assert_eq!(most, Some(WAITING_MAX));
        assert!(beat.waiting.len() < WAITING_MAX);
    }
}
