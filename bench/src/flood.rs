//! What a flood of strangers at the tunnel's port costs those who are welcome: round trips of a flow
//! alone and beside the flood, and what the relay's memory grows by.
//!
//! Each stranger connects, sends the beginning of a handshake, and stays. The flood comes from several
//! networks, since the relay's doorway has a bound for each.

use std::time::{Duration, Instant};

use clap::Args;
use netns_tests::{LONG, Process, helper, wait_until};

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::{Sample, Trips, microseconds, sample};
use crate::machine;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::way::Way;

/// The first stranger's address; each network has its own, one after the other.
const FIRST: &str = "198.18.0.1";
/// Where all of them are.
const STRANGERS: &str = "198.18.0.0/16";
/// Bytes of a message.
const SIZE: usize = 64;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Connections in one flood.
    #[arg(long, default_value_t = 20_000)]
    strangers: u32,
    /// Networks that they come from.
    #[arg(long, default_value_t = 8)]
    networks: u32,
    /// Pairs of runs: alone, then beside a flood.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of round trips in each run.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    #[command(flatten)]
    shared: Shared,
}

/// One pair of runs.
#[derive(Debug)]
struct Round {
    alone: Sample,
    beside: Sample,
    grown_kib: u64,
    flooded_in: Duration,
}

impl Round {
    /// Both 99th percentiles, in microseconds.
    fn p99_us(&self) -> [f64; 2] {
        [&self.alone, &self.beside]
            .map(|sample| microseconds(sample.run.times.value_at_quantile(0.99)))
    }

    fn ratio(&self) -> f64 {
        let [alone, beside] = self.p99_us();
        beside / alone.max(1.0)
    }
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.strangers, options.rounds, options.seconds) = (2_000, 1, 1);
    }
    let bed = Bed::new("flood", &[Way::Adit])?;
    settle_strangers(&bed, options.networks)?;
    let mut conditions = machine::conditions(bed.lab(), &[Way::Adit])?;
    let mut quiet = options.shared.quiet();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        quiet.wait();
        rounds.push(measure(&bed, &options)?);
    }
    conditions.push(quiet.condition());
    let report = Report {
        name: "flood".to_owned(),
        title: format!(
            "A flood of {} strangers from {} networks",
            options.strangers, options.networks
        ),
        conditions,
        table: table(&rounds),
        notes: vec![
            format!("Round trips of {SIZE} bytes, one after another, through the tunnel."),
            "Flooding takes processors too: on a machine with few, a part of the ratio is its."
                .to_owned(),
        ],
        results: results(&rounds),
    };
    report.publish(&options.shared)
}

fn settle_strangers(bed: &Bed, networks: u32) -> Result<(), BenchError> {
    let external = bed.lab().host(EXTERNAL);
    let addresses = (0..networks).map(|n| format!("ip addr add 198.18.{n}.1/32 dev lo\n"));
    external.shell(&addresses.collect::<String>())?;
    Ok(bed.lab().host("relay").route(STRANGERS, external.address())?)
}

fn measure(bed: &Bed, options: &Options) -> Result<Round, BenchError> {
    let trips = Trips::closed(u64::MAX / 2, SIZE, options.seconds);
    let alone = sample(bed, Way::Adit, trips)?;
    let [relay, ..] = bed.processes(Way::Adit) else {
        return Err(BenchError::unexpected("Adit", "it has no relay".to_owned()));
    };
    let before = relay.resident_bytes()?;
    let begun = Instant::now();
    let mut flood = begin(bed, options)?;
    let beside = sample(bed, Way::Adit, trips)?;
    let mut flooded_in = begun.elapsed();
    wait_until(LONG, "the end of the flood", || {
        flooded_in = begun.elapsed();
        flood.log().contains("flooded") || !flood.runs()
    })?;
    let grown_kib = relay.resident_bytes()?.saturating_sub(before) / 1_024;
    flood.finish(LONG)?;
    Ok(Round { alone, beside, grown_kib, flooded_in })
}

fn begin(bed: &Bed, options: &Options) -> Result<Process, BenchError> {
    let program = helper("lab-peer")?.display().to_string();
    let to = bed.lab().host(Way::Adit.entry_host()).at(443);
    let (networks, count) = (options.networks.to_string(), options.strangers.to_string());
    let words = [&program, "flood", &to, FIRST, &networks, &count];
    Ok(bed.lab().host(EXTERNAL).spawn_console(words)?)
}

fn table(rounds: &[Round]) -> Table {
    let mut table = Table::new([
        "round",
        "p99 alone, µs",
        "beside, µs",
        "ratio",
        "round trips alone",
        "beside",
        "relay grew by, KiB",
        "flooded in, s",
    ]);
    for (number, round) in rounds.iter().enumerate() {
        let [alone, beside] = round.p99_us();
        table.row([
            (number + 1).to_string(),
            format!("{alone:.0}"),
            format!("{beside:.0}"),
            format!("{:.2}", round.ratio()),
            round.alone.run.times.len().to_string(),
            round.beside.run.times.len().to_string(),
            round.grown_kib.to_string(),
            format!("{:.1}", round.flooded_in.as_secs_f64()),
        ]);
    }
    table
}

fn results(rounds: &[Round]) -> Results {
    let mut results = Results::default();
    for round in rounds {
        let [alone, beside] = round.p99_us();
        results.add("alone", "p99", "µs", alone);
        results.add("beside a flood", "p99", "µs", beside);
        results.add("beside a flood", "ratio", "times", round.ratio());
        let kib = f64::from(u32::try_from(round.grown_kib).unwrap_or(u32::MAX));
        results.add("relay", "growth", "KiB", kib);
    }
    results
}
