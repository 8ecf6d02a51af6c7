//! What a pump measures: histograms of fixed size, which it alone writes to.
//!
//! A time begins with the turn of the pump that found the bytes, and ends with the turn that found
//! the send complete: no clock is read for it but the one that each turn reads anyway.

mod arrivals;
mod counts;
mod in_flight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::id::Time;
use adit_proto::limits::{
    ARRIVALS_SPARE, MEASURED_CONTACTS_MAX, MEASURED_CONTACTS_SHARE, MEASURED_DIGITS,
    MEASURED_QUIET, MEASURED_SESSIONS_MAX, MEASURED_TIME_MAX, MEASURED_TIME_MIN,
};
use adit_proto::session::{Departed, relax};
use hdrhistogram::Histogram;

use arrivals::Spare;
use counts::Counts;

pub(super) use arrivals::Arrivals;
pub(super) use in_flight::InFlight;

use crate::handoff::{Filter, Measure, Times, TimesOf, Way};

/// Whose times are kept together when there are too many.
const OTHERS: &str = "other";

/// A contact point's histograms, by their place and which of its tenants that has: the session's protocol
/// core hands it back as a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gauge(pub(super) u16);

/// Where a tag's histograms are.
fn at(tag: u16) -> usize {
    let [_, at] = tag.to_be_bytes();
    at.into()
}

/// All histograms of a pump.
#[derive(Debug, Default)]
pub(super) struct Measures {
    contacts: Vec<ContactTimes>,
    gauges_by_name: BTreeMap<(Arc<str>, Arc<str>), Gauge>,
    sessions: Vec<SessionTimes>,
    sessions_by_name: BTreeMap<Arc<str>, usize>,
    spare: Spare,
}

/// Of a contact point.
#[derive(Debug)]
struct ContactTimes {
    session: Arc<str>,
    contact: Arc<str>,
    /// Counts whose they were.
    generation: u8,
    /// When they were last asked for or written to.
    used: Time,
    counts: Counts,
    to_tunnel: Histogram<u64>,
    from_tunnel: Histogram<u64>,
    queue: Histogram<u64>,
}

/// Of all sessions with one name, which follow each other.
#[derive(Debug)]
struct SessionTimes {
    session: Arc<str>,
    used: Time,
    round_trip: Histogram<u64>,
    stall: Histogram<u64>,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    let (min, max) = (nanoseconds(MEASURED_TIME_MIN), nanoseconds(MEASURED_TIME_MAX));
    Histogram::new_with_bounds(min, max, MEASURED_DIGITS)
        .expect("invariant: the bounds of limits.rs are a histogram's")
}

impl Gauge {
    fn new(at: usize, generation: u8) -> Self {
        Self(u16::from_be_bytes([generation, u8::try_from(at).unwrap_or(u8::MAX)]))
    }
}

impl ContactTimes {
    fn new(session: Arc<str>, contact: Arc<str>, now: Time) -> Self {
        let (to_tunnel, from_tunnel, queue) = (histogram(), histogram(), histogram());
        let (generation, counts) = (0, Counts::default());
        Self { session, contact, generation, used: now, counts, to_tunnel, from_tunnel, queue }
    }

    fn reset(&mut self) {
        self.to_tunnel.reset();
        self.from_tunnel.reset();
        self.queue.reset();
    }
}

impl Measures {
    /// The contact point's histograms, which are made if there is room for them.
    pub(super) fn contact(&mut self, session: &Arc<str>, contact: &Arc<str>, now: Time) -> Gauge {
        let name = (Arc::clone(session), Arc::clone(contact));
        if let Some(gauge) = self.gauges_by_name.get(&name) {
            if let Some(times) = self.contacts.get_mut(at(gauge.0)) {
                times.used = now;
            }
            return *gauge;
        }
        let gauge = if self.contacts.len() < MEASURED_CONTACTS_MAX {
            self.contacts.push(ContactTimes::new(name.0.clone(), name.1.clone(), now));
            Gauge::new(self.contacts.len() - 1, 0)
        } else if let Some(gauge) = self.reuse(&name, now) {
            gauge
        } else {
            if self.contacts.len() == MEASURED_CONTACTS_MAX {
                self.contacts.push(ContactTimes::new(OTHERS.into(), OTHERS.into(), now));
            }
            return Gauge::new(MEASURED_CONTACTS_MAX, 0);
        };
        self.gauges_by_name.insert(name, gauge);
        gauge
    }

