//! The measurements of a comparison.

use clap::Args;

use crate::bed::Bed;
use crate::connections;
use crate::error::BenchError;
use crate::idle;
use crate::latency::{self, Trips, microseconds};
use crate::load::Spinner;
use crate::results::Results;
use crate::throughput::{self, Direction, Plan};
use crate::way::Way;

/// How large each run is.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Sizes {
    /// Round trips of 64 bytes in a run.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Seconds of a bulk load, and of new connections.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// New connections at once.
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Idle connections in a step.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
}

impl Sizes {
    /// As small as they can be.
    pub(super) const SMOKE: Self = Self { count: 300, seconds: 1, workers: 16, connections: 50 };
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Round trips.
    Latency {
        /// With a bulk flow on the same way.
        beside_bulk: bool,
    },
    /// Bulk TCP.
    Throughput {
        /// Connections at once.
        flows: usize,
        /// Which end sends.
        direction: Direction,
    },
    /// New connections.
    Connections,
    /// Memory of idle ones.
    Idle,
}

pub(super) const IDLE_LATENCY: Section = Section::Latency { beside_bulk: false };
pub(super) const BUSY_LATENCY: Section = Section::Latency { beside_bulk: true };
pub(super) const ONE_INWARDS: Section =
    Section::Throughput { flows: 1, direction: Direction::Inwards };
pub(super) const ONE_OUTWARDS: Section =
    Section::Throughput { flows: 1, direction: Direction::Outwards };
pub(super) const EIGHT_INWARDS: Section =
    Section::Throughput { flows: 8, direction: Direction::Inwards };
pub(super) const EIGHT_OUTWARDS: Section =
    Section::Throughput { flows: 8, direction: Direction::Outwards };

/// All of them, in their order. Memory comes first, before others have filled the heaps.
pub(super) const SECTIONS: [Section; 8] = [
    Section::Idle,
    IDLE_LATENCY,
    BUSY_LATENCY,
    ONE_INWARDS,
    ONE_OUTWARDS,
    EIGHT_INWARDS,
    EIGHT_OUTWARDS,
    Section::Connections,
];

/// A figure of a section.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) decimals: usize,
    /// Whether its plot belongs into the report.
    pub(super) plotted: bool,
}

const fn measure(name: &'static str, unit: &'static str, decimals: usize) -> Measure {
    Measure { name, unit, decimals, plotted: false }
}

const fn plotted(name: &'static str, unit: &'static str, decimals: usize) -> Measure {
    Measure { name, unit, decimals, plotted: true }
}

pub(super) const P50: &str = "p50";
pub(super) const P99: &str = "p99";
pub(super) const P999: &str = "p99.9";
pub(super) const RATE: &str = "throughput";
pub(super) const PROCESSOR: &str = "CPU";
pub(super) const MEMORY: &str = "memory";
const BULK: &str = "bulk";

const QUANTILES: [(&str, f64); 3] = [(P50, 0.5), (P99, 0.99), (P999, 0.999)];
const TRIPS: [Measure; 4] = [
    measure(P50, "µs", 0),
    measure(P99, "µs", 0),
    measure(P999, "µs", 0),
    measure(BULK, "Gbit/s", 1),
];
const BULK_LOAD: [Measure; 2] = [plotted(RATE, "Gbit/s", 2), plotted(PROCESSOR, "s/GiB", 2)];
const NEW: [Measure; 4] = [
    plotted(connections::RATE, "1/s", 0),
    measure(connections::P50, "µs", 0),
    measure(connections::P99, "µs", 0),
    plotted(connections::PROCESSOR, "µs each", 0),
];
const HELD: [Measure; 1] = [plotted(MEMORY, "KiB each", 2)];

impl Section {
    /// What its files' names begin with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Latency { beside_bulk: false } => "latency-idle",
            Self::Latency { beside_bulk: true } => "latency-beside-bulk",
            Self::Throughput { flows, direction: Direction::Inwards } if flows > 1 => {
                "throughput-8-inwards"
            }
            Self::Throughput { flows, .. } if flows > 1 => "throughput-8-outwards",
            Self::Throughput { direction: Direction::Inwards, .. } => "throughput-1-inwards",
            Self::Throughput { .. } => "throughput-1-outwards",
            Self::Connections => "connections",
            Self::Idle => "idle",
        }
    }

    /// What was measured, in one line.
    pub(super) fn title(self, sizes: &Sizes) -> String {
        match self {
            Self::Latency { beside_bulk: false } => "Round trips of 64 bytes, idle".to_owned(),
            Self::Latency { .. } => "Round trips of 64 bytes beside one bulk flow".to_owned(),
            Self::Throughput { flows, direction } => {
                let plural = if flows == 1 { "" } else { "s" };
                format!("TCP bulk, {direction}, {flows} flow{plural}, {} s", sizes.seconds)
            }
            Self::Connections => {
                format!("New connections, {} workers, {} s", sizes.workers, sizes.seconds)
            }
            Self::Idle => format!("Memory of idle connections, {} a step", sizes.connections),
        }
    }

    /// Its figures.
    pub(super) fn measures(self) -> &'static [Measure] {
        match self {
            // What goes by beside nothing is the round trips themselves.
            Self::Latency { beside_bulk: false } => &TRIPS[..3],
            Self::Latency { .. } => &TRIPS,
            Self::Throughput { .. } => &BULK_LOAD,
            Self::Connections => &NEW,
            Self::Idle => &HELD,
        }
    }

    /// Makes one run. All its figures are added, or, when it fails, none.
    pub(super) fn sample(
        self,
        bed: &Bed,
        way: Way,
        sizes: &Sizes,
        results: &mut Results,
    ) -> Result<(), BenchError> {
        match self {
            Self::Latency { beside_bulk } => {
                let _spinner = Spinner::start(&bed.lab().host("wan"))?;
                let (count, size, seconds_max) = (sizes.count, 64, 4 * sizes.seconds);
                let trips = Trips { count, size, seconds_max, beside_bulk };
                let sample = latency::sample(bed, way, trips)?;
                for (name, quantile) in QUANTILES {
                    let at = microseconds(sample.run.times.value_at_quantile(quantile));
                    results.add(way, name, "µs", at);
                }
                if beside_bulk {
                    results.add(way, BULK, "Gbit/s", sample.bulk_gbits);
                }
                results.add_run(way, sample.run);
            }
            Self::Throughput { flows, direction } => {
                let plan = Plan { seconds: sizes.seconds, warm_up: 0, flows, direction };
                let mut one = throughput::Series::default();
                throughput::measure(bed, way, plan, &mut one)?;
                results.add(way, RATE, "Gbit/s", one.gbits.median());
                results.add(way, PROCESSOR, "s/GiB", one.both.median());
            }
            Self::Connections => {
                connections::sample(bed, way, sizes.workers, sizes.seconds, results)?;
            }
            Self::Idle => match idle::second_step_kib(bed, way, sizes.connections)? {
                Some(kib) => {
                    eprintln!("{way}: {kib:.2} KiB each");
                    results.add(way, MEMORY, "KiB each", kib);
                }
                None => eprintln!("{way}: no process"),
            },
        }
        Ok(())
    }
}
