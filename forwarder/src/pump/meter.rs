//! How much a session's owner may use: flows at once, new flows a second, bytes a second.

use std::time::Duration;

use adit_proto::id::Time;

use crate::handoff::Quota;

/// New flows may come in a burst of what one second allows, and bytes in one of this time.
const FLOWS_BURST: Duration = Duration::from_secs(1);
const BYTES_BURST: Duration = Duration::from_millis(100);

/// A rate that is kept by one moment: when everything that was let through is paid for (the generic
/// cell rate algorithm, ITU-T I.371). What is let through may run up a debt; nothing more follows
/// until it is paid but for the burst.
#[derive(Clone, Copy, Debug)]
struct Pace {
    per_second: u64,
    burst: Duration,
    paid_at: Time,
}

impl Pace {
    fn new(per_second: u64, burst: Duration) -> Self {
        let pace = Self { per_second: per_second.max(1), burst, paid_at: Time::default() };
        // One unit must fit, or nothing ever would.
        Self { burst: burst.max(pace.cost(1)), ..pace }
    }

    fn cost(&self, units: usize) -> Duration {
        let nanos = units as u128 * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn is_spent(&self, now: Time) -> bool {
        self.paid_at.since(now) >= self.burst
    }

    fn charge(&mut self, units: usize, now: Time) {
        self.paid_at = self.paid_at.max(now) + self.cost(units);
    }
}

/// A session's use, measured against its quota.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    flows_max: Option<usize>,
    flows: Option<Pace>,
    bytes: Option<Pace>,
}

impl From<Quota> for Meter {
    fn from(quota: Quota) -> Self {
        Self {
            flows_max: quota.flows_max,
            flows: quota.flows_per_s.map(|rate| Pace::new(rate.into(), FLOWS_BURST)),
            bytes: quota.bytes_per_s.map(|rate| Pace::new(rate, BYTES_BURST)),
        }
    }
}

impl Meter {
    /// Whether one more flow beside `flows` may be opened; if so it counts.
    pub(super) fn admits_flow(&mut self, flows: usize, now: Time) -> bool {
        if self.flows_max.is_some_and(|max| flows >= max) {
            return false;
        }
        match &mut self.flows {
            Some(pace) if pace.is_spent(now) => false,
            Some(pace) => {
                pace.charge(1, now);
                true
            }
            None => true,
        }
    }

    /// When bytes may move again, should they have to wait.
    pub(super) fn bytes_due(&self, now: Time) -> Option<Time> {
        let pace = self.bytes.as_ref().filter(|pace| pace.is_spent(now))?;
        Some(now + pace.paid_at.since(now).saturating_sub(pace.burst / 2))
    }

    /// Bytes have moved.
    pub(super) fn charge_bytes(&mut self, bytes: usize, now: Time) {
        if let Some(pace) = &mut self.bytes {
            pace.charge(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// More flows than are allowed at once are not opened, however slowly they come.
    #[test]
    fn flows_at_once_are_bounded() {
        let mut meter = Meter::from(Quota { flows_max: Some(3), ..Quota::default() });
        assert!(meter.admits_flow(2, Time(0)));
        assert!(!meter.admits_flow(3, Time(0)));
    }

    /// Ten flows a second are ten at once, and ten more a second later.
    #[test]
    fn flows_a_second_are_bounded() {
        let mut meter = Meter::from(Quota { flows_per_s: Some(10), ..Quota::default() });
        let mut now = Time(0) + SECOND;
        let burst = (0..100).filter(|_| meter.admits_flow(0, now)).count();
        assert_eq!(burst, 10);
        now = now + SECOND;
        assert_eq!((0..100).filter(|_| meter.admits_flow(0, now)).count(), 10);
    }

    /// However bytes come, no more pass in ten seconds than ten seconds allow, and a burst; and
    /// not much less.
    #[test]
    fn bytes_a_second_are_bounded() {
        let rate = 1_000_000_u64;
        let mut meter = Meter::from(Quota { bytes_per_s: Some(rate), ..Quota::default() });
        let (mut now, mut moved) = (Time(0) + SECOND, 0_u64);
        let end = now + 10 * SECOND;
        while now < end {
            match meter.bytes_due(now) {
                Some(due) => now = due,
                None => {
                    meter.charge_bytes(50_000, now);
                    moved += 50_000;
                    now = now + Duration::from_micros(10);
                }
            }
        }
        assert!((9 * rate..=11 * rate).contains(&moved), "{moved}");
    }

    /// Who has no quota is never held up.
    #[test]
    fn without_a_quota_nothing_is_held_up() {
        let mut meter = Meter::default();
        meter.charge_bytes(usize::MAX, Time(0));
        assert!(meter.admits_flow(usize::MAX, Time(0)));
        assert_eq!(meter.bytes_due(Time(0)), None);
    }
}