    /// Gives another's histograms to a contact point: those longest unused of a session that has more
    /// than its share, if this one has less, or else some that have not been used for long. Whose they
    /// were is counted with the others from then on.
    fn reuse(&mut self, name: &(Arc<str>, Arc<str>), now: Time) -> Option<Gauge> {
        let own = self.contacts.iter().take(MEASURED_CONTACTS_MAX);
        let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        own.for_each(|times| *counts.entry(Arc::clone(&times.session)).or_default() += 1);
        let count = |session: &Arc<str>| counts.get(session).copied().unwrap_or(0);
        let has_share = count(&name.0) >= MEASURED_CONTACTS_SHARE;
        let largest = counts.values().max().copied().unwrap_or(0);
        let is_crowded = !has_share && largest > MEASURED_CONTACTS_SHARE;
        let may_go = |times: &ContactTimes| {
            if is_crowded {
                return count(&times.session) == largest;
            }
            let is_quiet = now.since(times.used) >= MEASURED_QUIET;
            is_quiet && (!has_share || times.session == name.0)
        };
        let own = self.contacts.iter_mut().take(MEASURED_CONTACTS_MAX).enumerate();
        let (at, times) =
            own.filter(|(_, times)| may_go(times)).min_by_key(|(_, times)| times.used)?;
        let old = (Arc::clone(&times.session), Arc::clone(&times.contact));
        self.gauges_by_name.remove(&old);
        (times.session, times.contact) = name.clone();
        times.generation = times.generation.wrapping_add(1);
        times.used = now;
        times.counts = Counts::default();
        times.reset();
        Some(Gauge::new(at, times.generation))
    }

    /// Where the tag's times are kept; of one that another has replaced, with the others'.
    fn times(&mut self, tag: u16, now: Time) -> Option<&mut ContactTimes> {
        let [generation, _] = tag.to_be_bytes();
        let is_own = |times: &ContactTimes| times.generation == generation;
        let is_there = self.contacts.get(at(tag)).is_some_and(is_own);
        let times =
            self.contacts.get_mut(if is_there { at(tag) } else { MEASURED_CONTACTS_MAX })?;
        times.used = now;
        Some(times)
    }

    /// The same of a session. Of those that were silent for long, one that comes takes the place.
    fn session(&mut self, name: &Arc<str>, now: Time) -> Option<&mut SessionTimes> {
        let at = match self.sessions_by_name.get(name) {
            Some(at) => *at,
            None => self.new_session(name, now),
        };
        let times = self.sessions.get_mut(at)?;
        times.used = now;
        Some(times)
    }

    fn new_session(&mut self, name: &Arc<str>, now: Time) -> usize {
        let all = self.sessions.iter().take(MEASURED_SESSIONS_MAX).enumerate();
        let quiet = all.filter(|(_, times)| now.since(times.used) >= MEASURED_QUIET);
        let quietest = quiet.min_by_key(|(_, times)| times.used).map(|(at, _)| at);
        let is_full = self.sessions.len() >= MEASURED_SESSIONS_MAX;
        let at = match quietest.filter(|_| is_full) {
            Some(at) => at,
            None => self.sessions.len().min(MEASURED_SESSIONS_MAX),
        };
        let is_last = at == MEASURED_SESSIONS_MAX;
        let session: Arc<str> = if is_last { OTHERS.into() } else { Arc::clone(name) };
        match self.sessions.get_mut(at) {
            Some(_) if is_last => {}
            Some(times) => {
                self.sessions_by_name.remove(&times.session);
                times.session = session;
                times.round_trip.reset();
                times.stall.reset();
            }
            None => {
                let (round_trip, stall) = (histogram(), histogram());
                self.sessions.push(SessionTimes { session, used: now, round_trip, stall });
            }
        }
        if !is_last {
            self.sessions_by_name.insert(Arc::clone(name), at);
        }
        at
    }

    /// What was sealed has waited for its turn until now.
    pub(super) fn record_queued(&mut self, departed: &[Departed], now: Time) {
        for Departed { tag, at } in departed {
            if let Some(times) = self.times(*tag, now) {
                times.queue.saturating_record(nanoseconds(now.since(*at)));
            }
        }
    }

