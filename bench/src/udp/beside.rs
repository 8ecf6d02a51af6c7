//! Datagrams beside a bulk flow on a link that is slower than the machine, and that may lose some: what
//! both do to round trips that wait for nobody.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use hdrhistogram::Histogram;

use super::{Options, joined};
use crate::bed::{Bed, EXTERNAL};
use crate::error::BenchError;
use crate::latency::{gbits_since, microseconds};
use crate::load::{Spinner, beats};
use crate::machine;
use crate::report::{Report, Table};
use crate::results::{Results, Run};
use crate::statistics::Rounds;
use crate::throughput::{Bulk, Direction, Plan};
use crate::way::{DATAGRAM_ECHO, Way, rotated};

/// How long a bulk flow runs before round trips beside it count, in seconds of the link's rate.
const UNDER_WAY_SECONDS: f64 = 2.0;
/// Round trips a second: speech.
const PER_SECOND: u32 = 50;
/// Bytes of each.
const SIZE: usize = 160;

/// What runs beside the round trips.
type Beside = Option<Direction>;
/// The three states of a way.
const STATES: [Beside; 3] = [None, Some(Direction::Inwards), Some(Direction::Outwards)];

/// What the rounds of one way showed in one state.
#[derive(Debug, Default)]
struct State {
    times: Option<Histogram<u64>>,
    lost: u64,
    /// Of each round, in milliseconds.
    p99: Rounds,
    bulk_mbit: Rounds,
    runs: Vec<Run>,
}

/// Measures and reports.
pub(super) fn run(options: &Options, rate_mbit: f64) -> Result<(), BenchError> {
    let ways = options.ways();
    let mut bed = Bed::with_datagrams(options.far.path(Some(rate_mbit)), "udp-beside", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut states: BTreeMap<Way, [State; 3]> = BTreeMap::new();
    for round in 0..options.rounds {
        for way in rotated(&ways, round) {
            quiet.wait();
            for (state, beside) in states.entry(way).or_default().iter_mut().zip(STATES) {
                measure(&bed, way, beside, rate_mbit, options, state)?;
            }
        }
    }
    conditions.extend(bed.link_condition()?);
    conditions.push(quiet.condition());
    let report = Report {
        name: "udp-beside-bulk".to_owned(),
        title: format!(
            "{PER_SECOND} datagrams a second and back on a link of {rate_mbit} Mbit/s, ms, {} rounds",
            options.rounds
        ),
        conditions,
        table: table(&states),
        notes: notes(options),
        results: results(states),
    };
    report.publish(&options.shared)
}

fn measure(
    bed: &Bed,
    way: Way,
    beside: Beside,
    rate_mbit: f64,
    options: &Options,
    state: &mut State,
) -> Result<(), BenchError> {
    let _spinner = Spinner::start(&bed.lab().host("wan"))?;
    let bulk = beside.map(|direction| -> Result<Bulk, BenchError> {
        let bulk = Bulk::start(bed, way, Plan::endless(direction))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
        let bytes = (rate_mbit * 1e6 / 8.0 * UNDER_WAY_SECONDS) as u64;
        bulk.wait_until_moved(bed, if options.shared.smoke { bytes / 4 } else { bytes })?;
        Ok(bulk)
    });
    let bulk = bulk.transpose()?;
    let (host, port) = bed.entry(way, DATAGRAM_ECHO);
    let direction = beside.unwrap_or(Direction::Inwards);
    let (wall, begun) = (SystemTime::now(), Instant::now());
    let before = bed.moved_bytes(direction)?;
    let external = bed.lab().host(EXTERNAL);
    let address = format!("{host}:{port}");
    let trips = beats(&external, address, PER_SECOND, SIZE, options.seconds)?;
    let (times, lost) = (trips.times, trips.lost);
    let mbit = gbits_since(begun, (bed.moved_bytes(direction)? - before) * 8) * 1e3;
    drop(bulk);
    let at = |quantile| milliseconds(&times, quantile);
    eprintln!(
        "{way}, {}: p50 {:.2}, p99 {:.2} ms, {} round trips, {lost} lost, {mbit:.1} Mbit/s",
        said(beside),
        at(0.5),
        at(0.99),
        times.len()
    );
    state.p99.add(at(0.99));
    state.bulk_mbit.add(mbit);
    let run = Run { begun: wall, took: begun.elapsed(), times: times.clone() };
    state.runs.push(run);
    state.lost += lost;
    state.times = Some(joined(state.times.take(), times)?);
    Ok(())
}

fn said(beside: Beside) -> &'static str {
    match beside {
        None => "idle",
        Some(Direction::Inwards) => "bulk inwards",
        Some(Direction::Outwards) => "bulk outwards",
    }
}

fn milliseconds(times: &Histogram<u64>, quantile: f64) -> f64 {
    microseconds(times.value_at_quantile(quantile)) / 1e3
}

fn results(states: BTreeMap<Way, [State; 3]>) -> Results {
    let mut results = Results::default();
    for (way, states) in states {
        for (state, beside) in states.into_iter().zip(STATES) {
            let subject = format!("{way}, {}", said(beside));
            results.figure(&subject, "p99", "ms", &state.p99);
            results.figure(&subject, "bulk", "Mbit/s", &state.bulk_mbit);
            state.runs.into_iter().for_each(|run| results.add_run(&subject, run));
        }
    }
    results
}

fn table(states: &BTreeMap<Way, [State; 3]>) -> Table {
    let mut table = Table::new([
        "way",
        "beside",
        "p99 × idle",
        "p50 × idle",
        "p50",
        "p99",
        "max",
        "p99 by round",
        "n",
        "lost",
        "bulk, Mbit/s",
    ]);
    for (way, states) in states {
        for (state, beside) in states.iter().zip(STATES) {
            let (Some(times), Some(idle)) = (&state.times, &states[0].times) else { continue };
            let at = |quantile| format!("{:.2}", milliseconds(times, quantile));
            let ratio = |of| format!("{:.2}", milliseconds(times, of) / milliseconds(idle, of));
            let rounds: Vec<_> = state.p99.each().iter().map(|p99| format!("{p99:.1}")).collect();
            table.row([
                way.to_string(),
                said(beside).to_owned(),
                ratio(0.99),
                ratio(0.5),
                at(0.5),
                at(0.99),
                at(1.0),
                rounds.join(" "),
                times.len().to_string(),
                state.lost.to_string(),
                beside.map_or("–".to_owned(), |_| state.bulk_mbit.summary(1)),
            ]);
        }
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Open loop: each datagram leaves at its time, whatever became of the one before. × idle: \
         beside bulk over the same way's own without it. Lost: on the link or on the way."
            .to_owned(),
        "The bulk flow is one TCP connection by iperf3 that fills the link, so that its queue fills \
         too as far as its congestion control lets it."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
