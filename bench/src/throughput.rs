//! Bulk throughput and what a byte costs, with iperf3 as the generator.

mod bulk;

use std::collections::BTreeMap;

use clap::Args;

use crate::bed::Bed;
use crate::cli::Shared;
use crate::error::BenchError;
use crate::machine;
use crate::path::Far;
use crate::process_tree::processor_time;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::statistics::Rounds;
use crate::way::{Way, rotated};

pub(crate) use bulk::{Bulk, Direction, Plan, UNDER_WAY_BYTES};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run [default: 4, or 10 on a far link].
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds of each run before those that count [default: 0, or 5 on a far link].
    #[arg(long)]
    warm_up: Option<u64>,
    /// TCP connections at once; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    flows: Vec<usize>,
    /// From the internal to the external peer.
    #[arg(long)]
    reverse: bool,
    /// In both directions, one after the other.
    #[arg(long, conflicts_with = "reverse")]
    both_ways: bool,
    #[command(flatten)]
    far: Far,
    #[command(flatten)]
    shared: Shared,
}

impl Options {
    /// What to measure, in this order.
    fn plans(&self) -> Vec<Plan> {
        // Slow start over a long way takes seconds, and is not what is asked for.
        let usual = match (self.shared.smoke, self.far.is_far()) {
            (true, _) => (1, 0),
            (false, true) => (10, 5),
            (false, false) => (4, 0),
        };
        let seconds = self.seconds.unwrap_or(usual.0);
        let warm_up = self.warm_up.unwrap_or(usual.1);
        let directions = match (self.both_ways, self.reverse) {
            (true, _) => &[Direction::Inwards, Direction::Outwards][..],
            (false, true) => &[Direction::Outwards],
            (false, false) => &[Direction::Inwards],
        };
        let of = |flows: usize| {
            let plan = move |&direction| Plan { seconds, warm_up, flows, direction };
            directions.iter().map(plan)
        };
        self.flows.iter().copied().flat_map(of).collect()
    }

    /// What the ratios are against: a plain hop on the lab's own links, plain TCP over a far one,
    /// where two hops of it would part the way.
    fn yardstick(&self) -> Way {
        if self.far.is_far() { Way::Kernel } else { Way::Socat }
    }
}