    /// What was sealed is sent.
    pub(super) fn record_departed(&mut self, departed: &mut Vec<Departed>, now: Time) {
        let used = departed.len();
        for Departed { tag, at } in departed.drain(..) {
            if let Some(times) = self.times(tag, now) {
                times.to_tunnel.saturating_record(nanoseconds(now.since(at)));
            }
        }
        relax(departed, used);
    }

    /// So many more units, bytes or sends, have come for a flow's socket.
    pub(super) fn handle_come(&mut self, arrivals: &mut Arrivals, units: usize, now: Time) {
        arrivals.handle_come(units, now, &mut self.spare);
    }

    /// A flow's socket has taken `units` more of what came from the tunnel.
    pub(super) fn record_taken(
        &mut self,
        gauge: Gauge,
        arrivals: &mut Arrivals,
        units: usize,
        now: Time,
    ) {
        let mut times = self.times(gauge.0, now);
        let emptied = arrivals.handle_taken(units, |since| {
            if let Some(times) = &mut times {
                times.from_tunnel.saturating_record(nanoseconds(now.since(since)));
            }
        });
        if self.spare.len() < ARRIVALS_SPARE {
            self.spare.extend(emptied);
        }
    }

    pub(super) fn record_round_trip(&mut self, session: &Arc<str>, time: Duration, now: Time) {
        if let Some(times) = self.session(session, now) {
            times.round_trip.saturating_record(nanoseconds(time));
        }
    }

    pub(super) fn record_stall(&mut self, session: &Arc<str>, time: Duration, now: Time) {
        if let Some(times) = self.session(session, now) {
            times.stall.saturating_record(nanoseconds(time));
        }
    }

    /// Everything begins anew.
    pub(super) fn reset(&mut self) {
        self.contacts.iter_mut().for_each(ContactTimes::reset);
        for times in &mut self.sessions {
            times.round_trip.reset();
            times.stall.reset();
        }
    }

