//! Bulk throughput and what a byte costs, with iperf3 as the generator.

mod bulk;

use std::collections::BTreeMap;

use clap::Args;

use crate::bed::Bed;
use crate::cli::Shared;
use crate::error::BenchError;
use crate::machine;
use crate::process_tree::processor_time;
use crate::report::{Report, Table};
use crate::statistics::Rounds;
use crate::way::Way;

pub(crate) use bulk::{Bulk, Direction};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// TCP connections at once.
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// From the internal to the external peer.
    #[arg(long)]
    reverse: bool,
    #[command(flatten)]
    shared: Shared,
}

/// What the rounds of one way showed.
#[derive(Debug)]
struct Series {
    gbits: Rounds,
    /// Processor seconds per GiB of each side's processes.
    outside: Rounds,
    inside: Rounds,
    both: Rounds,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.seconds) = (1, 1);
    }
    let ways = options.shared.ways(&[Way::Kernel, Way::Socat, Way::Adit]);
    let bed = Bed::new("throughput", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut series: BTreeMap<Way, Series> = BTreeMap::new();
    for round in 0..options.rounds {
        // Another one begins each round: whoever comes first must not always be the same.
        for &way in ways.iter().cycle().skip(round % ways.len()).take(ways.len()) {
            let series = series.entry(way).or_insert_with(Series::new);
            quiet.wait();
            measure(&bed, way, &options, series)?;
        }
    }
    conditions.push(quiet.condition());
    let report = Report {
        title: title(&options),
        conditions,
        table: table(&series),
        notes: notes(&options),
    };
    report.publish(options.shared.markdown.as_deref())
}

fn measure(bed: &Bed, way: Way, options: &Options, series: &mut Series) -> Result<(), BenchError> {
    bed.wait_until_idle(way)?;
    let times = |bed: &Bed| -> Result<Vec<f64>, BenchError> {
        let processes = bed.processes(way).iter();
        processes.map(|process| Ok(processor_time(process)?.as_secs_f64())).collect()
    };
    let direction = if options.reverse { Direction::Outwards } else { Direction::Inwards };
    let before = times(bed)?;
    let moved = Bulk::start(bed, way, options.seconds, options.flows, direction)?.finish()?;
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
        "{way}: {:.2} Gbit/s, {:.2} s/GiB",
        moved.bits_per_second / 1e9,
        (outside + inside) / moved.bytes * GIB
    );
    Ok(())
}

impl Series {
    fn new() -> Self {
        Self {
            gbits: Rounds::new(),
            outside: Rounds::new(),
            inside: Rounds::new(),
            both: Rounds::new(),
        }
    }
}

fn title(options: &Options) -> String {
    let direction = if options.reverse { "internal to external" } else { "external to internal" };
    let (flows, seconds, rounds) = (options.flows, options.seconds, options.rounds);
    let plural = if flows == 1 { "" } else { "s" };
    format!("TCP bulk, {direction}, {flows} flow{plural}, {rounds} rounds of {seconds} s")
}

fn table(series: &BTreeMap<Way, Series>) -> Table {
    let mut table = Table::new([
        "way",
        "Gbit/s × socat",
        "Gbit/s",
        "each round",
        "CPU × socat",
        "CPU s/GiB, both",
        "at the relay",
        "inside",
    ]);
    let socat = series.get(&Way::Socat);
    for (way, own) in series {
        let ratio = |of: fn(&Series) -> &Rounds| {
            socat.map_or("–".to_owned(), |socat| of(own).ratio(of(socat)).summary(2))
        };
        let each: Vec<_> = own.gbits.each().iter().map(|gbits| format!("{gbits:.1}")).collect();
        table.row([
            way.to_string(),
            ratio(|series| &series.gbits),
            own.gbits.summary(2),
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
        "Medians (least–most) of interleaved rounds; × socat compares within each round. The \
         generator is iperf3, whose two ends share the processors with what is measured."
            .to_owned(),
        "CPU: user and system time of the forwarding processes (all threads and children) from \
         /proc/PID/stat, per GiB received. What the kernel does in interrupts is in nobody's sum."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
