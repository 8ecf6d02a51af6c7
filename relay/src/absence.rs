//! Calls of private names whose owner is away for a moment: its lease runs, but it has no session.
//! As at a public port, who calls then waits a while instead of being turned away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a call waits: less than the caller's pump gives it (`CONNECT_MAX`).
const WAIT_MAX: Duration = Duration::from_secs(9);
/// Calls that may wait, of all callers.
const WAITING_MAX: usize = 1_024;

#[derive(Debug)]
struct Waiting<T> {
    name: String,
    whom: T,
    until: Instant,
}

/// The calls that wait, the oldest first.
#[derive(Debug)]
pub(crate) struct Absence<T>(VecDeque<Waiting<T>>);

impl<T> Default for Absence<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Absence<T> {
    /// Lets a call wait for the owner of `name`; false when too many wait already.
    pub(crate) fn wait(&mut self, name: &str, whom: T, now: Instant) -> bool {
        if self.0.len() >= WAITING_MAX {
            return false;
        }
        self.0.push_back(Waiting { name: name.to_owned(), whom, until: now + WAIT_MAX });
        true
    }

    /// The owner of `name` is back: those who waited, in their order.
    pub(crate) fn handle_back(&mut self, name: &str) -> Vec<T> {
        let (back, waiting) =
            std::mem::take(&mut self.0).into_iter().partition(|call| call.name == name);
        self.0 = waiting;
        let back: VecDeque<_> = back;
        back.into_iter().map(|call| call.whom).collect()
    }

    /// All who wait: nobody comes back any more.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.0).into_iter().map(|call| call.whom).collect()
    }

    /// When the next has waited long enough.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.0.front().map(|call| call.until)
    }

    /// Those who have waited long enough.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<T> {
        let mut over = Vec::new();
        while self.0.front().is_some_and(|call| call.until <= now) {
            over.extend(self.0.pop_front().map(|call| call.whom));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody waits for ever, and only so many wait at once.
    #[test]
    fn waiting_is_bounded_in_time_and_number() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        for whom in 0..WAITING_MAX {
            assert!(absence.wait("db", whom, start));
        }
        assert!(!absence.wait("db", WAITING_MAX, start));
        assert_eq!(absence.poll_timeout(), Some(start + WAIT_MAX));
        assert!(absence.handle_timeout(start + WAIT_MAX - Duration::from_millis(1)).is_empty());
        assert_eq!(absence.handle_timeout(start + WAIT_MAX).len(), WAITING_MAX);
        assert_eq!(absence.poll_timeout(), None);
    }

    /// Whose owner comes back goes on, in order; the others wait on.
    #[test]
    fn only_calls_of_the_name_go_on() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        for (name, whom) in [("db", 1), ("web", 2), ("db", 3)] {
            assert!(absence.wait(name, whom, start));
        }
        assert_eq!(absence.handle_back("db"), [1, 3]);
        assert!(absence.handle_back("db").is_empty());
        assert_eq!(absence.drain(), [2]);
        assert!(absence.handle_back("web").is_empty());
    }
}