    /// A copy of what the filter selects and has something.
    pub(super) fn snapshot(&self, filter: &Filter) -> Vec<Times> {
        let of_contacts = self.contacts.iter().flat_map(|times| {
            let of = |measure, way| TimesOf {
                measure,
                session: Arc::clone(&times.session),
                contact: Some(Arc::clone(&times.contact)),
                way: Some(way),
            };
            [
                (of(Measure::Inside, Way::ToTunnel), &times.to_tunnel),
                (of(Measure::Inside, Way::FromTunnel), &times.from_tunnel),
                (of(Measure::Queue, Way::ToTunnel), &times.queue),
            ]
        });
        let of_sessions = self.sessions.iter().flat_map(|times| {
            let session = &times.session;
            let of = |measure| TimesOf {
                measure,
                session: Arc::clone(session),
                contact: None,
                way: None,
            };
            [(of(Measure::RoundTrip), &times.round_trip), (of(Measure::Stall), &times.stall)]
        });
        let is_asked = |(of, histogram): &(TimesOf, &Histogram<u64>)| {
            !histogram.is_empty() && filter.selects(of.measure, of.contact.as_deref())
        };
        let asked = of_contacts.chain(of_sessions).filter(is_asked);
        asked.map(|(of, histogram)| Times { of, histogram: histogram.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: u64) -> Time {
        Time(time * 1_000_000)
    }

    fn find(measures: &Measures, measure: Measure, way: Option<Way>) -> Histogram<u64> {
        let mut found = measures.snapshot(&Filter::default()).into_iter();
        let found = found.find(|times| times.of.measure == measure && times.of.way == way);
        found.expect("a histogram").histogram
    }

    /// Bytes that waited 50 ms for their socket show 50 ms, once for each receive, when the last of
    /// them is gone.
    #[test]
    fn a_wait_for_a_socket_is_measured() {
        let (mut measures, mut arrivals) = (Measures::default(), Arrivals::default());
        let gauge = measures.contact(&"office".into(), &"web".into(), ms(0));
        measures.handle_come(&mut arrivals, 1_000, ms(10));
        measures.handle_come(&mut arrivals, 500, ms(10));
        measures.handle_come(&mut arrivals, 500, ms(20));
        measures.record_taken(gauge, &mut arrivals, 1_499, ms(30));
        let way = Some(Way::FromTunnel);
        assert!(measures.snapshot(&Filter::default()).is_empty());
        measures.record_taken(gauge, &mut arrivals, 501, ms(60));
        let times = find(&measures, Measure::Inside, way);
        assert_eq!(times.len(), 2);
        assert!((49_000_000..51_000_000).contains(&times.max()), "{}", times.max());
        assert!((39_000_000..41_000_000).contains(&times.min()), "{}", times.min());
    }

    /// The wait for a turn on the carrier and the time to the end of the send are kept apart.
    #[test]
    fn the_queue_is_a_part_of_the_way() {
        let mut measures = Measures::default();
        let Gauge(tag) = measures.contact(&"office".into(), &"web".into(), ms(0));
        let mut departed = vec![Departed { tag, at: ms(100) }];
        measures.record_queued(&departed, ms(150));
        measures.record_departed(&mut departed, ms(170));
        assert!(departed.is_empty());
        let times = |measure| find(&measures, measure, Some(Way::ToTunnel)).max() / 1_000_000;
        assert_eq!((times(Measure::Queue), times(Measure::Inside)), (50, 70));
    }

    /// However many names there are, the histograms are bounded, and nothing is lost.
    #[test]
    fn crowds_of_names_share_one_histogram() {
        let mut measures = Measures::default();
        let session: Arc<str> = "office".into();
        for number in 0..2 * MEASURED_CONTACTS_MAX {
            let Gauge(tag) = measures.contact(&session, &number.to_string().into(), ms(0));
            measures.record_departed(&mut vec![Departed { tag, at: ms(0) }], ms(1));
            measures.record_stall(&number.to_string().into(), Duration::from_secs(1), ms(1));
        }
        let snapshot = measures.snapshot(&Filter::default());
        let of = |measure| snapshot.iter().filter(move |times| times.of.measure == measure);
        assert_eq!(of(Measure::Inside).count(), MEASURED_CONTACTS_MAX + 1);
        assert_eq!(of(Measure::Stall).count(), MEASURED_SESSIONS_MAX + 1);
        let all = |measure| of(measure).map(|times| times.histogram.len()).sum::<u64>();
        assert_eq!(all(Measure::Inside), 2 * MEASURED_CONTACTS_MAX as u64);
        assert_eq!(all(Measure::Stall), 2 * MEASURED_CONTACTS_MAX as u64);
        measures.reset();
        assert!(measures.snapshot(&Filter::default()).is_empty());
    }

    /// A session with ever new names keeps no other from its share; one whose histograms another
    /// has taken is counted with the others, and quiet ones are used again.
    #[test]
    fn names_that_change_fill_nothing_for_ever() {
        let mut measures = Measures::default();
        let (greedy, modest): (Arc<str>, Arc<str>) = ("greedy".into(), "modest".into());
        let name = |number: usize| Arc::<str>::from(number.to_string());
        let all = 0..2 * MEASURED_CONTACTS_MAX;
        let first = measures.contact(&greedy, &name(0), ms(0));
        all.clone().for_each(|n| _ = measures.contact(&greedy, &name(n), ms(n as u64)));
        let own: Vec<_> = all.map(|n| measures.contact(&modest, &name(n), ms(1_000))).collect();
        let others = Gauge::new(MEASURED_CONTACTS_MAX, 0);
        let kept = own.iter().filter(|gauge| **gauge != others).count();
        assert_eq!(kept, MEASURED_CONTACTS_SHARE);
        measures.record_departed(&mut vec![Departed { tag: first.0, at: ms(0) }], ms(1));
        let snapshot = measures.snapshot(&Filter::default());
        assert!(snapshot.len() == 1 && *snapshot[0].of.contact.as_deref().unwrap() == *OTHERS);
        let later = ms(1_000) + MEASURED_QUIET;
        assert_ne!(measures.contact(&modest, &"new".into(), later), others);
    }

    /// The size that limits.rs reckons with is the size that there is.
    #[test]
    fn a_histogram_has_the_size_that_is_reckoned() {
        let bytes = histogram().distinct_values() * size_of::<u64>();
        assert!(bytes <= adit_proto::limits::HISTOGRAM_BYTES, "{bytes}");
        assert!(bytes * 2 > adit_proto::limits::HISTOGRAM_BYTES, "{bytes}");
    }
}
