//! The measurements of a comparison.

use clap::Args;

use crate::bed::{Bed, Congestion, PEER};
use crate::connections;
use crate::error::BenchError;
use crate::idle;
use crate::latency::{self, Trips, microseconds};
use crate::load::{Sink, Spinner};
use crate::machine;
use crate::results::Results;
use crate::throughput::{self, Direction, Plan};
use crate::udp::{self, Search};
use crate::way::{DATAGRAM_SINK, Way};

/// Bytes of each datagram.
const DATAGRAM_BYTES: usize = 64;
/// The sum of a search's runs beside what each of them holds its rate for: starting the sender, opening the way,
/// and waiting for the last datagram.
const SEARCH_RUNS: f64 = 12.0;
const SEARCH_RUN_SECONDS: f64 = 0.6;

/// How large each run is.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Sizes {
    /// Round trips of 64 bytes in a run.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Seconds of a bulk load, and of new connections.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// New connections at once.
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Idle connections in a step.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Idle connections while the relay's processor time is watched.
    #[arg(long, default_value_t = 10_000)]
    pub(super) idle_flows: usize,
    /// Seconds for which it is.
    #[arg(long, default_value_t = 5)]
    pub(super) watch_seconds: u64,
    /// Milliseconds that each offered rate of datagrams is held.
    #[arg(long, default_value_t = 300)]
    hold_ms: u64,
}

impl Sizes {
    /// As small as they can be.
    pub(super) const SMOKE: Self = Self {
        count: 300,
        seconds: 1,
        workers: 16,
        connections: 50,
        idle_flows: 100,
        watch_seconds: 1,
        hold_ms: 50,
    };

    /// The others have two descriptors for each connection: where the machine's limit is low, they get fewer.
    pub(super) fn idle_flows_of(&self, way: Way) -> usize {
        if way == Way::Adit { self.idle_flows } else { self.idle_flows.min(machine::pairs_max()) }
    }
}

/// A lab in which everything stands, with the sink that counts datagrams.
#[derive(Debug)]
pub(super) struct Ground {
    sink: Sink,
    congestion: Congestion,
    // Last, so that the lab outlives what runs in it.
    bed: Bed,
}

impl Ground {
    /// Builds it.
    pub(super) fn new(congestion: Congestion, ways: &[Way]) -> Result<Self, BenchError> {
        let bed = Bed::under(congestion, "compare", ways)?;
        connections::prepare(&bed)?;
        let sink = Sink::start(&bed.lab().host(PEER), DATAGRAM_SINK.port)?;
        Ok(Self { sink, congestion, bed })
    }