/// What the rounds of one way showed.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) gbits: Rounds,
    /// Processor seconds per GiB of each side's processes.
    outside: Rounds,
    inside: Rounds,
    pub(crate) both: Rounds,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        options.rounds = 1;
    }
    let usual = [Way::Kernel, Way::Socat, Way::Adit];
    let usual = if options.far.is_far() { vec![Way::Kernel, Way::Adit] } else { usual.to_vec() };
    let ways = options.shared.ways(&usual);
    let mut bed = Bed::over(options.far.path(None), "throughput", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut all: Vec<(Plan, BTreeMap<Way, Series>)> =
        options.plans().into_iter().map(|plan| (plan, BTreeMap::new())).collect();
    for round in 0..options.rounds {
        for (plan, series) in &mut all {
            for way in rotated(&ways, round) {
                let series = series.entry(way).or_default();
                quiet.wait();
                measure(&bed, way, *plan, series)?;
            }
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(quiet.condition());
    for (plan, series) in all {
        let report = Report {
            name: name(plan),
            title: title(plan, options.rounds),
            conditions: conditions.clone(),
            table: table(&series, options.yardstick()),
            notes: notes(&options),
            results: results(&series),
        };
        report.publish(&options.shared)?;
    }
    Ok(())
}

/// Makes one run.
pub(crate) fn measure(
    bed: &Bed,
    way: Way,
    plan: Plan,
    series: &mut Series,
) -> Result<(), BenchError> {
    bed.wait_until_idle(way)?;
    let times = |bed: &Bed| -> Result<Vec<f64>, BenchError> {
        let processes = bed.processes(way).iter();
        processes.map(|process| Ok(processor_time(process)?.as_secs_f64())).collect()
    };
    let before = times(bed)?;
    let moved = Bulk::start(bed, way, plan)?.finish()?;
    bed.wait_until_idle(way)?;
    let after = times(bed)?;
    series.gbits.add(moved.bits_per_second / 1e9);
    let (mut outside, mut inside) = (0.0, 0.0);
    for ((process, before), after) in bed.processes(way).iter().zip(before).zip(after) {
        let side = if process.name().starts_with("relay") { &mut outside } else { &mut inside };
        *side += after - before;
    }
    series.outside.add(outside / moved.bytes * GIB);
    series.inside.add(inside / moved.bytes * GIB);
    series.both.add((outside + inside) / moved.bytes * GIB);
    eprintln!(
        "{way}: {:.4} Gbit/s, {:.2} s/GiB",
        moved.bits_per_second / 1e9,
        (outside + inside) / moved.bytes * GIB
    );
    Ok(())
}

fn name(plan: Plan) -> String {
    let Plan { flows, direction, .. } = plan;
    let direction = if direction == Direction::Inwards { "inwards" } else { "outwards" };
    format!("throughput-{flows}-{direction}")
}

fn results(series: &BTreeMap<Way, Series>) -> Results {
    let mut results = Results::default();
    for (way, series) in series {
        results.figure(way, "throughput", "Gbit/s", &series.gbits);
        results.figure(way, "CPU", "s/GiB", &series.both);
        results.figure(way, "CPU at the relay", "s/GiB", &series.outside);
        results.figure(way, "CPU inside", "s/GiB", &series.inside);
    }
    results
}

fn title(plan: Plan, rounds: usize) -> String {
    let Plan { seconds, warm_up, flows, direction } = plan;
    let plural = if flows == 1 { "" } else { "s" };
    let warm_up = if warm_up == 0 { String::new() } else { format!(" after {warm_up} s") };
    format!("TCP bulk, {direction}, {flows} flow{plural}, {rounds} rounds of {seconds} s{warm_up}")
}

fn table(series: &BTreeMap<Way, Series>, yardstick: Way) -> Table {
    let short = yardstick.short();
    let mut table = Table::new([
        "way".to_owned(),
        format!("Gbit/s × {short}"),
        "Gbit/s".to_owned(),
        "each round".to_owned(),
        format!("CPU × {short}"),
        "CPU s/GiB, both".to_owned(),
        "at the relay".to_owned(),
        "inside".to_owned(),
    ]);
    let other = series.get(&yardstick);
    for (way, own) in series {
        let ratio = |of: fn(&Series) -> &Rounds| {
            let ratio = other.map(|other| of(own).ratio(of(other)));
            // The kernel's own forwarding is in nobody's sum: nothing compares with it.
            let ratio = ratio.filter(|ratio| ratio.median().is_finite());
            ratio.map_or("–".to_owned(), |ratio| ratio.summary(2))
        };
        // A lossy link moves a few Mbit/s.
        let decimals = if own.gbits.median() < 1.0 { 4 } else { 2 };
        let each = own.gbits.each().iter().map(|gbits| format!("{gbits:.*}", decimals - 1));
        let each: Vec<_> = each.collect();
        table.row([
            way.to_string(),
            ratio(|series| &series.gbits),
            own.gbits.summary(decimals),
            each.join(" "),
            ratio(|series| &series.both),
            own.both.summary(2),
            format!("{:.2}", own.outside.median()),
            format!("{:.2}", own.inside.median()),
        ]);
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Medians (least–most) of interleaved rounds; × compares within each round. The \
         generator is iperf3, whose two ends share the processors with what is measured."
            .to_owned(),
        "CPU: user and system time of the forwarding processes (all threads and children) from \
         /proc/PID/stat, per GiB moved. What the kernel does in interrupts is in nobody's sum."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
