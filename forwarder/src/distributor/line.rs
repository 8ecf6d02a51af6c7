//! A carrier's line: how fast it is, and how much to give the kernel at once.
//!
//! What is in the kernel is out of the scheduler's hands: a small message goes ahead of what waits
//! here, and behind what waits there. So the slower the line, the less is given to it; and on a
//! narrow line, where the kernel's congestion control would fill whatever queue the line has, no
//! more is given than the line itself holds, and a little.

use std::time::Duration;

use adit_proto::id::Time;
use adit_proto::limits::{
    CARRIER_NOTSENT, CARRIER_NOTSENT_MIN, CARRIER_RECORD_TIME, CARRIER_SEND_MAX, CARRIER_SEND_MIN,
    CARRIER_SEND_TIME, LINE_NARROW, LINE_QUEUE_TIME, LINE_WIDE, PAYLOAD_MAX, RECORD_PAYLOAD_MIN,
};
use adit_ring::LineSample;
use serde::{Deserialize, Serialize};

/// How often the kernel is asked while a line is wide.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// Over how long the rate is measured.
const RATE_OVER: Duration = Duration::from_millis(20);
/// A line that brings nothing for so many of these is not slow: it stands still, or its other end does.
const STILL_AFTER: u32 = 4;
/// The least rate that is believed. A line is given a little more than its rate, and shows by that whether
/// it has become faster: from nothing at all it never would.
const RATE_MIN: u64 = 16_000;
/// With so much waiting it is the line that is waited for.
const BACKLOG_MIN: usize = 64 * 1024;
/// How far one measurement lowers the rate: a 16th. A processor may have been busy elsewhere …
const FALL_SHIFT: u32 = 4;
/// … and how far it raises that of a narrow line: a quarter. A shaper lets a burst through now and then.
const RISE_SHIFT: u32 = 2;
/// How long a rate must be low before the line is narrow, or ten of the line's own round trips if
/// that is longer: a new connection begins slowly on any line.
const NARROW_AFTER: Duration = Duration::from_millis(300);
/// A round trip is longer than explained by this much at the least …
const UNEXPLAINED_MIN: Duration = Duration::from_millis(5);
/// … for this long, before the line itself is taken to have become longer …
const LONGER_AFTER: Duration = Duration::from_secs(1);
/// … and how long that is believed.
const LONGER_FOR: Duration = Duration::from_secs(10);
/// The most that is given to a line beyond what it holds, to see whether it has become faster.
const LINE_PROBE_MAX: Duration = Duration::from_millis(20);
/// The least and the most time after which a full line is looked at again.
const LOOK_AGAIN_MIN: Duration = Duration::from_micros(500);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(10);

/// A carrier's line, as the kernel's measurements show it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Bytes a second, while something is known.
    rate: Option<u64>,
    /// The most of the last seconds, and since when it counts.
    peak: (u64, Time),
    /// Where the present measurement began.
    measured_from: Option<(Time, u64)>,
    /// Whether it was the line that was waited for since then.
    was_full: bool,
    /// Since when the rate is low.
    slow_since: Option<Time>,
    sample_due: Time,
    is_narrow: bool,
    /// What the kernel was told last: the most that it may hold, and how fast it may send.
    told: (u32, u32),
    /// How long a byte is on its way when no other is.
    round_trip: Duration,
    /// Since when the round trip is longer than can be explained.
    unexplained_since: Option<Time>,
    /// The line has become longer, and until when that is believed.
    longer: Option<(Duration, Time)>,
    /// Bytes given to the kernel, and arrived, since the first sample.
    given: u64,
    arrived: u64,
    arrived_before: Option<u64>,
}

impl Line {
    /// The most that the next send may gather: what the line takes in [`CARRIER_SEND_TIME`].
    pub(crate) fn send_max(&self) -> usize {
        self.bytes_in(CARRIER_SEND_TIME).clamp(CARRIER_SEND_MIN, CARRIER_SEND_MAX)
    }

