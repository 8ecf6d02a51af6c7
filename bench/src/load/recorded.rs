//! Times as a generator prints them and its starter reads them: each recorded value with how often
//! it came.

use std::io::{self, Write};

use hdrhistogram::Histogram;

use crate::error::BenchError;

/// Digits that the histogram keeps.
const PRECISION: u8 = 3;

/// Grows by itself: no value is out of its range.
pub(super) fn empty() -> Histogram<u64> {
    let Ok(histogram) = Histogram::new(PRECISION) else {
        unreachable!("a histogram may have {PRECISION} digits")
    };
    histogram
}

/// One line for each value, to standard output.
pub(super) fn print(histogram: &Histogram<u64>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    histogram.iter_recorded().try_for_each(|step| {
        writeln!(out, "{} {}", step.value_iterated_to(), step.count_since_last_iteration())
    })
}

/// What was printed, and nothing else: an empty log is an error too.
pub(super) fn read(what: &str, log: &str) -> Result<Histogram<u64>, BenchError> {
    let wrong = || BenchError::unexpected(what, log);
    let mut histogram = empty();
    for line in log.lines() {
        let (value, times) = line.split_once(' ').ok_or_else(wrong)?;
        let value = value.parse().map_err(|_error| wrong())?;
        let times = times.parse().map_err(|_error| wrong())?;
        histogram.record_n(value, times).map_err(|_error| wrong())?;
    }
    if histogram.is_empty() { Err(wrong()) } else { Ok(histogram) }
}
