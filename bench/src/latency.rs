//! Round-trip times, one after another or at a rate, alone or beside a bulk flow on the same way; see
//! [`narrow`] for a way that is slower than the machine.

mod narrow;
mod table;

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use clap::Args;
use hdrhistogram::Histogram;

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::load::{Pace, Spinner, datagram_trips, paced, round_trips};
use crate::machine;
use crate::path::Far;
use crate::report::Report;
use crate::results::{Results, Run};
use crate::statistics::Rounds;
use crate::throughput::{Bulk, Direction, Plan, UNDER_WAY_BYTES};
use crate::way::{DATAGRAM_ECHO, ECHO, Way, rotated};

/// What the echo's buffers take of one message before anybody reads.
const SIZE_MAX: u64 = 64 * 1024;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Round trips of each run.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Bytes of each; several are measured one after another.
    #[arg(long, value_delimiter = ',', default_values_t = [64], value_name = "BYTES")]
    size: Vec<usize>,
    /// Seconds after which a run ends with fewer, or for which round trips leave at a rate.
    #[arg(long, default_value_t = 15)]
    seconds_max: u64,
    /// Open loop: so many a second, each timed from when it was to leave [default: closed loop].
    #[arg(long, conflicts_with = "rate_mbit", value_name = "PER_SECOND")]
    rate: Option<u32>,
    /// Datagrams instead of a connection.
    #[arg(long, conflicts_with = "rate_mbit")]
    udp: bool,
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
    /// Round trips to make, one after another.
    count: u64,
    /// Bytes of each.
    size: usize,
    /// Seconds after which it ends with fewer, or for which they leave at a rate.
    seconds: u64,
    /// So many a second instead.
    per_second: Option<u32>,
    is_datagrams: bool,
    /// With a bulk flow on the same way.
    beside_bulk: bool,
}

impl Trips {
    /// One after another over one connection.
    pub(crate) fn closed(count: u64, size: usize, seconds: u64) -> Self {
        let (per_second, is_datagrams, beside_bulk) = (None, false, false);
        Self { count, size, seconds, per_second, is_datagrams, beside_bulk }
    }

    /// With a bulk flow on the same way, or without.
    pub(crate) fn beside_bulk(self, beside_bulk: bool) -> Self {
        Self { beside_bulk, ..self }
    }
}

impl Options {
    fn trips(&self, size: usize) -> Trips {
        let (per_second, is_datagrams) = (self.rate, self.udp);
        let closed = Trips::closed(self.count, size, self.seconds_max);
        Trips { per_second, is_datagrams, ..closed }.beside_bulk(self.beside_bulk)
    }

    fn check(&self) -> Result<(), BenchError> {
        let known = |size: &usize| (16..=SIZE_MAX).contains(&u64::try_from(*size).unwrap_or(0));
        if self.size.iter().all(known) {
            return Ok(());
        }
        let cure = format!("{:?}: from 16 to {SIZE_MAX} bytes", self.size);
        Err(BenchError::unexpected("--size", cure))
    }

    /// What the ratios are against.
    fn yardstick(&self) -> Way {
        if self.udp { Way::Kernel } else { Way::Socat }
    }

    fn ways(&self) -> Vec<Way> {
        let streams = [Way::Kernel, Way::Socat, Way::Adit];
        let datagrams = [Way::Kernel, Way::Adit, Way::Rathole];
        let mut ways = self.shared.ways(if self.udp { &datagrams } else { &streams });
        ways.retain(|way| !self.udp || way.carries_datagrams());
        ways
    }

    fn bed(&self, ways: &[Way]) -> Result<Bed, BenchError> {
        let path = self.far.path(None);
        if self.udp {
            Bed::with_datagrams(path, "latency", ways)
        } else {
            Bed::over(path, "latency", ways)
        }
    }

    fn name(&self) -> String {
        let mut name =
            if self.beside_bulk { "latency-beside-bulk" } else { "latency-idle" }.to_owned();
        if self.udp {
            name += "-udp";
        }
        if self.rate.is_some() {
            name += "-open";
        }
        name
    }
}

/// What the rounds of one way showed with messages of one size, in nanoseconds.
#[derive(Debug)]
struct Series {
    all: Histogram<u64>,
    p99: Rounds,
    bulk_gbits: Rounds,
    lost: u64,
    /// How late the generator itself was, in microseconds.
    late_us: Rounds,
    runs: Vec<Run>,
}

