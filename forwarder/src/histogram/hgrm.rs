//! Percentiles in HdrHistogram's `.hgrm` form, which its plotter and others read.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %: what other implementations write.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
const NS_PER_US: f64 = 1e3;

/// Writes `times`, which are nanoseconds, in microseconds.
///
/// # Errors
/// When `out` does not take it.
pub fn write_hgrm(times: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    let headings = ("Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", headings.0, headings.1, headings.2, headings.3)?;
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

#[expect(clippy::cast_precision_loss, reason = "two digits were kept anyway")]
pub(super) fn in_us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NS_PER_US
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last line of figures is the longest time, at one, with all of them counted.
    #[test]
    fn last_percentile_counts_all() {
        let mut times = Histogram::new(3).unwrap();
        [1_000, 2_000, 50_000].into_iter().for_each(|value| times.record(value).unwrap());
        let mut text = Vec::new();
        write_hgrm(&times, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let words: Vec<_> = last.split_whitespace().collect();
        assert_eq!(words, ["50.015", "1.000000000000", "3"]);
    }
}