    /// The most payload of one record: what the line takes in [`CARRIER_RECORD_TIME`], since
    /// nothing goes ahead of a record that was begun.
    pub(crate) fn record_max(&self) -> usize {
        self.bytes_in(CARRIER_RECORD_TIME).clamp(RECORD_PAYLOAD_MIN, PAYLOAD_MAX)
    }

    /// How many bytes the kernel may hold that it has not sent.
    pub(crate) fn unsent_max(&self) -> u32 {
        let bytes = u32::try_from(self.bytes_in(CARRIER_SEND_TIME)).unwrap_or(u32::MAX);
        bytes.clamp(CARRIER_NOTSENT_MIN, CARRIER_NOTSENT)
    }

    /// How many bytes a second the kernel may send, [`u32::MAX`] for no limit. It is never short of
    /// room on a narrow line, since we hold back what it could send, and takes that for a new line
    /// whose speed it does not know: it would send each portion in a burst, too long for the line's
    /// queue.
    pub(crate) fn pace_max(&self) -> u32 {
        let rate = self.rate.filter(|_| self.is_narrow);
        rate.map_or(u32::MAX, |rate| u32::try_from(rate / 4 * 5).unwrap_or(u32::MAX))
    }

    /// Whether the line is so slow that what the kernel has in flight on it is felt.
    pub(crate) fn is_narrow(&self) -> bool {
        self.is_narrow
    }

