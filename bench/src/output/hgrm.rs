//! Percentiles in HdrHistogram's `.hgrm` form, which its plotter and others read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use hdrhistogram::Histogram;

use crate::error::BenchError;

/// Lines for each halving of the distance to 100 %: what other implementations write.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
const NS_PER_US: f64 = 1e3;

/// Writes `times`, in microseconds.
pub(super) fn write(times: &Histogram<u64>, path: &Path) -> Result<(), BenchError> {
    let written = File::create(path).and_then(|file| to(times, &mut BufWriter::new(file)));
    written.map_err(BenchError::io(format!("writing {}", path.display())))
}

fn to(times: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in times.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (in_us(step.value_iterated_to()), step.quantile_iterated_to());
        write!(out, "{value:12.3} {quantile:14.12} {count:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (times.mean() / NS_PER_US, times.stdev() / NS_PER_US);
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    let (max, all) = (in_us(times.max()), times.len());
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {all:12}]")?;
    let (buckets, values) = (times.buckets(), times.distinct_values());
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {values:12}]")?;
    out.flush()
}

#[expect(clippy::cast_precision_loss, reason = "three digits were kept anyway")]
fn in_us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NS_PER_US
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last line of figures is the longest time, at one, with all of them counted.
    #[test]
    fn last_percentile_counts_all() {
        let mut times = Histogram::new(3).unwrap();
        for value in [1_000, 2_000, 50_000] {
            times.record(value).unwrap();
        }
        let mut text = Vec::new();
        to(&times, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let words: Vec<_> = last.split_whitespace().collect();
        assert_eq!(words, ["50.015", "1.000000000000", "3"]);
    }
}
