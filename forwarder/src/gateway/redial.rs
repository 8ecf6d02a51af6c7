//! How long to wait before the relay is dialled again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

// The jitter doubles a wait at most, so that the longest one is 30 s.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(15);
/// The wait after a refusal that only a change of configuration ends.
const WAIT_DENIED: Duration = Duration::from_secs(10);
/// A session that was up for so long was a good one: the next wait is a short one again.
const SETTLED: Duration = Duration::from_secs(10);

/// How an attempt, or the session that came of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no session.
    Failed,
    /// The relay refuses us, or we refuse the relay.
    Denied,
    /// The session was lost after it had been up for so long.
    Lost(Duration),
}

/// Jittered exponential back-off. The jitter is what keeps a thousand forwarders from dialling a
/// relay that has just come back all at once.
#[derive(Debug)]
pub struct Redial {
    failed: ExponentialBackoff,
    denied: ExponentialBackoff,
}

impl Default for Redial {
    fn default() -> Self {
        Self { failed: backoff(WAIT_MIN), denied: backoff(WAIT_DENIED) }
    }
}

fn backoff(first: Duration) -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(first).with_max_delay(WAIT_MAX);
    waits.with_jitter().without_max_times().build()
}

impl Redial {
    /// How long to wait after `ended`.
    pub fn wait(&mut self, ended: Ended) -> Duration {
        if matches!(ended, Ended::Lost(up_for) if up_for >= SETTLED) {
            *self = Self::default();
        }
        let waits = if ended == Ended::Denied { &mut self.denied } else { &mut self.failed };
        waits.next().unwrap_or(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay that refuses at once is not dialled in a loop: waits grow, and stay bounded.
    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut redial = Redial::default();
        let waits: Vec<_> = (0..50).map(|_| redial.wait(Ended::Failed)).collect();
        assert!(waits.iter().all(|wait| *wait >= WAIT_MIN && *wait <= 2 * WAIT_MAX), "{waits:?}");
        assert!(waits[..20].iter().sum::<Duration>() >= 5 * WAIT_MAX, "{waits:?}");
    }

    /// A session that breaks as soon as it stands counts as a failure.
    #[test]
    fn only_a_settled_session_makes_the_next_wait_short() {
        let mut redial = Redial::default();
        for _ in 0..20 {
            redial.wait(Ended::Failed);
        }
        assert!(redial.wait(Ended::Lost(Duration::from_secs(1))) >= WAIT_MAX);
        assert!(redial.wait(Ended::Lost(SETTLED)) <= 2 * WAIT_MIN);
    }

    /// Who is refused has time: nothing changes until somebody edits a file.
    #[test]
    fn a_refusal_is_waited_out_from_the_first() {
        assert!(Redial::default().wait(Ended::Denied) >= WAIT_DENIED);
    }
}