    /// How long to wait until a narrow line can take more; nothing when it can now.
    pub(crate) fn poll_full(&self) -> Option<Duration> {
        if !self.is_narrow {
            return None;
        }
        let under_way = self.under_way();
        let most = self.bytes_in(self.time_held()) as u64 + CARRIER_NOTSENT_MIN as u64;
        let excess = under_way.checked_sub(most).filter(|excess| *excess > 0)?;
        let wait = Duration::from_micros(excess * 1_000_000 / self.rate.unwrap_or(1).max(1));
        Some(wait.clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX))
    }

    /// Bytes that the kernel has and the other end has not.
    fn under_way(&self) -> u64 {
        self.given.saturating_sub(self.arrived)
    }

    /// How long a byte may be on its way and in queues. A quarter more than the line's round trip
    /// lets a rate that has grown show; on a long line that would be more than a queue may hold.
    fn time_held(&self) -> Duration {
        let longer = self.longer.map_or(Duration::ZERO, |(round_trip, _)| round_trip);
        let round_trip = self.round_trip.max(longer);
        round_trip + (round_trip / 4).min(LINE_PROBE_MAX) + LINE_QUEUE_TIME
    }

    pub(crate) fn handle_given(&mut self, bytes: usize) {
        self.given += bytes as u64;
    }

    /// Whether [`Line::handle_sample`] is worth calling.
    pub(crate) fn is_sample_due(&mut self, now: Time) -> bool {
        let is_due = self.is_narrow || self.sample_due <= now;
        if is_due {
            self.sample_due = now + SAMPLE_EVERY;
        }
        is_due
    }

    /// Takes what the kernel says; true when the line is found to be another than before. `queued`
    /// is how many bytes wait for the line.
    pub(crate) fn handle_sample(&mut self, sample: LineSample, queued: usize, now: Time) -> bool {
        let before = *self.arrived_before.get_or_insert(sample.arrived);
        self.arrived = sample.arrived.saturating_sub(before).max(self.arrived);
        self.round_trip = sample.round_trip_min;
        self.was_full |= sample.unsent > 0 || self.poll_full().is_some();
        self.explain(sample.round_trip, now);
        match self.measure(queued + sample.unsent as usize, now) {
            Some(rate) => self.handle_rate(rate, now),
            None => false,
        }
    }

    /// The rate, once it was measured for long enough with something always waiting.
    fn measure(&mut self, backlog: usize, now: Time) -> Option<u64> {
        if backlog < BACKLOG_MIN.min(self.send_max()) {
            self.measured_from = None;
            return None;
        }
        let (then, arrived) = *self.measured_from.get_or_insert((now, self.arrived));
        let (time, over) = (now.since(then), RATE_OVER.max(self.round_trip));
        if time < over {
            return None;
        }
        if self.arrived == arrived {
            if time > over * STILL_AFTER {
                self.measured_from = None;
                self.slow_since = self.slow_since.filter(|_| self.is_narrow);
            }
            return None;
        }
        self.measured_from = Some((now, self.arrived));
        let bytes = u128::from(self.arrived - arrived) * 1_000_000;
        u64::try_from(bytes / time.as_micros().max(1)).ok()
    }

    fn handle_rate(&mut self, new: u64, now: Time) -> bool {
        let old = self.rate.unwrap_or(new).max(RATE_MIN);
        // A line that could have taken more is not slower than it was.
        let least =
            if std::mem::take(&mut self.was_full) { old - (old >> FALL_SHIFT) } else { old };
        // What a connection begins with grows much faster.
        let rise = if self.is_narrow { old >> RISE_SHIFT } else { old >> 1 };
        let rate = new.clamp(least, old + rise).max(RATE_MIN);
        self.rate = Some(rate);
        if rate >= self.peak.0 || now.since(self.peak.1) > LONGER_FOR {
            self.peak = (rate, now);
        }
        let narrow_below = if self.is_narrow { LINE_WIDE } else { LINE_NARROW };
        let slow_since = (rate < narrow_below).then(|| self.slow_since.unwrap_or(now));
        self.slow_since = slow_since;
        let after = NARROW_AFTER.max(self.round_trip * 10);
        let is_narrow = slow_since.is_some_and(|since| self.is_narrow || now.since(since) > after);
        self.is_narrow = is_narrow;
        self.is_to_be_told()
    }

    /// Whether what the kernel was told of the line is not true any more; if so it is told now.
    fn is_to_be_told(&mut self) -> bool {
        let (unsent, pace) = self.told;
        let new = (self.unsent_max(), self.pace_max());
        let is_due = unsent.abs_diff(new.0) > unsent / 8 || pace.abs_diff(new.1) > pace / 8;
        if is_due {
            self.told = new;
        }
        is_due
    }

    /// What is under way explains a round trip that is longer than the line's own. If it does not,
    /// for long, the line has become longer: what it holds was given to it no more, and ever less
    /// would be.
    fn explain(&mut self, round_trip: Duration, now: Time) {
        self.longer = self.longer.filter(|(_, until)| now < *until);
        let queue = Duration::from_micros(self.under_way() * 1_000_000 / self.peak.0.max(1));
        let explained = (self.round_trip + queue) * 6 / 5 + UNEXPLAINED_MIN;
        if !self.is_narrow || round_trip <= explained {
            self.unexplained_since = None;
            return;
        }
        let since = *self.unexplained_since.get_or_insert(now);
        if now.since(since) > LONGER_AFTER.max(round_trip * 8) {
            self.longer = Some((round_trip, now + LONGER_FOR));
        }
    }

    fn bytes_in(&self, time: Duration) -> usize {
        let Some(rate) = self.rate.filter(|rate| self.is_narrow || *rate >= LINE_NARROW) else {
            return usize::MAX;
        };
        let bytes = u128::from(rate) * time.as_micros() / 1_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `line` for `time` with a backlog that it carries at `rate`.
    fn feed(line: &mut Line, rate: u64, time: Duration, from: Time) -> Time {
        feed_over(line, rate, Duration::from_millis(1), time, from)
    }

    /// The same over a line of this round trip.
    fn feed_over(
        line: &mut Line,
        rate: u64,
        round_trip: Duration,
        time: Duration,
        from: Time,
    ) -> Time {
        let end = from + time;
        let step = Duration::from_millis(1);
        let mut now = from;
        while now < end {
            now = now + step;
            let given = usize::try_from(rate / 1000).unwrap();
            line.handle_given(given);
            let before = line.arrived_before.unwrap_or(0);
            let arrived = before + line.arrived + rate / 1000;
            let round_trip_min = round_trip;
            let sample = LineSample { round_trip, round_trip_min, arrived, unsent: 1 };
            line.handle_sample(sample, 1 << 20, now);
        }
        end
    }

    /// A line that carries `rate` for some seconds.
    fn line(rate: u64) -> (Line, Time) {
        let mut line = Line::default();
        let now = feed(&mut line, rate, Duration::from_secs(3), Time(0));
        (line, now)
    }

    const SLOW: u64 = 2_500_000;
    const FAST: u64 = 1_000_000_000;

    /// On a narrow line little is given to the kernel, in small records; on a wide one as much as
    /// is good for it.
    #[test]
    fn the_kernel_gets_little_on_a_narrow_line() {
        let ((narrow, _), (wide, _)) = (line(SLOW), line(FAST));
        assert!(narrow.is_narrow() && narrow.unsent_max() <= 8 * 1024);
        assert!(narrow.record_max() <= 4 * 1024, "{}", narrow.record_max());
        assert_eq!(narrow.send_max(), CARRIER_SEND_MIN);
        assert!(!wide.is_narrow());
        assert_eq!((wide.unsent_max(), wide.record_max()), (CARRIER_NOTSENT, PAYLOAD_MAX));
        assert_eq!(wide.send_max(), CARRIER_SEND_MAX);
    }

    /// The kernel follows a narrow line's rate however slowly that changes, and sends to a wide one as
    /// it likes.
    #[test]
    fn the_kernel_sends_to_a_narrow_line_little_faster_than_it_carries() {
        let (mut narrow, mut now) = line(SLOW);
        for percent in (50..=100).rev() {
            let rate = SLOW * percent / 100;
            now = feed(&mut narrow, rate, Duration::from_millis(100), now);
        }
        let told = u64::from(narrow.told.1);
        assert!((SLOW / 2..SLOW / 4 * 3).contains(&told), "{told}");
        assert_eq!(line(FAST).0.told.1, u32::MAX);
    }

    /// What is under way on a narrow line is what it holds and a few milliseconds' worth.
    #[test]
    fn a_narrow_line_is_full_when_it_holds_its_round_trip() {
        let (mut line, _) = line(SLOW);
        assert_eq!(line.poll_full(), None);
        line.handle_given(40_000);
        let wait = line.poll_full().expect("40 kB are 16 ms of this line");
        assert!(wait >= Duration::from_millis(5), "{wait:?}");
        line.arrived += 38_000;
        assert_eq!(line.poll_full(), None);
    }

    /// A connection that begins slowly on a long line, as all do, is not held to what it began with.
    #[test]
    fn a_long_line_is_known_by_what_it_carries_in_the_end() {
        let (mut line, mut now) = (Line::default(), Time(0));
        let (round_trip, carried) = (Duration::from_millis(200), 11_900_000);
        let mut rate = 70_000;
        while !line.is_narrow() {
            now = feed_over(&mut line, rate, round_trip, round_trip, now);
            rate = (2 * rate).min(carried);
        }
        assert!(line.rate > Some(carried / 4), "{:?}", line.rate);
    }

    /// Says for `seconds` that round trips take `round_trip`, and nothing else.
    fn say(line: &mut Line, round_trip: Duration, seconds: u64, from: Time) {
        let arrived = line.arrived_before.unwrap_or(0) + line.arrived;
        let said = LineSample { round_trip, arrived, ..LineSample::default() };
        for second in 0..=seconds {
            line.handle_sample(said, 0, from + Duration::from_secs(second));
        }
    }

    /// A line that was re-routed and is longer now is found out, and not starved for ever.
    #[test]
    fn a_line_that_has_become_longer_is_given_more() {
        let (mut line, now) = line(SLOW);
        let (before, long) = (line.time_held(), Duration::from_millis(100));
        say(&mut line, long, 0, now);
        assert!(line.time_held() <= before);
        say(&mut line, long, 2, now);
        assert!(line.time_held() >= long);
    }

    /// A long round trip that our own bytes make is no longer line: nothing more is given.
    #[test]
    fn a_queue_of_our_own_is_not_a_longer_line() {
        let (mut line, now) = line(SLOW);
        let before = line.time_held();
        line.handle_given(250_000);
        say(&mut line, Duration::from_millis(100), 5, now);
        assert!(line.time_held() <= before, "{:?}", line.time_held());
    }

    /// A line that has nothing to send is not slow.
    #[test]
    fn want_of_data_says_nothing_of_the_line() {
        let mut line = Line::default();
        for millisecond in 0..5_000 {
            let arrived = millisecond * 64;
            let sample = LineSample { arrived, ..LineSample::default() };
            line.handle_sample(sample, 64, Time(0) + Duration::from_millis(millisecond));
        }
        assert_eq!(line.rate, None);
    }

    /// A pump that has too much to do to fill the line does not make it slow.
    #[test]
    fn a_line_that_could_take_more_does_not_become_slower() {
        let (mut line, now) = line(FAST);
        for turn in 0..1_000 {
            let arrived = line.arrived_before.unwrap_or(0) + line.arrived + 5_000;
            let sample = LineSample { arrived, ..LineSample::default() };
            line.handle_sample(sample, 1 << 20, now + Duration::from_millis(5) * turn);
        }
        assert_eq!(line.send_max(), CARRIER_SEND_MAX);
    }

    /// A line that stood still for a while, or whose other end did, is as fast as before, and one that was
    /// not known before is not slow.
    #[test]
    fn a_line_that_stands_still_does_not_become_slow() {
        for known in [true, false] {
            let (mut line, mut now) = if known { line(FAST) } else { Default::default() };
            for _ in 0..3 {
                now = feed(&mut line, 0, Duration::from_secs(5), now);
                now = feed(&mut line, FAST, Duration::from_millis(300), now);
                assert!(!line.is_narrow() && line.send_max() == CARRIER_SEND_MAX, "{line:?}");
            }
        }
    }

    /// However slow a line was, it is found out when it is not.
    #[test]
    fn a_line_that_hardly_moved_becomes_wide_again() {
        let (mut line, mut now) = line(1_000);
        assert!(line.is_narrow());
        for _ in 0..2_000 {
            let paced = u64::from(line.pace_max()).min(FAST);
            now = feed(&mut line, paced, Duration::from_millis(1), now);
        }
        assert!(!line.is_narrow(), "{line:?}");
    }

    /// A shaper that lets a burst through makes no narrow line wide; a wide one is found out soon.
    #[test]
    fn a_burst_is_not_a_wide_line() {
        let (mut line, now) = line(SLOW);
        let now = feed(&mut line, FAST, Duration::from_millis(100), now);
        assert!(line.is_narrow());
        feed(&mut line, FAST, Duration::from_secs(1), now);
        assert!(!line.is_narrow());
    }

    /// A slow moment, when a processor was busy elsewhere or a connection begins, makes no line
    /// narrow; a slow line is found out in seconds.
    #[test]
    fn a_slow_moment_is_not_a_slow_line() {
        let mut new = Line::default();
        feed(&mut new, SLOW, Duration::from_millis(250), Time(0));
        assert!(!new.is_narrow() && new.send_max() == CARRIER_SEND_MAX);
        let (mut line, now) = line(FAST);
        let now = feed(&mut line, SLOW, Duration::from_millis(200), now);
        assert!(!line.is_narrow());
        feed(&mut line, SLOW, Duration::from_secs(3), now);
        assert!(line.is_narrow());
    }
}
