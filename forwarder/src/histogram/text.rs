//! Histograms for a terminal: a table of percentiles, and bars.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// The percentiles of the table.
const QUANTILES: [(&str, f64); 7] = [
    ("p10", 0.1),
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];
/// The longest bar of [`bars`].
const BAR_CELLS: usize = 40;
/// Eighths of a cell.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A time, to three digits.
pub fn time(nanoseconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = nanoseconds as f64;
    let mut unit = "ns";
    for next in ["µs", "ms", "s"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "ns" {
        return format!("{nanoseconds} ns");
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

/// A bar of `part` of `whole`, at most so many cells long.
pub fn bar(part: u64, whole: u64, cells: usize) -> String {
    let eighths = u128::from(part) * 8 * cells as u128 / u128::from(whole.max(1));
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX).min(8 * cells);
    // What is there is seen.
    let eighths = if part > 0 { eighths.max(1) } else { 0 };
    let mut bar = "█".repeat(eighths / 8);
    if let Some(rest) = EIGHTHS.get(eighths % 8).filter(|rest| **rest != ' ') {
        bar.push(*rest);
    }
    bar
}

/// The percentiles, each on a line with a bar of its length.
pub fn percentiles(times: &Histogram<u64>) -> String {
    let mut text = String::new();
    for (name, quantile) in QUANTILES {
        let value = if quantile < 1.0 { times.value_at_quantile(quantile) } else { times.max() };
        let bar = bar(value, times.max(), BAR_CELLS);
        // Writing to a String cannot fail.
        writeln!(text, "  {name:<7} {:>8}  {bar}", time(value)).ok();
    }
    text
}

/// How many times there are in each power of two of microseconds, with bars.
pub fn bars(times: &Histogram<u64>) -> String {
    let mut counts: Vec<(u64, u64)> = Vec::new();
    let mut from = 0;
    for step in times.iter_log(1_000, 2.0) {
        counts.push((from, step.count_since_last_iteration()));
        from = step.value_iterated_to() + 1;
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let is_something = |(_, count): &(u64, u64)| *count > 0;
    let first = counts.iter().position(is_something).unwrap_or(0);
    let end = counts.iter().rposition(is_something).map_or(0, |last| last + 1);
    let mut text = String::new();
    for (from, count) in counts.get(first..end).unwrap_or_default() {
        let bar = bar(*count, most, BAR_CELLS);
        writeln!(text, "  from {:>8}  {count:>9}  {bar}", time(*from)).ok();
    }
    text
}

/// The powers of two of [`spark`]: from a microsecond to a second.
const SPARKS: usize = 20;
/// From few to many.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How many times there are in each power of two from a microsecond to a second, in a cell each.
pub fn spark(times: &Histogram<u64>) -> String {
    let mut counts = [0_u64; SPARKS];
    for step in times.iter_recorded() {
        let us = (step.value_iterated_to() / 1_000).max(1);
        let at = usize::try_from(us.ilog2()).unwrap_or(SPARKS).min(SPARKS - 1);
        if let Some(count) = counts.get_mut(at) {
            *count += step.count_since_last_iteration();
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let cell = |count: u64| {
        let level = usize::try_from(u128::from(count) * 7 / u128::from(most)).unwrap_or(7);
        LEVELS.get(level).copied().filter(|_| count > 0).unwrap_or('·')
    };
    counts.into_iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three digits, whatever the size, also where rounding reaches the next unit.
    #[test]
    fn times_are_shown_with_three_digits() {
        let shown = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (45_678, "45.7 µs"),
            (999_600, "1.00 ms"),
            (250_000_000, "250 ms"),
            (61_000_000_000, "61.0 s"),
        ];
        for (nanoseconds, text) in shown {
            assert_eq!(time(nanoseconds), text);
        }
    }

    /// A bar is as long as its part, and what is there at all is seen.
    #[test]
    fn bars_are_in_proportion() {
        assert_eq!(bar(1, 2, 4), "██");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(0, 10, 4), "");
        assert_eq!(bar(3, 2, 4), "████");
        assert_eq!(bar(7, 16, 2), "▉");
    }

    /// Each time is in the cell of its power of two, and the last cell has all that is longer.
    #[test]
    fn sparks_show_where_times_are() {
        let mut times = Histogram::<u64>::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        let all = [1_000, 5_000, 5_000, 90_000_000_000];
        all.into_iter().for_each(|time| times.record(time).unwrap());
        assert_eq!(spark(&times), format!("▄·█{}▄", "·".repeat(16)));
    }

    /// The table ends with the longest, and every time is in some bar.
    #[test]
    fn the_text_has_every_time() {
        let mut times = Histogram::<u64>::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        (0..90).for_each(|_| times.record(40_000).unwrap());
        (0..10).for_each(|_| times.record(50_000_000).unwrap());
        let table = percentiles(&times);
        let last = table.lines().last().unwrap();
        assert!(last.starts_with("  max") && last.contains("5") && last.contains(" ms"), "{table}");
        let bars = bars(&times);
        let count = |line: &str| line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap();
        assert_eq!(bars.lines().map(count).sum::<u64>(), 100, "{bars}");
    }
}
