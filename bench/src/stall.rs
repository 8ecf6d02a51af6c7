//! How long flows stand still when the tunnel's connection is killed, or its way is blocked.
//!
//! One bulk flow and some paced ones run from the internal to the external peer. The tunnel's TCP
//! connections are killed again and again, at one end and at the other, and the gateway drops
//! everything for a few seconds, again and again. Each flow notes its own gaps.

mod faults;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use clap::Args;
use hdrhistogram::{Histogram, RecordError};

use self::faults::{Fault, Kind};
use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::microseconds;
use crate::load::{Gap, Watch, now_ns};
use crate::machine;
use crate::path::Far;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::way::{SOURCE, Way};

/// What was under way when the fault struck arrives within it, and is no sign of life.
const AFTERMATH: Duration = Duration::from_millis(300);
/// A gap that begins later is none of the fault's: what was under way has arrived by then.
const BEGINS_WITHIN_NS: u64 = 100_000_000;
/// A way that takes longer than that to recover has not.
const RECOVERED_WITHIN: Duration = Duration::from_secs(120);
/// A gap that was too short to be noted counts as this.
const UNNOTED_US: u64 = 15_000;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How often the tunnel's connections are killed.
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// How often the gateway drops everything, for two to eight seconds.
    #[arg(long, default_value_t = 8)]
    holes: usize,
    /// Paced flows beside the bulk flow.
    #[arg(long, default_value_t = 20)]
    paced: usize,
    /// Bytes per second of each paced flow.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Milliseconds for which all flows flow before the next fault: tunnels dial a relay more slowly
    /// whose connections die young.
    #[arg(long, default_value_t = 1_000)]
    pause_ms: u64,
    /// Seconds after which the external peer gives a silent flow up.
    #[arg(long, default_value_t = 20)]
    give_up_s: u64,
    #[command(flatten)]
    far: Far,
    #[command(flatten)]
    shared: Shared,
}

