//! New connections a second: each is opened, has one byte sent back, and is closed.

use std::time::SystemTime;

use clap::Args;

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::latency::microseconds;
use crate::load::connect;
use crate::machine;
use crate::process_tree::processor_time;
use crate::report::{Report, Table};
use crate::results::{Results, Run};
use crate::statistics::Rounds;
use crate::way::{ECHO, Way, rotated};

/// The names of the figures.
pub(crate) const RATE: &str = "new connections";
pub(crate) const PROCESSOR: &str = "CPU";
pub(crate) const P50: &str = "p50";
pub(crate) const P99: &str = "p99";
const FAILED: &str = "failed";

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections at once.
    #[arg(long, default_value_t = 16)]
    workers: usize,
    #[command(flatten)]
    shared: Shared,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.seconds) = (1, 1);
    }
    let ways = options.shared.ways(&[Way::Kernel, Way::Socat, Way::Adit, Way::Rathole]);
    let bed = Bed::new("connections", &ways)?;
    prepare(&bed)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let mut results = Results::default();
    for round in 0..options.rounds {
        for way in rotated(&ways, round) {
            quiet.wait();
            sample(&bed, way, options.workers, options.seconds, &mut results)?;
        }
    }
    conditions.push(quiet.condition());
    let report = Report {
        name: "connections".to_owned(),
        title: format!(
            "New connections, {} workers, {} rounds of {} s",
            options.workers, options.rounds, options.seconds
        ),
        conditions,
        table: table(&ways, &results)?,
        notes: notes(&options),
        results,
    };
    report.publish(&options.shared)
}

/// Lets the hosts open far more connections than they have ports: each that closes first keeps its
/// port for a minute otherwise, and the gateway its entry for two.
pub(crate) fn prepare(bed: &Bed) -> Result<(), BenchError> {
    for host in [EXTERNAL, "relay", "icp"] {
        let host = bed.lab().host(host);
        let range = "net.ipv4.ip_local_port_range=10240 65535";
        host.run_ok(["sysctl", "-q", "-w", range, "net.ipv4.tcp_tw_reuse=1"])?;
    }
    let entries = "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1";
    bed.lab().gateway().run_ok(["sysctl", "-q", "-w", entries])?;
    Ok(())
}

/// Makes one run.
pub(crate) fn sample(
    bed: &Bed,
    way: Way,
    workers: usize,
    seconds: u64,
    results: &mut Results,
) -> Result<(), BenchError> {
    let used = || -> Result<f64, BenchError> {
        bed.wait_until_idle(way)?;
        let processes = bed.processes(way).iter();
        processes.map(|process| Ok(processor_time(process)?.as_secs_f64())).sum()
    };
    let before = used()?;
    let (host, port) = bed.entry(way, ECHO);
    let begun = SystemTime::now();
    let external = bed.lab().host(EXTERNAL);
    let connected = connect(&external, format!("{host}:{port}"), workers, seconds)?;
    let used = used()? - before;
    let count = f64::from(u32::try_from(connected.times.len()).unwrap_or(u32::MAX));
    let rate = count / connected.took.as_secs_f64();
    let failed = f64::from(u32::try_from(connected.failed).unwrap_or(u32::MAX));
    let at = |quantile| microseconds(connected.times.value_at_quantile(quantile));
    let (p50, p99) = (at(0.5), at(0.99));
    eprintln!("{way}: {rate:.0} connections/s, p50 {p50:.0}, p99 {p99:.0} µs, {failed} failed");
    results.add(way, RATE, "1/s", rate);
    results.add(way, P50, "µs", p50);
    results.add(way, P99, "µs", p99);
    results.add(way, PROCESSOR, "µs each", used * 1e6 / count);
    results.add(way, FAILED, "connections", failed);
    results.add_run(way, Run { begun, took: connected.took, times: connected.times });
    Ok(())
}

fn table(ways: &[Way], results: &Results) -> Result<Table, BenchError> {
    let mut table = Table::new([
        "way",
        "per second × Adit",
        "per second",
        "p50, µs",
        "p99, µs",
        "p99.9, µs",
        "max, µs",
        "CPU µs each, all processes",
        "n",
        "failed",
    ]);
    let adit = results.rounds(Way::Adit, RATE);
    let none = Rounds::new();
    for (way, timing) in ways.iter().zip(&results.timings) {
        let of = |measure| results.rounds(way, measure).unwrap_or(&none);
        let all = timing.all()?;
        let at = |quantile| format!("{:.0}", microseconds(all.value_at_quantile(quantile)));
        table.row([
            way.to_string(),
            adit.map_or("–".to_owned(), |adit| of(RATE).ratio(adit).summary(2)),
            of(RATE).summary(0),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            of(PROCESSOR).summary(0),
            all.len().to_string(),
            format!("{:.0}", of(FAILED).each().iter().sum::<f64>()),
        ]);
    }
    Ok(table)
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Each worker opens a connection, sends a byte, waits for it to come back, closes, and begins \
         again. The time is that of opening and the byte's way there and back; quantiles are over all \
         rounds together, the rest is median (least–most)."
            .to_owned(),
        "Ports in TIME-WAIT are used again after a second (tcp_tw_reuse), and the gateway forgets \
         closed connections as soon, for all ways alike. socat starts a process for each connection at \
         either hop."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
