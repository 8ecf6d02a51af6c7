//! What one hop costs by each interface of the kernel: blocking calls, epoll, io_uring with one buffer a
//! receive and with bundles, splice; each in one process.
//!
//! ```text
//!   ext ──▶ relay:hop ──▶ gw (DNAT) ──▶ peer3
//! ```
//!
//! It is the control for every claim about io_uring: the same path, the same generators, nothing sealed.

use std::time::{Instant, SystemTime};

use clap::{Args, ValueEnum};
use netns_tests::{Process, SHORT, wait_until};

use crate::bed::{Bed, EXTERNAL, listening, no_connection};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::microseconds;
use crate::load::{Hop, Load, Spinner, round_trips};
use crate::machine;
use crate::process_tree::fine_processor_time;
use crate::report::{Report, Table};
use crate::results::{Results, Run};
use crate::statistics::Rounds;
use crate::throughput::{Bulk, Direction, Plan};
use crate::way::{BULK, ECHO, Service, Way};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// How far a hop's ports lie above the services' own, and above the hop's before.
const OFFSET: u16 = 10_000;
const OFFSET_EACH: u16 = 1_000;

/// The names of the figures.
const RATE: &str = "throughput";
const PROCESSOR: &str = "CPU";
const P50: &str = "p50";
const P99: &str = "p99";

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each bulk load.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// TCP connections of a bulk load at once.
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// Round trips of 64 bytes in a run.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// The hops [default: all].
    #[arg(long, value_delimiter = ',', value_name = "HOP")]
    hops: Vec<Hop>,
    #[command(flatten)]
    shared: Shared,
}

/// A hop as it stands: a process for each service.
#[derive(Debug)]
struct Standing {
    hop: Hop,
    bulk: Process,
    _echo: Process,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.seconds, options.count) = (1, 1, 300);
    }
    if options.hops.is_empty() {
        options.hops = Hop::value_variants().to_vec();
    }
    let bed = Bed::new("engine", &[Way::Kernel])?;
    let hops: Result<Vec<_>, _> = options.hops.iter().map(|hop| stand(&bed, *hop)).collect();
    let hops = hops?;
    let mut conditions = machine::conditions(bed.lab(), &[Way::Kernel])?;
    let mut quiet = options.shared.quiet();
    let mut results = Results::default();
    for round in 0..options.rounds {
        for turn in 0..hops.len() {
            quiet.wait();
            measure(&bed, &hops[(round + turn) % hops.len()], &options, &mut results)?;
        }
    }
    conditions.push(machine::spinners());
    conditions.push(quiet.condition());
    let plural = if options.flows == 1 { "" } else { "s" };
    let report = Report {
        name: "engine".to_owned(),
        title: format!(
            "One hop, {} flow{plural}, {} rounds of {} s",
            options.flows, options.rounds, options.seconds
        ),
        conditions,
        table: table(&options.hops, &results)?,
        notes: notes(&options),
        results,
    };
    report.publish(&options.shared)
}

fn stand(bed: &Bed, hop: Hop) -> Result<Standing, BenchError> {
    let relay = bed.lab().host("relay");
    let to = bed.lab().gateway().address().to_owned();
    let start = |service: Service| -> Result<Process, BenchError> {
        let port = port(hop, service);
        let to = format!("{to}:{}", service.port);
        let process = Load::Hop { hop, port, to }.spawn(&relay)?;
        listening(&relay, port)?;
        Ok(process)
    };
    Ok(Standing { hop, bulk: start(BULK)?, _echo: start(ECHO)? })
}

fn port(hop: Hop, service: Service) -> u16 {
    let place = Hop::value_variants().iter().zip(0..).find(|(known, _)| **known == hop);
    service.port + OFFSET + place.map_or(0, |(_, place)| place * OFFSET_EACH)
}

fn measure(
    bed: &Bed,
    standing: &Standing,
    options: &Options,
    results: &mut Results,
) -> Result<(), BenchError> {
    let Standing { hop, bulk, .. } = standing;
    let (relay, name) = (bed.lab().host("relay"), hop.title());
    let before = fine_processor_time(bulk)?;
    let (seconds, flows) = (options.seconds, options.flows);
    let plan = Plan { seconds, warm_up: 0, flows, direction: Direction::Inwards };
    let at = port(*hop, BULK);
    let moved = Bulk::start_at(bed, (relay.address(), at), plan)?.finish()?;
    let ended = || no_connection(&relay, &[at]).unwrap_or(false);
    wait_until(SHORT, &format!("the end of all connections of {name}"), ended)?;
    let used = fine_processor_time(bulk)?.saturating_sub(before).as_secs_f64();
    let (gbits, cost) = (moved.bits_per_second / 1e9, used / moved.bytes * GIB);
    let _spinner = Spinner::start(&bed.lab().host("wan"))?;
    let (begun, wall) = (Instant::now(), SystemTime::now());
    let address = format!("{}:{}", relay.address(), port(*hop, ECHO));
    let external = bed.lab().host(EXTERNAL);
    let times = round_trips(&external, address, options.count, 64, options.seconds)?;
    let at = |quantile| microseconds(times.value_at_quantile(quantile));
    eprintln!(
        "{name}: {gbits:.2} Gbit/s, {cost:.3} s/GiB, p50 {:.0}, p99 {:.0} µs",
        at(0.5),
        at(0.99)
    );
    results.add(name, RATE, "Gbit/s", gbits);
    results.add(name, PROCESSOR, "s/GiB", cost);
    results.add(name, P50, "µs", at(0.5));
    results.add(name, P99, "µs", at(0.99));
    results.add_run(name, Run { begun: wall, took: begun.elapsed(), times });
    Ok(())
}

fn table(hops: &[Hop], results: &Results) -> Result<Table, BenchError> {
    let mut table = Table::new([
        "hop",
        "Gbit/s × epoll",
        "Gbit/s",
        "CPU × epoll",
        "CPU s/GiB",
        "p50, µs",
        "p99, µs",
        "p99.9 of all, µs",
    ]);
    let none = Rounds::new();
    for hop in hops {
        let name = hop.title();
        let of = |measure| results.rounds(name, measure).unwrap_or(&none);
        let ratio = |measure| {
            let epoll = results.rounds(Hop::Epoll.title(), measure);
            epoll.map_or("–".to_owned(), |epoll| of(measure).ratio(epoll).summary(2))
        };
        let timing = results.timings.iter().find(|timing| timing.subject == name);
        let all = timing.map(|timing| timing.all()).transpose()?;
        let tail = all.map_or(0.0, |all| microseconds(all.value_at_quantile(0.999)));
        table.row([
            name.to_owned(),
            ratio(RATE),
            of(RATE).summary(2),
            ratio(PROCESSOR),
            of(PROCESSOR).summary(3),
            of(P50).summary(0),
            of(P99).summary(0),
            format!("{tail:.0}"),
        ]);
    }
    Ok(table)
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "One plain hop on the relay's host, from the external peer to the internal one by the gateway's DNAT. Each hop is one \
         process: 64 KiB a call, 256 KiB with bundles (16 KiB each), up to 1 MiB through splice's pipe. Medians \
         (least–most) of interleaved rounds; × compares within each round."
            .to_owned(),
        "CPU: the hop's processor time by its own clock, all threads; io_uring's work that the kernel does in \
         the hop's name is in it, what interrupts do in nobody's."
            .to_owned(),
        "Round trips of 64 bytes, closed loop over one connection, beside a SCHED_IDLE spinner on each core."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