/// By size and way.
type AllSeries = BTreeMap<(usize, Way), Series>;

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.count, options.seconds_max) = (1, 500, 2);
    }
    options.check()?;
    if let Some(rate_mbit) = options.rate_mbit {
        return narrow::run(&options, rate_mbit);
    }
    let ways = options.ways();
    let mut bed = options.bed(&ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut all = AllSeries::new();
    for round in 0..options.rounds {
        for &size in &options.size {
            for way in rotated(&ways, round) {
                quiet.wait();
                let spinner = Spinner::start(&bed.lab().host("wan"))?;
                let sample = sample(&bed, way, options.trips(size))?;
                drop(spinner);
                match all.get_mut(&(size, way)) {
                    Some(series) => series.add(sample)?,
                    None => {
                        all.insert((size, way), Series::new(sample));
                    }
                }
            }
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(machine::spinners());
    conditions.push(quiet.condition());
    let report = Report {
        name: options.name(),
        title: table::title(&options),
        conditions,
        table: table::of(&all, &options),
        notes: table::notes(&options),
        results: results(all, &options),
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
    /// Round trips without an answer, where that can be.
    lost: u64,
    /// How late the generator was, where it has times to keep, in microseconds.
    late_us: Option<f64>,
}

/// Makes one run.
pub(crate) fn sample(bed: &Bed, way: Way, trips: Trips) -> Result<Sample, BenchError> {
    // Flows of datagrams have no end that could be waited for.
    if !trips.is_datagrams {
        bed.wait_until_idle(way)?;
    }
    let bulk = if trips.beside_bulk {
        let bulk = Bulk::start(bed, way, Plan::endless(Direction::Inwards))?;
        bulk.wait_until_moved(bed, UNDER_WAY_BYTES)?;
        Some(bulk)
    } else {
        None
    };
    let (wall, begun, sent) =
        (SystemTime::now(), Instant::now(), bed.moved_bytes(Direction::Inwards)?);
    let (times, lost, late_us) = trips.make(bed, way)?;
    let bits = (bed.moved_bytes(Direction::Inwards)? - sent) * 8;
    let bulk_gbits = gbits_since(begun, bits);
    let took = begun.elapsed();
    drop(bulk);
    let at = |quantile| microseconds(times.value_at_quantile(quantile));
    let (median, tail) = (at(0.5), at(0.999));
    let unanswered = if lost > 0 { format!(", {lost} without an answer") } else { String::new() };
    eprintln!(
        "{way}: p50 {median:.0}, p99.9 {tail:.0} µs, {} round trips{unanswered}",
        times.len()
    );
    Ok(Sample { run: Run { begun: wall, took, times }, bulk_gbits, lost, late_us })
}

impl Trips {
    /// Makes the round trips; returns their times, how many had no answer, and how late the generator was.
    fn make(&self, bed: &Bed, way: Way) -> Result<(Histogram<u64>, u64, Option<f64>), BenchError> {
        let Self { count, size, seconds, per_second, is_datagrams, .. } = *self;
        let (host, port) = bed.entry(way, if is_datagrams { DATAGRAM_ECHO } else { ECHO });
        let (external, address) = (bed.lab().host(EXTERNAL), format!("{host}:{port}"));
        if let Some(per_second) = per_second {
            let pace = Pace { per_second, size, seconds, is_datagrams };
            let made = paced(&external, address, pace)?;
            return Ok((made.times, made.lost, Some(made.late.as_secs_f64() * 1e6)));
        }
        if is_datagrams {
            let made = datagram_trips(&external, address, count, size, seconds)?;
            return Ok((made.times, made.lost, None));
        }
        Ok((round_trips(&external, address, count, size, seconds)?, 0, None))
    }
}

impl Series {
    fn new(sample: Sample) -> Self {
        let mut first = Self {
            all: sample.run.times.clone(),
            p99: Rounds::new(),
            bulk_gbits: Rounds::new(),
            lost: 0,
            late_us: Rounds::new(),
            runs: Vec::new(),
        };
        first.note(sample);
        first
    }

    fn add(&mut self, sample: Sample) -> Result<(), BenchError> {
        let added = self.all.add(&sample.run.times);
        self.note(sample);
        added.map_err(|error| BenchError::unexpected("a histogram", error.to_string()))
    }

    fn note(&mut self, sample: Sample) {
        self.p99.add(microseconds(sample.run.times.value_at_quantile(0.99)));
        self.bulk_gbits.add(sample.bulk_gbits);
        self.lost += sample.lost;
        sample.late_us.into_iter().for_each(|late| self.late_us.add(late));
        self.runs.push(sample.run);
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

fn results(all: AllSeries, options: &Options) -> Results {
    let mut results = Results::default();
    for ((size, way), series) in all {
        let subject =
            if options.size.len() > 1 { format!("{way}, {size} B") } else { way.to_string() };
        results.figure(&subject, "p99", "µs", &series.p99);
        if options.beside_bulk {
            results.figure(&subject, "bulk", "Gbit/s", &series.bulk_gbits);
        }
        series.runs.into_iter().for_each(|run| results.add_run(&subject, run));
    }
    results
}
