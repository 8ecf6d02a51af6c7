//! Round trips alone and beside a bulk flow that fills a link: what the flow's queue does to them.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use hdrhistogram::Histogram;

use crate::bed::Bed;
use crate::error::BenchError;
use crate::latency::{gbits_since, microseconds};
use crate::load::Spinner;
use crate::quiet::Quiet;
use crate::results::{Results, Run};
use crate::statistics::{Rounds, joined};
use crate::throughput::{Bulk, Direction, Plan};
use crate::way::{Way, rotated};

/// How long a bulk flow runs before round trips beside it count, in seconds of the link's rate.
const UNDER_WAY_SECONDS: f64 = 2.0;

/// What runs beside the round trips.
pub(crate) type Beside = Option<Direction>;
/// The three states of a way.
pub(crate) const STATES: [Beside; 3] = [None, Some(Direction::Inwards), Some(Direction::Outwards)];
/// What the rounds of each way showed, by [`STATES`].
pub(crate) type States = BTreeMap<Way, [State; 3]>;

/// What the rounds of one way showed in one state.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Of all rounds.
    pub(crate) times: Option<Histogram<u64>>,
    /// Round trips without an answer.
    pub(crate) lost: u64,
    /// Of each round, in milliseconds.
    pub(crate) p99: Rounds,
    /// What the bulk flow moved.
    pub(crate) bulk_mbit: Rounds,
    runs: Vec<Run>,
}

/// One run's round trips: their times, and how many had no answer where that can be.
pub(crate) type Trips = (Histogram<u64>, Option<u64>);

/// How the round trips of one kind are measured.
pub(crate) trait Kind {
    /// Waits until nothing is left of the run before.
    fn wait_until_ready(&self, way: Way) -> Result<(), BenchError>;

    /// One run.
    fn trips(&self, way: Way) -> Result<Trips, BenchError>;
}

/// Measures each way in each state, `rounds` times.
pub(crate) fn measure(
    bed: &Bed,
    (ways, rounds): (&[Way], usize),
    quiet: &mut Quiet,
    bulk_bytes: u64,
    kind: &impl Kind,
) -> Result<States, BenchError> {
    let mut states = States::new();
    for round in 0..rounds {
        for way in rotated(ways, round) {
            quiet.wait();
            for (state, beside) in states.entry(way).or_default().iter_mut().zip(STATES) {
                measure_once(bed, way, beside, bulk_bytes, kind, state)?;
            }
        }
    }
    Ok(states)
}

/// How many bytes of a bulk flow fill the link's queue, as far as it will be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
pub(crate) fn bulk_bytes(rate_mbit: f64, is_smoke: bool) -> u64 {
    let bytes = (rate_mbit * 1e6 / 8.0 * UNDER_WAY_SECONDS) as u64;
    if is_smoke { bytes / 4 } else { bytes }
}

fn measure_once(
    bed: &Bed,
    way: Way,
    beside: Beside,
    bulk_bytes: u64,
    kind: &impl Kind,
    state: &mut State,
) -> Result<(), BenchError> {
    kind.wait_until_ready(way)?;
    let _spinner = Spinner::start(&bed.lab().host("wan"))?;
    let bulk = beside.map(|direction| -> Result<Bulk, BenchError> {
        let bulk = Bulk::start(bed, way, Plan::endless(direction))?;
        bulk.wait_until_moved(bed, bulk_bytes)?;
        Ok(bulk)
    });
    let bulk = bulk.transpose()?;
    let direction = beside.unwrap_or(Direction::Inwards);
    let (wall, begun) = (SystemTime::now(), Instant::now());
    let before = bed.moved_bytes(direction)?;
    let (times, lost) = kind.trips(way)?;
    let mbit = gbits_since(begun, (bed.moved_bytes(direction)? - before) * 8) * 1e3;
    drop(bulk);
    let at = |quantile| milliseconds(&times, quantile);
    eprintln!(
        "{way}, {}: p50 {:.2}, p99 {:.2} ms, {} round trips, {}{mbit:.1} Mbit/s",
        said(beside),
        at(0.5),
        at(0.99),
        times.len(),
        lost.map_or(String::new(), |lost| format!("{lost} lost, "))
    );
    state.p99.add(at(0.99));
    state.bulk_mbit.add(mbit);
    let run = Run { begun: wall, took: begun.elapsed(), times: times.clone() };
    state.runs.push(run);
    state.lost += lost.unwrap_or(0);
    state.times = Some(joined(state.times.take(), times)?);
    Ok(())
}

/// A state in words.
pub(crate) fn said(beside: Beside) -> &'static str {
    match beside {
        None => "idle",
        Some(Direction::Inwards) => "bulk inwards",
        Some(Direction::Outwards) => "bulk outwards",
    }
}

/// A quantile of times in nanoseconds.
pub(crate) fn milliseconds(times: &Histogram<u64>, quantile: f64) -> f64 {
    microseconds(times.value_at_quantile(quantile)) / 1e3
}

/// The figures of all states.
pub(crate) fn results(states: States) -> Results {
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
