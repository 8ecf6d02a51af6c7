//! What a flood of strangers at the tunnel's port costs those who are welcome: round trips of a flow
//! alone and beside the flood, and what the relay's memory grows by.
//!
//! Each stranger connects, sends the beginning of a handshake, and stays. The flood comes from several
//! networks, since the relay's doorway has a bound for each.

use std::time::Duration;

use clap::Args;
use netns_tests::{LONG, Process, SHORT, helper, wait_until};

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::{Sample, Trips, microseconds, sample};
use crate::machine;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::statistics::Rounds;
use crate::way::Way;

/// The first stranger's address; each network has its own, one after the other.
const FIRST: &str = "198.18.0.1";
/// Where all of them are.
const STRANGERS: &str = "198.18.0.0/16";
/// By how much a flood outlasts the round trips beside it, which take a moment to begin.
const MORE_MS: u64 = 500;
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
    /// Seconds of round trips in each run; the flood goes on for as long.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Fails when the 99th percentile beside the flood is more than so many times that alone, in the
    /// median round.
    #[arg(long, value_name = "TIMES")]
    max_ratio: Option<f64>,
    /// Fails when the relay's memory grows by more in any round.
    #[arg(long, value_name = "KIB")]
    max_growth: Option<u64>,
    #[command(flatten)]
    shared: Shared,
}

/// One pair of runs.
#[derive(Debug)]
struct Round {
    alone: Sample,
    beside: Sample,
    grown_kib: u64,
    strangers: u64,
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
        (options.strangers, options.rounds, options.seconds) = (1_000, 1, 1);
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
            "A flood of at least {} strangers from {} networks",
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
    report.publish(&options.shared)?;
    exceeded(&rounds, &options).map_or(Ok(()), |what| Err(BenchError::Flooded { what }))
}

/// What is above the bounds that were given.
fn exceeded(rounds: &[Round], options: &Options) -> Option<String> {
    let mut ratios = Rounds::new();
    rounds.iter().for_each(|round| ratios.add(round.ratio()));
    let ratio = ratios.median();
    let grown = rounds.iter().map(|round| round.grown_kib).max().unwrap_or(0);
    if let Some(max) = options.max_ratio.filter(|max| ratio > *max) {
        return Some(format!("the 99th percentile is {ratio:.2} times as long, more than {max}"));
    }
    let max = options.max_growth.filter(|max| grown > *max)?;
    Some(format!("the relay has grown by {grown} KiB, more than {max}"))
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
    let mut flood = begin(bed, options)?;
    flood.wait_for_log("flooding", SHORT)?;
    let beside = sample(bed, Way::Adit, trips)?;
    if flood.log().contains("flooded ") || !flood.runs() {
        return Err(BenchError::unexpected(
            "the flood: it was over before the sample",
            flood.log(),
        ));
    }
    wait_until(LONG, "the end of the flood", || flood.log().contains("flooded ") || !flood.runs())?;
    let grown_kib = relay.resident_bytes()?.saturating_sub(before) / 1_024;
    let said = flood.finish(LONG)?;
    let figure = |word: &str| {
        let figure = said.split_whitespace().skip_while(|said| *said != word).nth(1);
        let figure = figure.and_then(|figure| figure.parse().ok());
        figure.ok_or_else(|| BenchError::unexpected("the flood", said.clone()))
    };
    let (strangers, flooded_in) = (figure("flooded")?, Duration::from_millis(figure("in_ms")?));
    Ok(Round { alone, beside, grown_kib, strangers, flooded_in })
}

fn begin(bed: &Bed, options: &Options) -> Result<Process, BenchError> {
    let program = helper("lab-peer")?.display().to_string();
    let to = bed.lab().host(Way::Adit.entry_host()).at(443);
    let (networks, count) = (options.networks.to_string(), options.strangers.to_string());
    let for_ms = format!("--for-ms={}", options.seconds * 1_000 + MORE_MS);
    let words = [&program, "flood", &to, FIRST, &networks, &count, &for_ms];
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
        "strangers",
        "in, s",
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
            round.strangers.to_string(),
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
