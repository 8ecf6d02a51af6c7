//! Waits for a moment at which nobody else uses the machine, and remembers what came of it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::statistics::Rounds;

/// Long enough to see a compiler, short beside a run.
const SAMPLE: Duration = Duration::from_millis(500);
/// Below this share the machine counts as quiet: the kernel's own house-keeping.
const BUSY_PERCENT_MAX: f64 = 10.0;

/// How busy the machine was before each run.
#[derive(Debug)]
pub(crate) struct Quiet {
    patience: Duration,
    busy_percent: Rounds,
}

impl Quiet {
    /// Will wait for at most `seconds` before a run.
    pub(crate) fn new(seconds: u64) -> Self {
        Self { patience: Duration::from_secs(seconds), busy_percent: Rounds::new() }
    }

    /// Waits for a quiet moment, but begins without one rather than never.
    pub(crate) fn wait(&mut self) {
        let end = Instant::now() + self.patience;
        let busy = loop {
            let busy = busy_percent();
            if busy <= BUSY_PERCENT_MAX || Instant::now() >= end {
                break busy;
            }
        };
        self.busy_percent.add(busy);
    }

    /// For the conditions of a report.
    pub(crate) fn condition(&self) -> (String, String) {
        let (runs, busy) = (self.busy_percent.each(), |percent: &f64| *percent > BUSY_PERCENT_MAX);
        let disturbed = runs.iter().filter(|percent| busy(percent)).count();
        let text = format!(
            "{} % of the processors before a run; {disturbed} of {} runs began on a busy machine",
            self.busy_percent.summary(0),
            runs.len()
        );
        ("others' load".to_owned(), text)
    }
}

/// The share of time that the processors did not idle, over one sample.
fn busy_percent() -> f64 {
    let before = times();
    thread::sleep(SAMPLE);
    let after = times();
    let (all, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let of = |ticks: u64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX));
    100.0 * of(all.saturating_sub(idle)) / of(all).max(1.0)
}

/// All ticks of all processors, and the idle ones among them.
fn times() -> (u64, u64) {
    times_in(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn times_in(stat: &str) -> (u64, u64) {
    // user nice system idle iowait irq softirq steal; what guests use is in user already.
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    (ticks.iter().sum(), ticks.iter().skip(3).take(2).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waiting for a disk is idling; guests' time is not counted twice.
    #[test]
    fn waiting_for_disks_counts_as_idle() {
        assert_eq!(times_in("cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 1"), (72, 45));
        assert_eq!(times_in(""), (0, 0));
    }
}
