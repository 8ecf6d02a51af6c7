//! Histograms on the API: figures for people, and the whole in HdrHistogram's own form for programs.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::handoff::{Filter, Measure, TUNNEL, Times, TimesOf, Way};

/// The answer to `GET /v1/histograms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histograms {
    /// Of all times: `ns`.
    pub unit: String,
    /// Seconds since the daemon's start or the last reset.
    pub seconds: u64,
    /// Each of them.
    pub histograms: Vec<Shown>,
}

/// One histogram, its times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Times of what.
    pub name: Measure,
    /// Whom the session is with.
    pub session: String,
    /// The contact point's peer; nothing where the times are the session's.
    pub contact: Option<String>,
    /// Which way; nothing where the times are the session's.
    pub way: Option<Way>,
    /// How many times there are.
    pub count: u64,
    /// Their median …
    pub p50: u64,
    /// … and further percentiles …
    pub p90: u64,
    /// … of them …
    pub p99: u64,
    /// … up to 99.9 % …
    pub p999: u64,
    /// … and the longest.
    pub max: u64,
    /// All of it: HdrHistogram V2, in base64.
    pub hdr: String,
}

/// What comes as a histogram and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no histogram of this version ({1}): let the installed program take over from the daemon \
     (`upgrade`)"
)]
pub struct BadHistogram(String, String);

impl Histograms {
    /// The answer, `since` the times count.
    pub fn new(times: &[Times], filter: &Filter, since: Duration) -> Self {
        let is_asked =
            |times: &&Times| filter.selects(times.of.measure, times.of.contact.as_deref());
        Self {
            unit: "ns".to_owned(),
            seconds: since.as_secs(),
            histograms: times.iter().filter(is_asked).map(Shown::from).collect(),
        }
    }
}

impl From<&Times> for Shown {
    fn from(times: &Times) -> Self {
        let Times { of, histogram } = times;
        let at = |quantile| histogram.value_at_quantile(quantile);
        let mut bytes = Vec::new();
        // A vector takes everything.
        V2Serializer::new().serialize(histogram, &mut bytes).ok();
        Self {
            name: of.measure,
            session: of.session.to_string(),
            contact: of.contact.as_deref().map(str::to_owned),
            way: of.way,
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            hdr: STANDARD.encode(bytes),
        }
    }
}

impl Shown {
    /// What it is, for people.
    pub fn title(&self) -> String {
        let way = self.way.map_or(String::new(), |way| format!(" {}", way.name()));
        let of = self.contact.as_deref().unwrap_or(TUNNEL);
        format!("{}{way}, {of} ({})", self.name, self.session)
    }

    /// The whole of it.
    ///
    /// # Errors
    /// When the daemon is of a version that has another form.
    pub fn times(&self) -> Result<Times, BadHistogram> {
        let bad = |why: String| BadHistogram(self.title(), why);
        let bytes = STANDARD.decode(&self.hdr).map_err(|error| bad(error.to_string()))?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut Cursor::new(bytes))
            .map_err(|error| bad(error.to_string()))?;
        let contact = self.contact.as_deref().map(Arc::from);
        let of = TimesOf {
            measure: self.name,
            session: self.session.as_str().into(),
            contact,
            way: self.way,
        };
        Ok(Times { of, histogram })
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn times(measure: Measure, contact: Option<&str>) -> Times {
        let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        (1..=1_000).for_each(|us| histogram.record(us * 1_000).unwrap());
        let way = contact.map(|_| Way::ToTunnel);
        let of =
            TimesOf { measure, session: "office".into(), contact: contact.map(Arc::from), way };
        Times { of, histogram }
    }

    /// What comes out at the other end of the API is what the pump has measured.
    #[test]
    fn a_histogram_survives_the_api() {
        let sent = times(Measure::Inside, Some("web"));
        let all = Histograms::new(from_ref(&sent), &Filter::default(), Duration::from_secs(3));
        let json = serde_json::to_string(&all).unwrap();
        assert!(
            json.contains(
                r#""name":"inside","session":"office","contact":"web","way":"to_tunnel""#
            )
        );
        let read: Histograms = serde_json::from_str(&json).unwrap();
        let got = read.histograms[0].times().unwrap();
        assert_eq!((got.of, got.histogram), (sent.of, sent.histogram));
        let broken = Shown { hdr: "AAAA".into(), ..read.histograms[0].clone() };
        assert!(broken.times().is_err());
    }

    /// A filter names the measure, the contact point, or the tunnel.
    #[test]
    fn a_filter_selects_what_it_names() {
        let all = [times(Measure::Inside, Some("web")), times(Measure::Stall, None)];
        let count = |name, contact: Option<&str>| {
            let filter = Filter { name, contact: contact.map(str::to_owned) };
            Histograms::new(&all, &filter, Duration::ZERO).histograms.len()
        };
        assert_eq!(count(None, None), 2);
        assert_eq!((count(None, Some(TUNNEL)), count(None, Some("web"))), (1, 1));
        assert_eq!((count(Some(Measure::Stall), None), count(Some(Measure::Queue), None)), (1, 0));
    }
}