    /// What the figures hold under.
    pub(super) fn conditions(&self, ways: &[Way]) -> Result<Vec<(String, String)>, BenchError> {
        let own = machine::own_congestion();
        let wanted = match self.congestion {
            Congestion::Machines => own.as_str(),
            Congestion::AsAllowed | Congestion::Allowing => machine::WANTED_CONGESTION,
        };
        let mut conditions = machine::conditions_under(wanted, self.bed.lab(), ways)?;
        conditions.extend(self.bed.congestion_condition());
        Ok(conditions)
    }
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
    /// What the relay does while very many are idle.
    Watched,
    /// Datagrams.
    Datagrams,
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

/// All of them, in their order. Memory comes first, before others have filled the heaps; datagrams come
/// last, since their flows have no end that could be waited for.
pub(super) const SECTIONS: [Section; 10] = [
    Section::Idle,
    IDLE_LATENCY,
    BUSY_LATENCY,
    ONE_INWARDS,
    ONE_OUTWARDS,
    EIGHT_INWARDS,
    EIGHT_OUTWARDS,
    Section::Connections,
    Section::Watched,
    Section::Datagrams,
];

/// What is measured under the machine's own congestion control.
pub(super) const SECTIONS_OF_OWN: [Section; 2] = [ONE_INWARDS, ONE_OUTWARDS];

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
pub(super) const RELAY: &str = "relay's CPU";
pub(super) const DATAGRAMS: &str = "datagrams";
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
const WATCHED: [Measure; 1] = [measure(RELAY, "% of a core", 3)];
const SEARCHED: [Measure; 2] = [plotted(DATAGRAMS, "1/s", 0), plotted(PROCESSOR, "µs each", 2)];
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
            Self::Watched => "idle-cpu",
            Self::Datagrams => "datagrams",
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
            Self::Watched => {
                format!("The relay's processor time at {} idle connections", sizes.idle_flows)
            }
            Self::Datagrams => format!("Datagrams of {DATAGRAM_BYTES} bytes, at under 1 % loss"),
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
            Self::Watched => &WATCHED,
            Self::Datagrams => &SEARCHED,
        }
    }

    /// Whether the way can be measured so.
    pub(super) fn suits(self, way: Way) -> bool {
        match self {
            Self::Datagrams => way.carries_datagrams(),
            // The others have no process there, or one that so many connections would fell or take minutes
            // to open through.
            Self::Watched => matches!(way, Way::Haproxy | Way::Adit | Way::Rathole),
            // It has no process whose memory could be looked at.
            Self::Idle => way != Way::Kernel,
            _ => true,
        }
    }

    /// What a run takes, about.
    pub(super) fn seconds(self, sizes: &Sizes) -> f64 {
        let of = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let flows = |count: usize| of(count.try_into().unwrap_or(u64::MAX));
        let (count, seconds) = (of(sizes.count), of(sizes.seconds));
        match self {
            Self::Latency { beside_bulk: false } => 0.5 + count * 150e-6,
            Self::Latency { .. } => 1.0 + (count * 500e-6).min(2.0 * seconds),
            Self::Throughput { .. } => 0.6 + seconds,
            Self::Connections => 0.5 + seconds,
            Self::Idle => 1.0 + flows(sizes.connections) * 4.0 * 500e-6,
            Self::Watched => 2.0 + flows(sizes.idle_flows) * 500e-6 + of(sizes.watch_seconds),
            Self::Datagrams => SEARCH_RUNS * (SEARCH_RUN_SECONDS + of(sizes.hold_ms) / 1e3),
        }
    }

    /// Makes one run. All its figures are added, or, when it fails, none.
    pub(super) fn sample(
        self,
        ground: &mut Ground,
        way: Way,
        sizes: &Sizes,
        results: &mut Results,
    ) -> Result<(), BenchError> {
        let Ground { bed, sink, .. } = ground;
        match self {
            Self::Latency { beside_bulk } => round_trips(bed, way, sizes, beside_bulk, results)?,
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
            Self::Watched => {
                let flows = sizes.idle_flows_of(way);
                let percent = idle::relay_percent(bed, way, flows, sizes.watch_seconds)?;
                eprintln!("{way}: {percent:.3} % of a core at {flows}");
                results.add(way, RELAY, "% of a core", percent);
            }
            Self::Datagrams => {
                let search = Search { size: DATAGRAM_BYTES, hold_ms: sizes.hold_ms, close: 1.1 };
                let found = udp::highest(bed, sink, way, search)?;
                eprintln!("{way}: {:.0} a second, {:.2} µs each", found.rate, found.cost_us);
                results.add(way, DATAGRAMS, "1/s", found.rate);
                results.add(way, PROCESSOR, "µs each", found.cost_us);
            }
        }
        Ok(())
    }
}

fn round_trips(
    bed: &Bed,
    way: Way,
    sizes: &Sizes,
    beside_bulk: bool,
    results: &mut Results,
) -> Result<(), BenchError> {
    let _spinner = Spinner::start(&bed.lab().host("wan"))?;
    let trips = Trips::closed(sizes.count, 64, 2 * sizes.seconds).beside_bulk(beside_bulk);
    let sample = latency::sample(bed, way, trips)?;
    for (name, quantile) in QUANTILES {
        let at = microseconds(sample.run.times.value_at_quantile(quantile));
        results.add(way, name, "µs", at);
    }
    if beside_bulk {
        results.add(way, BULK, "Gbit/s", sample.bulk_gbits);
    }
    results.add_run(way, sample.run);
    Ok(())
}
