//! What Prometheus reads (OpenMetrics text): figures of the status, and all histograms.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::handoff::{Measure, Times, TimesOf};

/// The type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the histograms' buckets, in microseconds; one more has the rest.
const BUCKETS_US: [u64; 18] = [
    20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];
const US_PER_S: f64 = 1e6;
const NS_PER_S: f64 = 1e9;

/// A figure of a daemon's status, with a value for each set of labels.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name, without the prefix, and without `_total`.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// The values.
    pub values: Vec<(Vec<(&'static str, String)>, u64)>,
}

impl Figure {
    /// A figure that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, is_counter: false, values: vec![(Vec::new(), value)] }
    }

    /// A figure that only grows.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { is_counter: true, ..Self::gauge(name, help, value) }
    }

    /// The same with a value for each set of labels.
    #[must_use]
    pub fn of(mut self, values: Vec<(Vec<(&'static str, String)>, u64)>) -> Self {
        self.values = values;
        self
    }

    /// The same with a value for each value of one label.
    #[must_use]
    pub fn by(mut self, label: &'static str, values: impl Iterator<Item = (String, u64)>) -> Self {
        self.values = values.map(|(of, value)| (vec![(label, of)], value)).collect();
        self
    }
}

/// All that Prometheus is told; the names begin with `prefix`.
pub fn exposition(prefix: &'static str, figures: &[Figure], times: &[Times]) -> String {
    let mut registry = Registry::with_prefix(prefix);
    let snapshot = Snapshot { figures: figures.to_vec(), times: times.to_vec() };
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing to a String cannot fail.
    encode(&mut text, &registry).ok();
    text
}

#[derive(Debug)]
struct Snapshot {
    figures: Vec<Figure>,
    times: Vec<Times>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.figures.iter().try_for_each(|figure| encode_figure(figure, &mut encoder))?;
        let mut times_by_measure: BTreeMap<Measure, Vec<&Times>> = BTreeMap::new();
        for times in &self.times {
            times_by_measure.entry(times.of.measure).or_default().push(times);
        }
        for (measure, all) in times_by_measure {
            let (name, unit) = (measure.name(), Unit::Seconds);
            let help = help(measure);
            let kind = MetricType::Histogram;
            let mut metric = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
            for Times { of, histogram } in all {
                let (labels, buckets) = (labels(of), buckets(histogram));
                let count = histogram.len();
                #[expect(clippy::cast_precision_loss, reason = "two digits were kept anyway")]
                let sum = histogram.mean() * count as f64 / NS_PER_S;
                metric
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

fn encode_figure(figure: &Figure, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let Figure { name, help, is_counter, values } = figure;
    if values.is_empty() {
        return Ok(());
    }
    let kind = if *is_counter { MetricType::Counter } else { MetricType::Gauge };
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    if let [(labels, value)] = &values[..]
        && labels.is_empty()
    {
        return encode_value(*is_counter, *value, metric);
    }
    values.iter().try_for_each(|(labels, value)| {
        encode_value(*is_counter, *value, metric.encode_family(labels)?)
    })
}

fn encode_value(is_counter: bool, value: u64, metric: MetricEncoder<'_>) -> fmt::Result {
    if is_counter {
        ConstCounter::new(value).encode(metric)
    } else {
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
    }
}

fn help(measure: Measure) -> &'static str {
    match measure {
        Measure::Inside => "From the receipt of bytes to the end of the send that passes them on",
        Measure::Queue => "Of that, the wait for a turn on the carrier",
        Measure::RoundTrip => "From a probe of the other end to its answer",
        Measure::Stall => "From the loss of a carrier until the other end is heard again",
    }
}

fn labels(of: &TimesOf) -> Vec<(&'static str, String)> {
    let contact = of.contact.as_deref().map(|contact| ("contact", contact.to_owned()));
    let way = of.way.map(|way| ("way", way.name().to_owned()));
    [Some(("session", of.session.to_string())), contact, way].into_iter().flatten().collect()
}

/// How many times lie in each bucket, by its upper end.
fn buckets(times: &Histogram<u64>) -> Vec<(f64, u64)> {
    let mut counts = [0; BUCKETS_US.len() + 1];
    for step in times.iter_recorded() {
        let us = step.value_iterated_to().div_ceil(1_000);
        let at = BUCKETS_US.partition_point(|end| *end < us);
        if let Some(count) = counts.get_mut(at) {
            *count += step.count_since_last_iteration();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "the bounds are whole numbers of few digits")]
    let ends = BUCKETS_US.iter().map(|us| *us as f64 / US_PER_S).chain([f64::MAX]);
    ends.zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::Way;

    /// Every bucket counts what lies in and below it, the last one everything, and the lines have
    /// the names and labels that the documentation promises.
    #[test]
    fn histograms_and_figures_are_exposed() {
        let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        for us in [10, 30, 30, 40_000, 20_000_000] {
            histogram.record(us * 1_000).unwrap();
        }
        let of = TimesOf {
            measure: Measure::Inside,
            session: "office".into(),
            contact: Some("web".into()),
            way: Some(Way::ToTunnel),
        };
        let figures = [
            Figure::gauge("flows", "Open flows", 7),
            Figure::counter("refused", "Refused", 0).by("cause", [("x".to_owned(), 3)].into_iter()),
            Figure::counter("nothing", "Nobody", 0).by("cause", std::iter::empty()),
        ];
        let text = exposition("adit", &figures, &[Times { of, histogram }]);
        let labels = r#"session="office",contact="web",way="to_tunnel""#;
        let lines = [
            "# TYPE adit_inside_seconds histogram".to_owned(),
            format!("adit_inside_seconds_count{{{labels}}} 5"),
            format!("adit_inside_seconds_bucket{{le=\"0.00002\",{labels}}} 1"),
            format!("adit_inside_seconds_bucket{{le=\"0.00005\",{labels}}} 3"),
            format!("adit_inside_seconds_bucket{{le=\"+Inf\",{labels}}} 5"),
            "adit_flows 7".to_owned(),
            "adit_refused_total{cause=\"x\"} 3".to_owned(),
            "# EOF".to_owned(),
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("nothing"));
    }
}
