//! The highest rate that a way carries: offered rates are doubled until too much is lost, then
//! bisected.

use crate::bed::{Bed, EXTERNAL};
use crate::error::BenchError;
use crate::load::Sink;
use crate::process_tree::processor_time;
use crate::way::{DATAGRAM_SINK, Way};

/// The share that may be lost.
const LOSS_MAX: f64 = 0.01;
/// The first rate offered.
const RATE_MIN: u64 = 4_000;
/// No two cores make more.
const RATE_MAX: u64 = 4_000_000;
/// A sender that reaches less of what it should is at its own limit.
const REACHED_MIN: f64 = 0.9;
/// How often a rate may fail, or not be offered, before that counts: one hiccup of the machine is not the
/// way's limit.
const TRIES: u32 = 2;

/// How to search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// Bytes of a datagram.
    pub(crate) size: usize,
    /// Milliseconds that each offered rate is held.
    pub(crate) hold_ms: u64,
    /// Bisection ends when the bounds are this close, as a ratio.
    pub(crate) close: f64,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    /// Datagrams that came, a second.
    pub(crate) rate: f64,
    /// What each cost the processes in between, in microseconds of processor time.
    pub(crate) cost_us: f64,
    /// More was not offered.
    pub(crate) is_bound_by_sender: bool,
}

/// Searches.
pub(crate) fn highest(
    bed: &Bed,
    sink: &mut Sink,
    way: Way,
    search: Search,
) -> Result<Found, BenchError> {
    let mut offer = |rate| offer(bed, sink, way, search, rate);
    let mut best = Found::default();
    let (mut carried, mut lost) = (0, RATE_MIN);
    while lost < RATE_MAX {
        match offer(lost)? {
            Some(found) => {
                best = if found.rate > best.rate { found } else { best };
                if found.is_bound_by_sender {
                    return Ok(Found { is_bound_by_sender: true, ..best });
                }
                (carried, lost) = (lost, lost * 2);
            }
            None => break,
        }
    }
    while as_rate(lost) > as_rate(carried) * search.close && lost > RATE_MIN / 16 {
        let middle = u64::midpoint(carried, lost);
        match offer(middle)? {
            Some(found) => {
                best = if found.rate > best.rate { found } else { best };
                carried = middle;
            }
            None => lost = middle,
        }
    }
    Ok(Found { is_bound_by_sender: false, ..best })
}

/// Offers one rate; nothing, if too much of it is lost.
fn offer(
    bed: &Bed,
    sink: &mut Sink,
    way: Way,
    Search { size, hold_ms, .. }: Search,
    rate: u64,
) -> Result<Option<Found>, BenchError> {
    let (host, port) = bed.entry(way, DATAGRAM_SINK);
    let address = format!("{host}:{port}");
    let mut found = None;
    for _ in 0..TRIES {
        let before = spent_us(bed, way)?;
        let external = bed.lab().host(EXTERNAL);
        let flood = sink.flood(&external, &address, size, rate, hold_ms)?;
        let cost = spent_us(bed, way)? - before;
        if flood.loss() < LOSS_MAX {
            let is_bound_by_sender = flood.offered() < as_rate(rate) * REACHED_MIN;
            let cost_us = cost / as_rate(flood.received);
            found = Some(Found { rate: flood.rate(), cost_us, is_bound_by_sender });
            if !is_bound_by_sender {
                break;
            }
        }
    }
    Ok(found)
}

/// Processor time of the processes in between so far, in microseconds.
fn spent_us(bed: &Bed, way: Way) -> Result<f64, BenchError> {
    let times = bed.processes(way).iter().map(processor_time);
    times.map(|time| Ok(time?.as_secs_f64() * 1e6)).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
fn as_rate(count: u64) -> f64 {
    count as f64
}
