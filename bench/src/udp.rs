//! Datagrams: the highest rate that loses less than one in a hundred, round trips, and what a datagram
//! costs; see [`beside`] for round trips beside a bulk flow on a narrow link.

mod beside;
mod search;

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use clap::Args;
use hdrhistogram::Histogram;

use crate::bed::{Bed, EXTERNAL, PEER};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::microseconds;
use crate::load::{Sink, Spinner, datagram_trips};
use crate::machine;
use crate::path::Far;
use crate::report::{Report, Table};
use crate::results::{Results, Run};
use crate::statistics::{Rounds, joined};
use crate::way::{DATAGRAM_ECHO, DATAGRAM_SINK, Way, rotated};

pub(crate) use search::{Search, highest};

/// Bisection of the highest rate ends when its bounds are this close.
const CLOSE: f64 = 1.05;

/// The ways that carry datagrams.
const USUAL: [Way; 7] = [
    Way::Kernel,
    Way::Adit,
    Way::Rathole,
    Way::RatholeNoise,
    Way::Frp,
    Way::Boringtun,
    Way::WireguardGo,
];
/// What a smoke run does without: all but the physical limit and Adit.
const USUAL_SMOKE: usize = 2;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of a datagram.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1_200])]
    sizes: Vec<usize>,
    /// Milliseconds that each offered rate is held.
    #[arg(long, default_value_t = 1_000)]
    hold_ms: u64,
    /// Round trips of each run.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Seconds after which round trips end with fewer; with --rate-mbit how long they go on.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// On a link of so many Mbit/s each way: 50 round trips a second, idle and beside a bulk TCP
    /// flow in each direction.
    #[arg(long, value_name = "MBIT")]
    rate_mbit: Option<f64>,
    #[command(flatten)]
    far: Far,
    #[command(flatten)]
    shared: Shared,
}

impl Options {
    fn ways(&self) -> Vec<Way> {
        let usual = if self.shared.smoke { &USUAL[..USUAL_SMOKE] } else { &USUAL[..] };
        let mut ways = self.shared.ways(usual);
        ways.retain(|way| way.carries_datagrams());
        ways
    }
}

