//! Round-trip times, alone or beside a bulk flow on the same way; see [`narrow`] for a way that is
//! slower than the machine.

mod narrow;

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use clap::Args;
use hdrhistogram::Histogram;

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::load::{Spinner, round_trips};
use crate::machine;
use crate::path::Far;
use crate::report::{Report, Table};
use crate::results::{Results, Run};
use crate::statistics::Rounds;
use crate::throughput::{Bulk, Direction, Plan, UNDER_WAY_BYTES};
use crate::way::{ECHO, Way, rotated};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Round trips of each run.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seconds after which a run ends with fewer.
    #[arg(long, default_value_t = 15)]
    seconds_max: u64,
    /// Beside one bulk TCP flow on the same way.
    #[arg(long)]
    beside_bulk: bool,
    /// On a link of so many Mbit/s each way: idle, and beside a bulk flow in each direction.
    #[arg(long, conflicts_with = "beside_bulk", value_name = "MBIT")]
    rate_mbit: Option<f64>,
    #[command(flatten)]
    far: Far,
    #[command(flatten)]
    shared: Shared,
}

/// What a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trips {
    /// Round trips to make.
    pub(crate) count: u64,
    /// Bytes of each.
    pub(crate) size: usize,
    /// Seconds after which it ends with fewer.
    pub(crate) seconds_max: u64,
    /// With a bulk flow on the same way.
    pub(crate) beside_bulk: bool,
}

impl Options {
    fn trips(&self) -> Trips {
        let Self { count, size, seconds_max, beside_bulk, .. } = *self;
        Trips { count, size, seconds_max, beside_bulk }
    }
}

