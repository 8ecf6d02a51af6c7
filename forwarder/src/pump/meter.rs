//! How much may be used: flows at once, new flows a second, bytes a second. A flow is measured by one
//! meter: at the relay its owner's, which all sessions of the owner share; at the forwarder that of the
//! peer it leads to. A resumption changes nothing about either.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use adit_proto::id::{ContactId, Time};
use adit_proto::limits::PAYLOAD_MAX;

use crate::handoff::{Limit, Quota, Volume};

/// New flows may come in a burst of what one second allows, and bytes in one of this time.
const FLOWS_BURST: Duration = Duration::from_secs(1);
const BYTES_BURST: Duration = Duration::from_millis(100);

/// A rate that is kept by one moment: when everything that was let through is paid for (the generic
/// cell rate algorithm, ITU-T I.371). What is let through may run up a debt; nothing more follows
/// until it is paid but for the burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: u64,
    burst: Duration,
    paid_at: Time,
}

impl Pace {
    pub(super) fn new(per_second: u64, burst: Duration) -> Self {
        let pace = Self { per_second: per_second.max(1), burst, paid_at: Time::default() };
        // One unit must fit, or nothing ever would.
        Self { burst: burst.max(pace.cost(1)), ..pace }
    }

    fn cost(&self, units: usize) -> Duration {
        let nanos = units as u128 * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether whatever comes next has to wait.
    fn has_to_wait(&self, now: Time) -> bool {
        self.paid_at.since(now) >= self.burst
    }

    /// Whether one more may come; if so it is counted.
    pub(super) fn admits_one(&mut self, now: Time) -> bool {
        let is_admitted = !self.has_to_wait(now);
        if is_admitted {
            self.charge(1, now);
        }
        is_admitted
    }

    fn charge(&mut self, units: usize, now: Time) {
        self.paid_at = self.paid_at.max(now) + self.cost(units);
    }
}

/// A meter that all sessions of an owner have, or a peer, and each of their flows.
pub(super) type SharedMeter = Rc<RefCell<Meter>>;

/// Where flows wait until their bytes are paid for: with those of the same peer, or of the owner.
pub(super) type Queue = Option<ContactId>;

/// A flow's place among those that share a meter, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Seat {
    meter: SharedMeter,
    queue: Queue,
}

impl Seat {
    pub(super) fn new(meter: &SharedMeter, queue: Queue) -> Self {
        meter.borrow_mut().flows_open += 1;
        Self { meter: Rc::clone(meter), queue }
    }

    /// The meter of the flow.
    pub(super) fn meter(&self) -> &RefCell<Meter> {
        &self.meter
    }

    /// Whether it is among those that share `meter`.
    pub(super) fn is_at(&self, meter: &SharedMeter) -> bool {
        Rc::ptr_eq(&self.meter, meter)
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue
    }
}

impl From<&SharedMeter> for Seat {
    fn from(meter: &SharedMeter) -> Self {
        Self::new(meter, None)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.meter.borrow_mut().flows_open -= 1;
    }
}

/// What is used, measured against a quota.
#[derive(Debug, Default)]
pub(super) struct Meter {
    quota: Quota,
    /// Flows that are open.
    flows_open: usize,
    flows: Option<Pace>,
    bytes: Option<Pace>,
    volume: Volume,
    /// Bytes that have moved, where the volume wants them counted, and that nobody was told of.
    untold_bytes: u64,
}

impl From<Quota> for Meter {
    fn from(quota: Quota) -> Self {
        Self {
            quota,
            flows_open: 0,
            volume: Volume::default(),
            untold_bytes: 0,
            flows: quota.flows_per_s.map(|rate| Pace::new(rate.into(), FLOWS_BURST)),
            bytes: quota.bytes_per_s.map(|rate| Pace::new(rate, BYTES_BURST)),
        }
    }
}

impl Meter {
    /// Takes what may be used from now on. The same quota once more forgives nothing.
    pub(super) fn handle_limit(&mut self, quota: Quota, volume: Volume) {
        self.volume = volume;
        if quota != self.quota {
            let Self { flows, bytes, .. } = Self::from(quota);
            (self.quota, self.flows, self.bytes) = (quota, flows, bytes);
        }
    }

    /// Lets one more flow be opened, which then counts among the new ones; or says what forbids it.
    pub(super) fn admit_flow(&mut self, now: Time) -> Result<(), Limit> {
        if self.volume == Volume::Spent {
            return Err(Limit::BytesPerMonth);
        }
        if self.is_full() {
            return Err(Limit::FlowsMax);
        }
        let is_paid = self.flows.as_mut().is_none_or(|pace| pace.admits_one(now));
        is_paid.then_some(()).ok_or(Limit::FlowsPerS)
    }