/// What one kind of fault did to a way.
#[derive(Debug)]
struct Series {
    faults: usize,
    /// Those after which some flow never flowed again: the last of its way, and no part of the times.
    unrecovered: usize,
    /// Flows that stood still, and those of them that did not survive.
    struck: usize,
    lost: usize,
    /// From the fault, or from its end, until bytes flow again, in microseconds.
    all: Histogram<u64>,
    bulk: Histogram<u64>,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    let usual = [Way::Adit, Way::Rathole, Way::RatholeNoise];
    if options.shared.smoke {
        (options.kills, options.holes, options.pause_ms) = (20, 0, 0);
    }
    let ways = options.shared.ways(if options.shared.smoke { &usual[..1] } else { &usual });
    let mut bed = Bed::over(options.far.path(None), "stall", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut series: BTreeMap<(Way, Kind), Series> = BTreeMap::new();
    for &way in &ways {
        quiet.wait();
        let (faults, gaps) = strike(&bed, way, &options)?;
        for (at, fault) in faults.iter().enumerate() {
            let until_ns = faults.get(at + 1).map_or(u64::MAX, |next| next.at_ns);
            let series = series.entry((way, fault.kind)).or_insert_with(Series::new);
            series.add(fault, until_ns, &gaps, options.paced + 1)?;
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(quiet.condition());
    let report = Report {
        name: "stall".to_owned(),
        title: format!("Stalls of one bulk flow and {} paced flows, ms", options.paced),
        conditions,
        table: table(&series),
        notes: notes(&options),
        results: results(&series),
    };
    report.publish(&options.shared)?;
    let stuck =
        series.iter().find(|((way, _), series)| *way == Way::Adit && series.unrecovered > 0);
    stuck.map_or(Ok(()), |((_, kind), _)| Err(BenchError::NotRecovered { kind: kind.to_string() }))
}

/// Strikes a way as often as asked for, and returns when, and all gaps that its flows had.
fn strike(bed: &Bed, way: Way, options: &Options) -> Result<(Vec<Fault>, Vec<Gap>), BenchError> {
    let (host, port) = bed.entry(way, SOURCE);
    let external = bed.lab().host(EXTERNAL);
    let address = format!("{host}:{port}");
    let (paced, rate, give_up_s) = (options.paced, options.rate, options.give_up_s);
    let mut watch = Watch::start(&external, address, paced, rate, give_up_s)?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut struck = Vec::new();
    for number in 0..options.kills + options.holes {
        // Not in step with anything that has a period.
        thread::sleep(Duration::from_millis(options.pause_ms + random.u64(50..150)));
        let mut fault = if number < options.kills {
            faults::kill(bed, way, number)?
        } else {
            faults::hole(bed, Duration::from_millis(random.u64(2_000..8_000)))?
        };
        thread::sleep(AFTERMATH);
        if let Err(error) = watch.wait_until_all_flow(RECOVERED_WITHIN) {
            eprintln!("{way}: {} {number}: not recovered: {error}", fault.kind);
            fault.recovered = false;
        }
        struck.push(fault);
        if !fault.recovered {
            break;
        }
        let took = Duration::from_nanos(now_ns() - fault.over_ns);
        eprintln!("{way}: {} {number}: all flow {} ms later", fault.kind, took.as_millis());
    }
    Ok((struck, watch.finish()?))
}

impl Series {
    fn new() -> Self {
        let empty = || {
            let Ok(histogram) = Histogram::new(3) else {
                unreachable!("a histogram may have three digits")
            };
            histogram
        };
        Self { faults: 0, unrecovered: 0, struck: 0, lost: 0, all: empty(), bulk: empty() }
    }

    /// Adds what `fault` did to each flow before the next fault, at `until_ns`. Before that one all
    /// flowed, so that a gap which ends after it is its own.
    fn add(
        &mut self,
        fault: &Fault,
        until_ns: u64,
        gaps: &[Gap],
        flows: usize,
    ) -> Result<(), BenchError> {
        self.faults += 1;
        if !fault.recovered {
            self.unrecovered += 1;
            return Ok(());
        }
        for flow in 0..flows {
            let own = gaps.iter().filter(|gap| {
                gap.flow == flow
                    && gap.end_ns > fault.at_ns
                    && gap.end_ns <= until_ns
                    && gap.begin_ns < fault.over_ns + BEGINS_WITHIN_NS
            });
            let longest = own.clone().max_by_key(|gap| gap.end_ns - gap.begin_ns);
            let us = longest.map_or(UNNOTED_US, |gap| {
                gap.end_ns.saturating_sub(fault.over_ns).div_ceil(1_000).max(UNNOTED_US)
            });
            self.struck += usize::from(longest.is_some());
            self.lost += own.filter(|gap| gap.lost).count();
            let told =
                |error: RecordError| BenchError::unexpected("a histogram", error.to_string());
            self.all.record(us).map_err(told)?;
            if flow == 0 {
                self.bulk.record(us).map_err(told)?;
            }
        }
        Ok(())
    }
}

fn results(series: &BTreeMap<(Way, Kind), Series>) -> Results {
    let mut results = Results::default();
    for ((way, kind), series) in series {
        let subject = format!("{way}, {kind}");
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        results.add(&subject, "faults", "times", count(series.faults));
        results.add(&subject, "not recovered", "times", count(series.unrecovered));
        results.add(&subject, "flows lost", "flows", count(series.lost));
        for (measure, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("longest", 1.0)] {
            let us = series.all.value_at_quantile(quantile);
            results.add(&subject, measure, "ms", microseconds(us));
        }
    }
    results
}

fn table(series: &BTreeMap<(Way, Kind), Series>) -> Table {
    let mut table = Table::new([
        "way",
        "fault",
        "faults",
        "not recovered",
        "flows struck",
        "flows lost",
        "p50",
        "p90",
        "p99",
        "max",
        "bulk flow, p50",
        "bulk flow, p99",
    ]);
    for ((way, kind), series) in series {
        let at = |histogram: &Histogram<u64>, quantile| {
            let us = Duration::from_micros(histogram.value_at_quantile(quantile));
            format!("{:.0}", us.as_secs_f64() * 1e3)
        };
        table.row([
            way.to_string(),
            kind.to_string(),
            series.faults.to_string(),
            series.unrecovered.to_string(),
            series.struck.to_string(),
            series.lost.to_string(),
            at(&series.all, 0.5),
            at(&series.all, 0.9),
            at(&series.all, 0.99),
            at(&series.all, 1.0),
            at(&series.bulk, 0.5),
            at(&series.bulk, 0.99),
        ]);
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "From the kill, or from the end of the hole, until each flow's next byte: over all flows and \
         faults. What stood still for less than 15 ms counts as 15 ms."
            .to_owned(),
        format!(
            "A lost flow was reset, ended, or silent for {} s; the external peer then connects anew, \
             and its time is that of the new connection's first byte.",
            options.give_up_s
        ),
        format!(
            "Not recovered: some flow did not flow within {} s; the way is then given up.",
            RECOVERED_WITHIN.as_secs()
        ),
        "kill: `ss -K` on the tunnel's TCP connections, at the relay and inside by turns. hole: the \
         gateway drops whatever it would forward, for two to eight seconds."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push(
            "A smoke run: connections that are killed so soon one after another are dialled anew \
             more slowly."
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(flow: usize, begin_ms: u64, end_ms: u64, lost: bool) -> Gap {
        Gap { flow, begin_ns: begin_ms * 1_000_000, end_ns: end_ms * 1_000_000, lost }
    }

    /// Only what a flow stood still between this fault and the next counts, from the fault's end.
    #[test]
    fn gaps_belong_to_the_fault_before_them() {
        let ms = 1_000_000;
        let fault =
            Fault { kind: Kind::Hole, at_ns: 1_000 * ms, over_ns: 3_000 * ms, recovered: true };
        let before = gap(0, 100, 900, true);
        let gaps = [
            before,
            gap(0, 990, 3_200, false),
            gap(0, 3_500, 4_900, false),
            gap(1, 4_999, 9_000, true),
        ];
        let mut series = Series::new();
        series.add(&fault, 5_000 * ms, &gaps, 2).unwrap();
        assert_eq!((series.faults, series.struck, series.lost), (1, 1, 0));
        assert_eq!(series.bulk.max() / 1_000, 200);
        assert_eq!(series.all.min() / 1_000, 15);
        series.add(&Fault { recovered: false, ..fault }, u64::MAX, &gaps, 2).unwrap();
        assert_eq!((series.unrecovered, series.all.len()), (1, 2));
    }
}