/// What the rounds of one way showed with datagrams of one size.
#[derive(Debug, Default)]
struct Series {
    /// Datagrams a second.
    rate: Rounds,
    /// Processor microseconds per datagram, of the processes in between.
    cost: Rounds,
    /// Microseconds.
    p50: Rounds,
    p99: Rounds,
    times: Option<Histogram<u64>>,
    lost: u64,
    /// In some round the sender was not fast enough to find the limit.
    is_bound_by_sender: bool,
    runs: Vec<Run>,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.hold_ms, options.count, options.seconds) = (1, 150, 300, 3);
    }
    if let Some(rate_mbit) = options.rate_mbit {
        return beside::run(&options, rate_mbit);
    }
    let ways = options.ways();
    let mut bed = Bed::with_datagrams(options.far.path(None), "udp", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut sink = Sink::start(&bed.lab().host(PEER), DATAGRAM_SINK.port)?;
    let mut all: BTreeMap<(usize, Way), Series> = BTreeMap::new();
    for round in 0..options.rounds {
        for &size in &options.sizes {
            for way in rotated(&ways, round) {
                quiet.wait();
                let series = all.entry((size, way)).or_default();
                measure_rate(&bed, &mut sink, way, size, &options, series)?;
                measure_trips(&bed, way, size, &options, series)?;
            }
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(machine::spinners());
    conditions.push(quiet.condition());
    let report = Report {
        name: "udp".to_owned(),
        title: format!("Datagrams, {} rounds", options.rounds),
        conditions,
        table: table(&all),
        notes: notes(&options),
        results: results(all),
    };
    report.publish(&options.shared)
}

fn measure_rate(
    bed: &Bed,
    sink: &mut Sink,
    way: Way,
    size: usize,
    options: &Options,
    series: &mut Series,
) -> Result<(), BenchError> {
    let found = highest(bed, sink, way, Search { size, hold_ms: options.hold_ms, close: CLOSE })?;
    eprintln!(
        "{way}, {size} B: {:.0} a second, {:.2} µs each{}",
        found.rate,
        found.cost_us,
        if found.is_bound_by_sender { " (the sender's limit)" } else { "" }
    );
    series.rate.add(found.rate);
    series.cost.add(found.cost_us);
    series.is_bound_by_sender |= found.is_bound_by_sender;
    Ok(())
}

fn measure_trips(
    bed: &Bed,
    way: Way,
    size: usize,
    options: &Options,
    series: &mut Series,
) -> Result<(), BenchError> {
    let (host, port) = bed.entry(way, DATAGRAM_ECHO);
    let _spinner = Spinner::start(&bed.lab().host("wan"))?;
    let (wall, begun) = (SystemTime::now(), Instant::now());
    let external = bed.lab().host(EXTERNAL);
    let address = format!("{host}:{port}");
    let trips = datagram_trips(&external, address, options.count, size, options.seconds)?;
    let at = |quantile| microseconds(trips.times.value_at_quantile(quantile));
    eprintln!("{way}, {size} B: p50 {:.0}, p99 {:.0} µs, {} lost", at(0.5), at(0.99), trips.lost);
    series.p50.add(at(0.5));
    series.p99.add(at(0.99));
    series.lost += trips.lost;
    let run = Run { begun: wall, took: begun.elapsed(), times: trips.times.clone() };
    series.runs.push(run);
    series.times = Some(joined(series.times.take(), trips.times)?);
    Ok(())
}

fn table(all: &BTreeMap<(usize, Way), Series>) -> Table {
    let mut table = Table::new([
        "way",
        "bytes",
        "per s × rathole",
        "per s",
        "Mbit/s",
        "CPU µs each × rathole",
        "CPU µs each",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "trips lost",
    ]);
    for ((size, way), own) in all {
        let rathole = all.get(&(*size, Way::Rathole));
        let ratio = |of: fn(&Series) -> &Rounds| {
            let ratio = rathole.map(|rathole| of(own).ratio(of(rathole)));
            let ratio = ratio.filter(|ratio| ratio.median().is_finite());
            ratio.map_or("–".to_owned(), |ratio| ratio.summary(2))
        };
        let least = if own.is_bound_by_sender { "≥ " } else { "" };
        let bits = u32::try_from(size * 8).unwrap_or(u32::MAX);
        let tail =
            own.times.as_ref().map_or(0.0, |times| microseconds(times.value_at_quantile(0.999)));
        table.row([
            way.to_string(),
            size.to_string(),
            ratio(|series| &series.rate),
            format!("{least}{}", own.rate.summary(0)),
            format!("{:.0}", own.rate.median() * f64::from(bits) / 1e6),
            ratio(|series| &series.cost),
            own.cost.summary(2),
            own.p50.summary(0),
            own.p99.summary(0),
            format!("{tail:.0}"),
            own.lost.to_string(),
        ]);
    }
    table
}

fn results(all: BTreeMap<(usize, Way), Series>) -> Results {
    let mut results = Results::default();
    for ((size, way), series) in all {
        let subject = format!("{way}, {size} B");
        results.figure(&subject, "rate", "1/s", &series.rate);
        results.figure(&subject, "CPU", "µs", &series.cost);
        results.figure(&subject, "p50", "µs", &series.p50);
        results.figure(&subject, "p99", "µs", &series.p99);
        series.runs.into_iter().for_each(|run| results.add_run(&subject, run));
    }
    results
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        format!(
            "Per s: datagrams that came, at the highest offered rate that lost less than 1 % in \
             {} ms; rates are doubled, then bisected. One flow, numbered datagrams, {} with each \
             system call; ≥: the sender found no limit. Medians (least–most) of interleaved rounds; \
             × compares within each round.",
            options.hold_ms, 64
        ),
        "CPU: user and system time of the processes in between at that rate, from /proc/PID/stat, per \
         datagram that came. What the kernel does in interrupts is in nobody's sum."
            .to_owned(),
        "Round trips one after another, beside a SCHED_IDLE spinner on each core.".to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