    /// Whether there are as many flows as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.quota.flows_max.is_some_and(|max| self.flows_open >= max)
    }

    /// Whether bytes are counted, so that little is to move at a time.
    pub(super) fn counts_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// How many flows may move a record each, of those that have waited, and when the next may.
    pub(super) fn affordable(&self, now: Time) -> (usize, Time) {
        let Some(pace) = &self.bytes else { return (usize::MAX, now) };
        let record = pace.cost(PAYLOAD_MAX).max(Duration::from_nanos(1));
        let records = (pace.burst.as_nanos() / record.as_nanos()).max(1);
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        (records as usize, now + record.saturating_mul(records))
    }

    /// Whether forgetting it would forgive something.
    pub(super) fn is_in_debt(&self, now: Time) -> bool {
        self.flows_open > 0
            || [&self.flows, &self.bytes].into_iter().flatten().any(|pace| pace.paid_at > now)
    }

    /// When bytes may move again, should they have to wait.
    pub(super) fn bytes_due(&self, now: Time) -> Option<Time> {
        let pace = self.bytes.as_ref().filter(|pace| pace.has_to_wait(now))?;
        Some(now + pace.paid_at.since(now).saturating_sub(pace.burst / 2))
    }

    /// Whether datagrams of so many bytes may go on; if so they are counted.
    pub(super) fn admits_bytes(&mut self, bytes: usize, now: Time) -> bool {
        let is_paid = self.bytes_due(now).is_none();
        if is_paid {
            self.charge_bytes(bytes, now);
        }
        is_paid
    }

    /// Bytes have moved.
    pub(super) fn charge_bytes(&mut self, bytes: usize, now: Time) {
        if self.volume != Volume::Unlimited {
            self.untold_bytes = self.untold_bytes.saturating_add(bytes as u64);
        }
        if let Some(pace) = &mut self.bytes {
            pace.charge(bytes, now);
        }
    }

    /// What was counted since this was last asked, if anything was.
    pub(super) fn take_untold(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.untold_bytes)).filter(|bytes| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// More flows than are allowed at once are not opened, however slowly they come.
    #[test]
    fn flows_at_once_are_bounded() {
        let quota = Quota { flows_max: Some(3), ..Quota::default() };
        let meter = SharedMeter::new(RefCell::new(quota.into()));
        let mut seats: Vec<_> = (0..3).map(|_| Seat::from(&meter)).collect();
        assert_eq!(meter.borrow_mut().admit_flow(Time(0)), Err(Limit::FlowsMax));
        seats.pop();
        assert!(meter.borrow_mut().admit_flow(Time(0)).is_ok());
    }

    /// Ten flows a second are ten at once, and ten more a second later.
    #[test]
    fn flows_a_second_are_bounded() {
        let mut meter = Meter::from(Quota { flows_per_s: Some(10), ..Quota::default() });
        let mut now = Time(0) + SECOND;
        let burst = (0..100).filter(|_| meter.admit_flow(now).is_ok()).count();
        assert_eq!(burst, 10);
        assert_eq!(meter.admit_flow(now), Err(Limit::FlowsPerS));
        now = now + SECOND;
        assert_eq!((0..100).filter(|_| meter.admit_flow(now).is_ok()).count(), 10);
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

    /// The same quota said again, as at each resumption, is no fresh start.
    #[test]
    fn the_same_quota_forgives_nothing() {
        let quota = Quota { flows_per_s: Some(10), bytes_per_s: Some(1_000), ..Quota::default() };
        let (mut meter, now) = (Meter::from(quota), Time(0) + SECOND);
        while meter.admit_flow(now).is_ok() {}
        meter.charge_bytes(5_000, now);
        meter.handle_limit(quota, Volume::Unlimited);
        assert!(
            meter.admit_flow(now).is_err()
                && meter.bytes_due(now).is_some()
                && meter.is_in_debt(now)
        );
        assert!(!meter.is_in_debt(now + 10 * SECOND));
    }

    /// What has moved is told once, whatever becomes of the quota meanwhile.
    #[test]
    fn every_byte_is_told_once() {
        let mut meter = Meter::default();
        meter.handle_limit(Quota::default(), Volume::Left);
        meter.charge_bytes(5_000, Time(0));
        meter.handle_limit(Quota { bytes_per_s: Some(1), ..Quota::default() }, Volume::Left);
        assert!(meter.admits_bytes(7, Time(0)));
        assert_eq!((meter.take_untold(), meter.take_untold()), (Some(5_007), None));
    }

    /// Bytes are counted from when there is a volume on, and no longer than there is one.
    #[test]
    fn without_a_volume_nothing_is_counted() {
        let mut meter = Meter::default();
        for volume in [Volume::Unlimited, Volume::Left, Volume::Unlimited] {
            meter.handle_limit(Quota::default(), volume);
            meter.charge_bytes(5_000, Time(0));
        }
        assert_eq!(meter.take_untold(), Some(5_000));
    }

    /// Who may move nothing more opens no flow, whatever the quota says.
    #[test]
    fn whoever_is_spent_opens_no_flow() {
        let (mut meter, now) = (Meter::default(), Time(0) + SECOND);
        let quota = Quota { flows_max: Some(3), ..Quota::default() };
        meter.handle_limit(quota, Volume::Spent);
        assert_eq!(meter.admit_flow(now), Err(Limit::BytesPerMonth));
        meter.handle_limit(quota, Volume::Left);
        assert!(meter.admit_flow(now).is_ok());
    }

    /// Who has no quota is never held up.
    #[test]
    fn without_a_quota_nothing_is_held_up() {
        let mut meter = Meter::default();
        meter.charge_bytes(usize::MAX, Time(0));
        assert!(meter.admit_flow(Time(0)).is_ok());
        assert_eq!(meter.bytes_due(Time(0)), None);
    }
}
