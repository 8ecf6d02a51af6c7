//! How long to wait before the relay is dialled again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

// The jitter doubles a wait at most, so that the longest ones are 30 s, 1 s and 60 s.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(15);
/// The waits while flows wait for a carrier.
const URGENT_MIN: Duration = Duration::from_millis(50);
const URGENT_MAX: Duration = Duration::from_millis(500);
/// The wait after a refusal that only a change of configuration ends.
const WAIT_DENIED: Duration = Duration::from_secs(10);
/// The waits of one that was superseded: two forwarders with one key must not take the relay from
/// each other all the time.
const SUPERSEDED_MIN: Duration = Duration::from_secs(10);
const SUPERSEDED_MAX: Duration = Duration::from_secs(30);
/// A session that was up for so long was a good one: the next wait is a short one again.
const SETTLED: Duration = Duration::from_secs(10);
/// A carrier that lived for so long was none that breaks as soon as it stands: where flows wait, the
/// relay is dialled again at once, and that is no loop.
const LIVED: Duration = Duration::from_secs(1);

/// How an attempt, or the session that came of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no session.
    Failed,
    /// The relay refuses us, or we refuse the relay.
    Denied,
    /// Another forwarder with the same key took over.
    Superseded,
    /// The carrier was lost after it had been up for so long.
    Lost(Duration),
}

/// Jittered exponential back-off. The jitter is what keeps a thousand forwarders from dialling a
/// relay that has just come back all at once.
#[derive(Debug)]
pub struct Redial {
    failed: ExponentialBackoff,
    urgent: ExponentialBackoff,
    denied: ExponentialBackoff,
    superseded: ExponentialBackoff,
}

impl Default for Redial {
    fn default() -> Self {
        Self {
            failed: backoff(WAIT_MIN, WAIT_MAX),
            urgent: backoff(URGENT_MIN, URGENT_MAX),
            denied: backoff(WAIT_DENIED, WAIT_MAX),
            superseded: backoff(SUPERSEDED_MIN, SUPERSEDED_MAX),
        }
    }
}

fn backoff(first: Duration, last: Duration) -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(first).with_max_delay(last);
    waits.with_jitter().without_max_times().build()
}

impl Redial {
    /// How long to wait after `ended`. It `is_urgent` while flows wait for a carrier: then it is
    /// nothing at first when the carrier had lived for a second, and never more than one second.
    pub fn wait(&mut self, ended: Ended, is_urgent: bool) -> Duration {
        match ended {
            Ended::Lost(up_for) if up_for >= SETTLED => *self = Self::default(),
            Ended::Lost(up_for) if up_for >= LIVED => {
                self.urgent = backoff(URGENT_MIN, URGENT_MAX);
            }
            _ => {}
        }
        let waits = match ended {
            Ended::Denied => &mut self.denied,
            Ended::Superseded => &mut self.superseded,
            Ended::Lost(up_for) if is_urgent && up_for >= LIVED => return Duration::ZERO,
            Ended::Failed | Ended::Lost(_) if is_urgent => &mut self.urgent,
            Ended::Failed | Ended::Lost(_) => &mut self.failed,
        };
        waits.next().unwrap_or(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URGENT: bool = true;
    const UNHURRIED: bool = false;

    /// A relay that refuses at once is not dialled in a loop: waits grow, and stay bounded.
    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut redial = Redial::default();
        let waits: Vec<_> = (0..50).map(|_| redial.wait(Ended::Failed, UNHURRIED)).collect();
        assert!(waits.iter().all(|wait| *wait >= WAIT_MIN && *wait <= 2 * WAIT_MAX), "{waits:?}");
        assert!(waits[..20].iter().sum::<Duration>() >= 5 * WAIT_MAX, "{waits:?}");
    }

    /// A session that breaks as soon as it stands counts as a failure.
    #[test]
    fn only_a_settled_session_makes_the_next_wait_short() {
        let mut redial = Redial::default();
        for _ in 0..20 {
            redial.wait(Ended::Failed, UNHURRIED);
        }
        assert!(redial.wait(Ended::Lost(LIVED), UNHURRIED) >= WAIT_MAX);
        assert!(redial.wait(Ended::Lost(SETTLED), UNHURRIED) <= 2 * WAIT_MIN);
    }

    /// Who is refused has time, whoever waits: nothing changes until somebody edits a file.
    #[test]
    fn a_refusal_is_waited_out_from_the_first() {
        assert!(Redial::default().wait(Ended::Denied, UNHURRIED) >= WAIT_DENIED);
        assert!(Redial::default().wait(Ended::Denied, URGENT) >= WAIT_DENIED);
    }

    /// Flows that wait have a new carrier as soon as the path is back, and the path has not to bear
    /// more than a few attempts a second.
    #[test]
    fn urgent_waits_are_short_and_never_spin() {
        let mut redial = Redial::default();
        assert_eq!(redial.wait(Ended::Lost(LIVED), URGENT), Duration::ZERO);
        let waits: Vec<_> = (0..100).map(|_| redial.wait(Ended::Failed, URGENT)).collect();
        assert!(waits[0] <= 2 * URGENT_MIN, "{waits:?}");
        let bounds = URGENT_MIN..=Duration::from_secs(1);
        assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
        assert!(waits.iter().sum::<Duration>() >= 90 * URGENT_MAX, "{waits:?}");
    }

    /// Carriers that break as soon as they stand are no reason to dial at once, time and again.
    #[test]
    fn a_carrier_that_did_not_live_is_not_dialled_again_at_once() {
        let mut redial = Redial::default();
        let short = Ended::Lost(LIVED.saturating_sub(Duration::from_millis(1)));
        let waits: Vec<_> = (0..20).map(|_| redial.wait(short, URGENT)).collect();
        assert!(waits.iter().all(|wait| *wait >= URGENT_MIN), "{waits:?}");
        assert!(waits.iter().sum::<Duration>() >= 10 * URGENT_MAX, "{waits:?}");
        assert_eq!(redial.wait(Ended::Lost(LIVED), URGENT), Duration::ZERO);
        assert!(redial.wait(Ended::Failed, URGENT) <= 2 * URGENT_MIN);
    }

    /// Two forwarders with one key leave the relay in peace, and each other.
    #[test]
    fn the_superseded_one_waits_longest() {
        let mut redial = Redial::default();
        let waits: Vec<_> = (0..10).map(|_| redial.wait(Ended::Superseded, URGENT)).collect();
        let bounds = SUPERSEDED_MIN..=Duration::from_secs(60);
        assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
        assert!(waits[2..].iter().all(|wait| *wait >= SUPERSEDED_MAX), "{waits:?}");
    }

    /// A thousand forwarders that lost the same relay do not come back in the same instant.
    #[test]
    fn waits_are_jittered() {
        for is_urgent in [URGENT, UNHURRIED] {
            let wait = |_| {
                let mut redial = Redial::default();
                redial.wait(Ended::Failed, is_urgent);
                redial.wait(Ended::Failed, is_urgent)
            };
            let waits: std::collections::BTreeSet<_> = (0..100).map(wait).collect();
            assert!(waits.len() > 10, "{waits:?}");
        }
    }
}
