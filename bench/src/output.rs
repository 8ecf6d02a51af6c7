//! A report's files: all figures as JSON, times as HdrHistogram's own formats, and plots.
//!
//! ```text
//!   NAME.json                     conditions, and every round of every figure
//!   NAME.hlog                     HdrHistogram interval log: one interval for each run, tagged by way
//!   NAME-SUBJECT.hgrm             percentiles over all rounds, µs
//!   NAME-percentiles.svg          their curves
//!   NAME-MEASURE.svg              medians of a figure, with their range
//! ```

mod json;
mod plot;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, SystemTime};

use adit::histogram::write_hgrm;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::error::BenchError;
use crate::report::Report;
use crate::results::Timing;

/// The interval log's column of maxima is for people: milliseconds.
const NS_PER_MS: f64 = 1e6;

/// Writes all files of `report` into `folder`.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<(), BenchError> {
    fs::create_dir_all(folder)
        .map_err(BenchError::io(format!("making the folder {}", folder.display())))?;
    let Report { name, title, results, .. } = report;
    let path = folder.join(format!("{name}.json"));
    let text = format!("{:#}\n", json::of(report)?);
    fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    if !results.timings.is_empty() {
        interval_log(title, &results.timings, &folder.join(format!("{name}.hlog")))?;
        for timing in &results.timings {
            let file = format!("{name}-{}.hgrm", file_name(&timing.subject));
            hgrm(&timing.all()?, &folder.join(file))?;
        }
        plot::percentiles(title, &results.timings, &folder.join(curves_file(name)))?;
    }
    for measure in results.measures() {
        let figures: Vec<_> = results.of(measure).collect();
        let path = folder.join(bars_file(name, measure));
        plot::bars(&format!("{title}: {measure}"), &figures, &path)?;
    }
    Ok(())
}

/// The plot of a report's percentiles.
pub(crate) fn curves_file(name: &str) -> String {
    format!("{name}-percentiles.svg")
}

/// The plot of one of its figures.
pub(crate) fn bars_file(name: &str, measure: &str) -> String {
    format!("{name}-{}.svg", file_name(measure))
}

/// Lower case, and a dash for whatever is awkward in a file's name.
fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '.' { c } else { '-' };
    let dashed: String = text.to_lowercase().chars().map(plain).collect();
    let words: Vec<_> = dashed.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-")
}

fn hgrm(times: &Histogram<u64>, path: &Path) -> Result<(), BenchError> {
    let written = File::create(path).and_then(|file| write_hgrm(times, &mut BufWriter::new(file)));
    written.map_err(BenchError::io(format!("writing {}", path.display())))
}

/// All runs in the order in which they were made.
fn interval_log(title: &str, timings: &[Timing], path: &Path) -> Result<(), BenchError> {
    let doing = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(BenchError::io(doing()))?);
    let runs = timings.iter().flat_map(|timing| timing.runs.iter().map(move |run| (timing, run)));
    let mut runs: Vec<_> = runs.collect();
    runs.sort_by_key(|(_, run)| run.begun);
    let first = runs.first().map_or(SystemTime::UNIX_EPOCH, |(_, run)| run.begun);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("[{title}; times in ns, maxima in ms]"))
        .with_start_time(first)
        .with_base_time(first)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(BenchError::io(doing()))?;
    for (timing, run) in runs {
        let tag = file_name(&timing.subject);
        let since = run.begun.duration_since(first).unwrap_or(Duration::ZERO);
        log.write_histogram(&run.times, since, run.took, Tag::new(&tag))
            .map_err(|error| BenchError::unexpected(doing(), format!("{error:?}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::report::Table;
    use crate::results::{Results, Run};

    /// One way in two rounds.
    fn report() -> Report {
        let mut results = Results::default();
        let mut times = Histogram::new(3).unwrap();
        for value in 1..=1_000 {
            times.record(value * 1_000).unwrap();
        }
        for seconds in [5, 9] {
            let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let took = Duration::from_secs(1);
            results.add_run("rathole, plain", Run { begun, took, times: times.clone() });
            results.add("rathole, plain", "CPU", "s/GiB", 2.0);
        }
        Report {
            name: "latency".to_owned(),
            title: "Round trips".to_owned(),
            conditions: vec![("kernel".to_owned(), "6.18".to_owned())],
            table: Table::new(["way"]),
            notes: Vec::new(),
            results,
        }
    }

    /// The interval log can be read again: one interval for each run, under the way's name.
    #[test]
    fn interval_log_holds_each_run_under_its_way() {
        let folder = tempfile::tempdir().unwrap();
        write(&report(), folder.path()).unwrap();
        let log = fs::read(folder.path().join("latency.hlog")).unwrap();
        let entries = IntervalLogIterator::new(&log).filter_map(|entry| match entry.unwrap() {
            LogEntry::Interval(interval) => {
                let tag = interval.tag().map(|tag| tag.as_str().to_owned());
                Some((tag.unwrap(), interval.start_timestamp().as_secs()))
            }
            _ => None,
        });
        let expected = [("rathole-plain".to_owned(), 0), ("rathole-plain".to_owned(), 4)];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }

    /// The JSON has every round and the conditions; the plots are where the report says.
    #[test]
    fn json_has_every_round_and_plots_exist() {
        let folder = tempfile::tempdir().unwrap();
        write(&report(), folder.path()).unwrap();
        for plot in [curves_file("latency"), bars_file("latency", "CPU")] {
            let text = fs::read_to_string(folder.path().join(plot)).unwrap();
            assert!(text.contains("rathole, plain") && text.trim_end().ends_with("</svg>"));
        }
        let text = fs::read_to_string(folder.path().join("latency.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["conditions"]["kernel"], "6.18");
        assert_eq!(json["figures"][0]["rounds"], serde_json::json!([2.0, 2.0]));
        assert_eq!(json["timings"][0]["all"]["count"], 2_000);
    }
}