/// What the rounds of one way showed, in nanoseconds.
#[derive(Debug)]
struct Series {
    all: Histogram<u64>,
    p99: Rounds,
    bulk_gbits: Rounds,
    runs: Vec<Run>,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.count, options.seconds_max) = (1, 500, 2);
    }
    if let Some(rate_mbit) = options.rate_mbit {
        return narrow::run(&options, rate_mbit);
    }
    let ways = options.shared.ways(&[Way::Kernel, Way::Socat, Way::Adit]);
    let mut bed = Bed::over(options.far.path(None), "latency", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut series: BTreeMap<Way, Series> = BTreeMap::new();
    for round in 0..options.rounds {
        for way in rotated(&ways, round) {
            quiet.wait();
            let spinner = Spinner::start(&bed.lab().host("wan"))?;
            let sample = sample(&bed, way, options.trips())?;
            drop(spinner);
            match series.get_mut(&way) {
                Some(series) => series.add(sample)?,
                None => {
                    series.insert(way, Series::new(sample));
                }
            }
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(quiet.condition());
    let report = Report {
        name: if options.beside_bulk { "latency-beside-bulk" } else { "latency-idle" }.to_owned(),
        title: title(&options),
        conditions,
        table: table(&series, options.beside_bulk),
        notes: notes(&options),
        results: results(series, options.beside_bulk),
    };
    report.publish(&options.shared)
}

/// One run.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The round trips.
    pub(crate) run: Run,
    /// What the external peer sent meanwhile, the bulk flow above all.
    pub(crate) bulk_gbits: f64,
}

/// Makes one run.
pub(crate) fn sample(bed: &Bed, way: Way, trips: Trips) -> Result<Sample, BenchError> {
    bed.wait_until_idle(way)?;
    let Trips { count, size, seconds_max, beside_bulk } = trips;
    let bulk = if beside_bulk {
        let bulk = Bulk::start(bed, way, Plan::endless(Direction::Inwards))?;
        bulk.wait_until_moved(bed, UNDER_WAY_BYTES)?;
        Some(bulk)
    } else {
        None
    };
    let (host, port) = bed.entry(way, ECHO);
    let address = format!("{host}:{port}");
    let (wall, begun, sent) =
        (SystemTime::now(), Instant::now(), bed.moved_bytes(Direction::Inwards)?);
    let external = bed.lab().host(EXTERNAL);
    let times = round_trips(&external, address, count, size, seconds_max)?;
    let bits = (bed.moved_bytes(Direction::Inwards)? - sent) * 8;
    let bulk_gbits = gbits_since(begun, bits);
    let took = begun.elapsed();
    drop(bulk);
    let at = |quantile| microseconds(times.value_at_quantile(quantile));
    let (median, tail) = (at(0.5), at(0.999));
    eprintln!("{way}: p50 {median:.0}, p99.9 {tail:.0} µs, {} round trips", times.len());
    Ok(Sample { run: Run { begun: wall, took, times }, bulk_gbits })
}

impl Series {
    fn new(Sample { run, bulk_gbits }: Sample) -> Self {
        let mut first = Self {
            all: run.times.clone(),
            p99: Rounds::new(),
            bulk_gbits: Rounds::new(),
            runs: Vec::new(),
        };
        first.note(run, bulk_gbits);
        first
    }

    fn add(&mut self, Sample { run, bulk_gbits }: Sample) -> Result<(), BenchError> {
        let added = self.all.add(&run.times);
        self.note(run, bulk_gbits);
        added.map_err(|error| BenchError::unexpected("a histogram", error.to_string()))
    }

    fn note(&mut self, run: Run, bulk_gbits: f64) {
        self.p99.add(microseconds(run.times.value_at_quantile(0.99)));
        self.bulk_gbits.add(bulk_gbits);
        self.runs.push(run);
    }

    fn at(&self, quantile: f64) -> String {
        format!("{:.0}", microseconds(self.all.value_at_quantile(quantile)))
    }
}

/// Bits per nanosecond since `begun`: Gbit/s.
pub(crate) fn gbits_since(begun: Instant, bits: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let bits = bits as f64;
    bits / begun.elapsed().as_secs_f64() / 1e9
}

/// For display.
pub(crate) fn microseconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

fn title(options: &Options) -> String {
    let beside = if options.beside_bulk { "beside one bulk flow" } else { "idle" };
    let (size, rounds) = (options.size, options.rounds);
    format!("Round trips of {size} bytes, {beside}, µs, {rounds} rounds")
}

fn table(series: &BTreeMap<Way, Series>, beside_bulk: bool) -> Table {
    let mut headings = vec![
        "way",
        "p50 × socat",
        "p99 × socat",
        "p50",
        "p99",
        "p99.9",
        "max",
        "p99 by round",
        "n",
    ];
    if beside_bulk {
        headings.push("bulk, Gbit/s");
    }
    let mut table = Table::new(headings);
    let socat = series.get(&Way::Socat);
    for (way, own) in series {
        let ratio = |quantile: f64| {
            socat.map_or("–".to_owned(), |socat| {
                let of = |series: &Series| microseconds(series.all.value_at_quantile(quantile));
                format!("{:.2}", of(own) / of(socat))
            })
        };
        let rounds: Vec<_> = own.p99.each().iter().map(|p99| format!("{p99:.0}")).collect();
        let mut row = vec![
            way.to_string(),
            ratio(0.5),
            ratio(0.99),
            own.at(0.5),
            own.at(0.99),
            own.at(0.999),
            own.at(1.0),
            rounds.join(" "),
            own.all.len().to_string(),
        ];
        if beside_bulk {
            row.push(own.bulk_gbits.summary(1));
        }
        table.row(row);
    }
    table
}

fn results(series: BTreeMap<Way, Series>, beside_bulk: bool) -> Results {
    let mut results = Results::default();
    for (way, series) in series {
        results.figure(way, "p99", "µs", &series.p99);
        if beside_bulk {
            results.figure(way, "bulk", "Gbit/s", &series.bulk_gbits);
        }
        series.runs.into_iter().for_each(|run| results.add_run(way, run));
    }
    results
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Closed loop over one connection: the next round trip begins when the last has ended, so a \
         stall counts once. Quantiles over all rounds together, which were interleaved."
            .to_owned(),
        "A SCHED_IDLE spinner on each core keeps the processors from halting; without it a virtual \
         machine's wake-ups are most of what is measured."
            .to_owned(),
    ];
    if options.beside_bulk {
        notes.push(
            "The bulk flow is iperf3 at full speed, so that all processors are taken: its rate \
             stands beside the times, since whoever moves less disturbs less."
                .to_owned(),
        );
    }
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
