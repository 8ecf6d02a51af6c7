//! A report as JSON.

use std::time::SystemTime;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::error::BenchError;
use crate::report::Report;
use crate::results::{Figure, Timing};

/// The quantiles that stand in it; the histogram files have all.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

/// Everything but the table, which is made of it.
pub(super) fn of(report: &Report) -> Result<Value, BenchError> {
    let conditions: Map<_, _> =
        report.conditions.iter().map(|(what, value)| (what.clone(), json!(value))).collect();
    let timings: Result<Vec<_>, _> = report.results.timings.iter().map(timing).collect();
    Ok(json!({
        "title": report.title,
        "written": seconds(SystemTime::now()),
        "conditions": conditions,
        "notes": report.notes,
        "figures": report.results.figures.iter().map(figure).collect::<Vec<_>>(),
        "timings": timings?,
    }))
}

fn figure(figure: &Figure) -> Value {
    let Figure { subject, measure, unit, rounds } = figure;
    json!({
        "subject": subject,
        "measure": measure,
        "unit": unit,
        "median": rounds.median(),
        "rounds": rounds.each(),
    })
}

fn timing(timing: &Timing) -> Result<Value, BenchError> {
    let runs = timing.runs.iter().map(|run| {
        let mut value = quantiles(&run.times);
        value.insert("begun".to_owned(), json!(seconds(run.begun)));
        value.insert("seconds".to_owned(), json!(run.took.as_secs_f64()));
        value
    });
    Ok(json!({
        "subject": timing.subject,
        "unit": "ns",
        "all": quantiles(&timing.all()?),
        "rounds": runs.collect::<Vec<_>>(),
    }))
}

fn quantiles(times: &Histogram<u64>) -> Map<String, Value> {
    let at =
        |(name, quantile): (&str, f64)| (name.to_owned(), json!(times.value_at_quantile(quantile)));
    let count = ("count".to_owned(), json!(times.len()));
    QUANTILES.into_iter().map(at).chain([count]).collect()
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
