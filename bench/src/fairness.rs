//! What thousands of flows whose readers have stopped cost the others on the same tunnel.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::bed::{Bed, EXTERNAL, PEER};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::microseconds;
use crate::load::{Stalled, round_trips};
use crate::machine;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::statistics::Rounds;
use crate::throughput::{Bulk, Direction, Plan};
use crate::way::{ECHO, SOURCE, Way};

/// What a stalled flow's sockets hold by default on the forwarder's host and on the internal peer.
/// All hosts share one kernel and its bound on TCP memory (`tcp_mem`, a twentieth of the machine's).
/// Above that no send buffer grows any more, whoever's it is. 10,000 flows, two connections each,
/// with 32 KiB here were just above it on 24 GiB, and held every new flow to a third of its rate.
const STALLED_BUFFER_BYTES: u32 = 16 * 1024;
/// The flows have stalled when less than this comes to the external peer in a second.
const SETTLED_BYTES_PER_SECOND: u64 = 64 * 1024;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const MIB: f64 = 1024.0 * 1024.0;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Flows that nobody reads.
    #[arg(long, default_value_t = 10_000)]
    flows: usize,
    /// Rounds, each alone and beside the stalled flows.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    #[command(flatten)]
    shared: Shared,
}

/// The others, in one state.
#[derive(Debug, Default)]
struct State {
    gbits: Rounds,
    p50_us: Rounds,
    p99_us: Rounds,
    /// Resident memory of the relay's processes, and of those inside.
    relay_mib: Rounds,
    inside_mib: Rounds,
    /// The kernel's TCP memory, of what it may be before send buffers stop growing.
    tcp_memory: Rounds,
}

/// One way, alone and beside stalled flows.
#[derive(Debug, Default)]
struct Series {
    alone: State,
    beside: State,
    /// Stalled flows that had got something before, in each round.
    begun: Vec<String>,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.flows, options.rounds, options.seconds) = (200, 1, 1);
    }
    let usual = [Way::Kernel, Way::Adit];
    let ways = options.shared.ways(if options.shared.smoke { &usual[1..] } else { &usual });
    let bed = Bed::new("fairness", &ways)?;
    for host in ["icp", PEER] {
        let buffers = format!("net.ipv4.tcp_rmem=4096 {STALLED_BUFFER_BYTES} 33554432");
        bed.lab().host(host).run_ok(["sysctl", "-q", "-w", &buffers])?;
    }
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut series: BTreeMap<Way, Series> = BTreeMap::new();
    for _ in 0..options.rounds {
        for &way in &ways {
            quiet.wait();
            measure(&bed, way, &options, series.entry(way).or_default())?;
        }
    }
    conditions.push(quiet.condition());
    let report = Report {
        name: "fairness".to_owned(),
        title: format!(
            "A bulk flow and round trips beside {} flows that nobody reads, {} rounds of {} s",
            options.flows, options.rounds, options.seconds
        ),
        conditions,
        table: table(&series),
        notes: notes(&options),
        results: results(&series),
    };
    report.publish(&options.shared)
}

fn measure(bed: &Bed, way: Way, options: &Options, series: &mut Series) -> Result<(), BenchError> {
    bed.wait_until_idle(way)?;
    others(bed, way, options.seconds, &mut series.alone)?;
    let (host, port) = bed.entry(way, SOURCE);
    let external = bed.lab().host(EXTERNAL);
    let mut stalled = Stalled::new(&external, format!("{host}:{port}"))?;
    let begun = Instant::now();
    let begun_flows = stalled.open(options.flows)?;
    wait_until_settled(bed)?;
    eprintln!(
        "{way}: {} flows stalled after {:.1?}; {begun_flows} had got their first bytes",
        options.flows,
        begun.elapsed()
    );
    series.begun.push(begun_flows.to_string());
    others(bed, way, options.seconds, &mut series.beside)?;
    stalled.close()?;
    bed.wait_until_idle(way)
}

