//! The interval log, in HdrHistogram's own form (`.hlog`), which its tools read: what was measured in
//! each interval alone, a line for each histogram that has something.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::handoff::{Times, TimesOf};

/// The column of maxima is for people: milliseconds.
const NS_PER_MS: f64 = 1e6;

/// A log that is written to.
#[derive(Debug)]
pub(super) struct IntervalLog {
    path: PathBuf,
    every: Duration,
    due: Instant,
    /// When the present interval began.
    begun: SystemTime,
    /// What was measured before it.
    before: BTreeMap<TimesOf, Histogram<u64>>,
}

impl IntervalLog {
    pub(super) fn new(path: PathBuf, every: Duration, now: Instant, begun: SystemTime) -> Self {
        let (due, before) = (now + every, BTreeMap::new());
        Self { path, every, due, begun, before }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Whether an interval is over; true once for each.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due <= now;
        if is_due {
            // An end that was suspended writes one long interval, not many empty ones.
            let next = self.due + self.every;
            self.due = if next > now { next } else { now + self.every };
        }
        is_due
    }

    /// The histograms begin anew: takes what was measured until then, if that is known, and writes
    /// what is new.
    pub(super) fn handle_reset(&mut self, all: Option<&[Times]>, now: SystemTime) {
        match all {
            Some(all) => self.handle_times(all, now),
            None => {
                let path = self.path.display();
                tracing::warn!(%path, "the interval before the reset is missing in the histogram log");
                self.begun = now;
            }
        }
        self.before.clear();
    }

    /// Takes all that was measured so far, and writes what is new.
    pub(super) fn handle_times(&mut self, all: &[Times], now: SystemTime) {
        let news = all.iter().filter_map(|times| Some((&times.of, self.news(times)?)));
        let written = self.write(&news.collect::<Vec<_>>(), now);
        if let Err(error) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "an interval is missing in the histogram log");
        }
        self.begun = now;
        self.before = all.iter().map(|times| (times.of.clone(), times.histogram.clone())).collect();
    }

    /// What came in this interval, if anything.
    fn news(&self, times: &Times) -> Option<Histogram<u64>> {
        let mut news = times.histogram.clone();
        if let Some(before) = self.before.get(&times.of)
            && news.subtract(before).is_err()
        {
            // It has begun anew.
            news = times.histogram.clone();
        }
        (!news.is_empty()).then_some(news)
    }

    /// The file is opened each time: who rotates it need tell nobody.
    fn write(&self, news: &[(&TimesOf, Histogram<u64>)], now: SystemTime) -> io::Result<()> {
        if news.is_empty() {
            return Ok(());
        }
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH);
        let begun = since(self.begun).unwrap_or_default();
        let took = now.duration_since(self.begun).unwrap_or_default();
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let mut text = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        builder.with_max_value_divisor(NS_PER_MS);
        let is_new = file.metadata()?.len() == 0;
        if is_new {
            builder
                .add_comment("[Histogram log format version 1.3]")
                .add_comment("[times in ns, maxima in ms, timestamps since 1970]")
                .with_start_time(self.begun)
                .with_base_time(SystemTime::UNIX_EPOCH);
        }
        let mut log = builder.begin_log_with(&mut text, &mut serializer)?;
        for (of, histogram) in news {
            let tag = tag(of);
            log.write_histogram(histogram, begun, took, Tag::new(&tag))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        // The unit of the maxima stands at the top already.
        let header = text.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.write_all(text.get(if is_new { 0 } else { header }..).unwrap_or_default())
    }
}

/// What a line is of: a tag has neither blanks nor commas.
fn tag(of: &TimesOf) -> String {
    let parts = [
        Some(of.measure.name()),
        of.way.map(crate::handoff::Way::name),
        Some(&*of.session),
        of.contact.as_deref(),
    ];
    let tag = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
    tag.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::handoff::{Measure, Way};

    fn times(values: &[u64]) -> Times {
        let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        values.iter().for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let (session, contact) = ("a:1, b:2".into(), Some("web".into()));
        let of = TimesOf { measure: Measure::Inside, session, contact, way: Some(Way::ToTunnel) };
        Times { of, histogram }
    }

    /// Tags and counts of all lines.
    fn read(log: &IntervalLog) -> Vec<(String, u64, u64)> {
        use base64::Engine;
        let text = std::fs::read(&log.path).unwrap();
        let entries = IntervalLogIterator::new(&text);
        let entries = entries.filter_map(|entry| match entry.unwrap() {
            LogEntry::Interval(interval) => {
                let engine = base64::engine::general_purpose::STANDARD;
                let bytes = engine.decode(interval.encoded_histogram()).unwrap();
                let read: Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                let tag = interval.tag().unwrap().as_str().to_owned();
                Some((tag, interval.start_timestamp().as_secs(), read.len()))
            }
            _ => None,
        });
        entries.collect()
    }

    /// Each line has what its interval brought and nothing else; an empty one has no line; after a
    /// reset the count begins anew, whose interval has its line, too.
    #[test]
    fn intervals_have_what_came_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let path = folder.path().join("adit.hlog");
        let every = Duration::from_secs(10);
        let mut log = IntervalLog::new(path, every, Instant::now(), at(1_000_000_000));
        log.handle_times(&[times(&[1, 2, 3])], at(1_000_000_010));
        log.handle_times(&[times(&[1, 2, 3])], at(1_000_000_020));
        log.handle_times(&[times(&[1, 2, 3, 50])], at(1_000_000_030));
        log.handle_reset(Some(&[times(&[1, 2, 3, 50, 60])]), at(1_000_000_034));
        log.handle_times(&[times(&[1, 2])], at(1_000_000_040));
        log.handle_reset(None, at(1_000_000_044));
        log.handle_times(&[times(&[1])], at(1_000_000_050));
        let tag = "inside/to_tunnel/a:1__b:2/web".to_owned();
        let expected = [(0, 3), (20, 1), (30, 1), (34, 2), (44, 1)]
            .map(|(seconds, count)| (tag.clone(), 1_000_000_000 + seconds, count));
        assert_eq!(read(&log), expected);
    }

    /// An interval is due once, and a long sleep is one interval.
    #[test]
    fn an_interval_is_due_once() {
        let (start, every) = (Instant::now(), Duration::from_secs(10));
        let mut log = IntervalLog::new("x".into(), every, start, SystemTime::now());
        assert!(!log.is_due(start));
        assert!(log.is_due(start + every) && !log.is_due(start + every));
        assert!(log.is_due(start + 100 * every) && !log.is_due(start + 100 * every));
    }
}