/// A bulk flow and round trips at once; and the memory of the processes in between meanwhile.
fn others(bed: &Bed, way: Way, seconds: u64, state: &mut State) -> Result<(), BenchError> {
    let plan = Plan { seconds, warm_up: 1, flows: 1, direction: Direction::Outwards };
    let bulk = Bulk::start(bed, way, plan)?;
    let (host, port) = bed.entry(way, ECHO);
    let external = bed.lab().host(EXTERNAL);
    let times = round_trips(&external, format!("{host}:{port}"), 1_000_000, 64, seconds);
    state.tcp_memory.add(machine::tcp_memory()?);
    let (mut relay, mut inside) = (0.0, 0.0);
    for process in bed.processes(way) {
        let kib = u32::try_from(process.resident_bytes()? / 1024).unwrap_or(u32::MAX);
        let side = if process.name().starts_with("relay") { &mut relay } else { &mut inside };
        *side += f64::from(kib) * 1024.0 / MIB;
    }
    // Flows that starve are a result, and the worst: it must not end the measurement.
    let starved = |error: &BenchError| eprintln!("{way}: {error}");
    let gbits = bulk.finish().inspect_err(starved).map_or(0.0, |moved| moved.bits_per_second / 1e9);
    let times = times.inspect_err(starved).ok();
    let at = |quantile| {
        times
            .as_ref()
            .map_or(f64::INFINITY, |times| microseconds(times.value_at_quantile(quantile)))
    };
    eprintln!(
        "{way}: {gbits:.2} Gbit/s, p50 {:.0}, p99 {:.0} µs, RSS {relay:.0} and {inside:.0} MiB",
        at(0.5),
        at(0.99)
    );
    state.gbits.add(gbits);
    state.p50_us.add(at(0.5));
    state.p99_us.add(at(0.99));
    state.relay_mib.add(relay);
    state.inside_mib.add(inside);
    Ok(())
}

/// Waits until the sources have filled what there is to fill.
fn wait_until_settled(bed: &Bed) -> Result<(), BenchError> {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        let before = bed.moved_bytes(Direction::Outwards)?;
        thread::sleep(Duration::from_secs(1));
        let came = bed.moved_bytes(Direction::Outwards)? - before;
        if came < SETTLED_BYTES_PER_SECOND {
            return Ok(());
        }
        if Instant::now() >= end {
            let text = format!("{came} bytes in the last second");
            return Err(BenchError::unexpected("flows that should have stalled", text));
        }
    }
}

fn results(series: &BTreeMap<Way, Series>) -> Results {
    let mut results = Results::default();
    for (way, Series { alone, beside, .. }) in series {
        for (said, state) in [("alone", alone), ("beside the stalled", beside)] {
            let subject = format!("{way}, {said}");
            results.figure(&subject, "bulk", "Gbit/s", &state.gbits);
            results.figure(&subject, "p50", "µs", &state.p50_us);
            results.figure(&subject, "p99", "µs", &state.p99_us);
            results.figure(&subject, "memory at the relay", "MiB", &state.relay_mib);
            results.figure(&subject, "memory inside", "MiB", &state.inside_mib);
            results.figure(&subject, "TCP memory", "of its bound", &state.tcp_memory);
        }
    }
    results
}

fn table(series: &BTreeMap<Way, Series>) -> Table {
    let mut table = Table::new([
        "way",
        "others",
        "bulk × alone",
        "bulk, Gbit/s",
        "p50, µs",
        "p99, µs",
        "relay, MiB",
        "inside, MiB",
        "TCP memory × bound",
        "stalled that had begun",
    ]);
    for (way, Series { alone, beside, begun }) in series {
        let begun = begun.join(" ");
        let rows = [("alone", alone, "–".to_owned()), ("beside the stalled", beside, begun)];
        for (said, state, begun) in rows {
            table.row([
                way.to_string(),
                said.to_owned(),
                state.gbits.ratio(&alone.gbits).summary(2),
                state.gbits.summary(2),
                state.p50_us.summary(0),
                state.p99_us.summary(0),
                state.relay_mib.summary(0),
                state.inside_mib.summary(0),
                state.tcp_memory.summary(2),
                begun,
            ]);
        }
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "The stalled flows carry data from the internal to the external peer, which has a small \
         receive buffer and never reads; the last column says how many got any bytes at all. What they \
         cost the kernel alone is seen in its own rows. The bulk \
         flow goes the same way as theirs, the round trips run beside it in both states. 0 and inf: \
         nothing came for half a minute. Medians (least–most)."
            .to_owned(),
        format!(
            "Memory is resident memory while both run. On icp and {PEER} a socket's receive buffer \
             begins with {} KiB, so that the kernel's bound on all TCP memory stays out of it: from 1.00 \
             on no send buffer grows, and the figures are the kernel's, not the way's.",
            STALLED_BUFFER_BYTES / 1024
        ),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
