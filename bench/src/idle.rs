//! What an idle connection costs the processes in between: user memory, and, where there are very many,
//! processor time.
//!
//! Five states: just started; after as many connections as the first step has were opened and closed
//! again, which fills pools and lets the heap grow; with that many held; with twice that many; with
//! very many. The differences after the first are free of what the warm-up left behind for reuse.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::connections;
use crate::error::BenchError;
use crate::load::Holder;
use crate::machine;
use crate::process_tree::{fine_processor_time, memory_bytes};
use crate::report::{Report, Table};
use crate::results::Results;
use crate::way::{ECHO, Way};

/// What opening so many connections leaves to do is done after it.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Connections in the first step, and again in the second.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Connections in all, in the last step.
    #[arg(long, default_value_t = 10_000)]
    flows: usize,
    /// Seconds for which processor time is watched beside them.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Fails when a daemon of Adit takes more KiB for one, in any step.
    #[arg(long)]
    max_kib: Option<f64>,
    /// Fails when a daemon of Adit takes more of a core beside all of them.
    #[arg(long)]
    max_cpu_percent: Option<f64>,
    #[command(flatten)]
    shared: Shared,
}

/// A figure of each process of a way.
type Each = BTreeMap<String, f64>;

/// The memory in each state, in KiB.
#[derive(Debug)]
struct States {
    started: Each,
    closed_again: Each,
    held: Each,
    twice: Each,
}

/// What very many idle connections cost.
#[derive(Debug)]
struct Many {
    /// KiB in all.
    memory: Each,
    /// Hundredths of a core.
    percent: Each,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.connections, options.flows, options.seconds) = (50, 200, 1);
    }
    options.flows = options.flows.max(3 * options.connections);
    let ways = options.shared.ways(&[Way::Adit]);
    let bed = Bed::new("idle", &ways)?;
    connections::prepare(&bed)?;
    let conditions = machine::conditions(bed.lab(), &ways)?;
    let mut table = Table::new([
        "process".to_owned(),
        "KiB each, first step".to_owned(),
        "second step".to_owned(),
        format!("up to {}", options.flows),
        format!("% of a core at {}", options.flows),
        "started, KiB".to_owned(),
        "closed again".to_owned(),
        "held".to_owned(),
        "twice held".to_owned(),
        format!("{} held", options.flows),
    ]);
    let (mut above, mut results) = (None, Results::default());
    for way in ways {
        let (states, many) = measure(&bed, way, &options)?;
        for (process, each) in per_connection(&states, &many, &options) {
            let percent = of(&many.percent, &process);
            let subject = format!("{way}: {process}");
            for (measure, kib) in ["first step", "second step", "very many"].iter().zip(each) {
                results.add(&subject, measure, "KiB each", kib);
            }
            results.add(&subject, "CPU", "% of a core", percent);
            let at = |memory: &Each| format!("{:.0}", of(memory, &process));
            let mut row = vec![subject];
            row.extend(each.map(|kib| format!("{kib:.2}")));
            row.push(format!("{percent:.3}"));
            let memories =
                [&states.started, &states.closed_again, &states.held, &states.twice, &many.memory];
            row.extend(memories.map(at));
            table.row(row);
            if way == Way::Adit {
                above = above.or(options.exceeded(process, each, percent));
            }
        }
    }
    let title = format!(
        "Idle connections: {} a step, {} in all, {} s",
        options.connections, options.flows, options.seconds
    );
    let name = "idle".to_owned();
    let report = Report { name, title, conditions, table, notes: notes(&options), results };
    report.publish(&options.shared)?;
    above.map_or(Ok(()), Err)
}

impl Options {
    /// What a daemon takes more of than it may.
    fn exceeded(&self, who: String, each: [f64; 3], percent: f64) -> Option<BenchError> {
        let kib = each.into_iter().fold(0.0, f64::max);
        if let Some(max_kib) = self.max_kib.filter(|max| kib > *max) {
            return Some(BenchError::AboveBound { who, kib, max_kib });
        }
        let max_percent = self.max_cpu_percent.filter(|max| percent > *max)?;
        Some(BenchError::Restless { who, percent, max_percent })
    }
}

/// What one more connection takes in the larger of a way's processes, in KiB, when there are so many
/// already; none without a process.
pub(crate) fn second_step_kib(
    bed: &Bed,
    way: Way,
    connections: usize,
) -> Result<Option<f64>, BenchError> {
    if bed.processes(way).is_empty() {
        return Ok(None);
    }
    let mut holder = holder(bed, way)?;
    let states = steps(bed, way, &mut holder, connections)?;
    close(bed, way, &mut holder)?;
    let steps = states.per_connection(connections);
    Ok(steps.into_values().map(|[_, second]| second).reduce(f64::max))
}

/// What the process at the relay takes of a core beside so many idle connections, in hundredths.
pub(crate) fn relay_percent(
    bed: &Bed,
    way: Way,
    flows: usize,
    seconds: u64,
) -> Result<f64, BenchError> {
    let mut holder = holder(bed, way)?;
    holder.open(flows)?;
    let percent = watch(bed, way, Duration::from_secs(seconds))?;
    close(bed, way, &mut holder)?;
    let relay = percent.into_iter().filter(|(process, _)| process.starts_with("relay"));
    Ok(relay.map(|(_, percent)| percent).sum())
}

fn holder(bed: &Bed, way: Way) -> Result<Holder, BenchError> {
    let (host, port) = bed.entry(way, ECHO);
    bed.wait_until_idle(way)?;
    Holder::new(&bed.lab().host(EXTERNAL), format!("{host}:{port}"))
}

fn close(bed: &Bed, way: Way, holder: &mut Holder) -> Result<(), BenchError> {
    holder.close()?;
    bed.wait_until_idle(way)
}

fn measure(bed: &Bed, way: Way, options: &Options) -> Result<(States, Many), BenchError> {
    // Started first, so that the libraries it shares with others count alike in every state.
    let mut holder = holder(bed, way)?;
    let states = steps(bed, way, &mut holder, options.connections)?;
    holder.open(options.flows - 2 * options.connections)?;
    eprintln!("{way}: {} connections are held", options.flows);
    let percent = watch(bed, way, Duration::from_secs(options.seconds))?;
    let many = Many { memory: memory(bed, way)?, percent };
    close(bed, way, &mut holder)?;
    Ok((states, many))
}

/// The first four states; twice as many as asked for are held in the end.
fn steps(
    bed: &Bed,
    way: Way,
    holder: &mut Holder,
    connections: usize,
) -> Result<States, BenchError> {
    let started = memory(bed, way)?;
    holder.open(connections)?;
    close(bed, way, holder)?;
    let closed_again = memory(bed, way)?;
    holder.open(connections)?;
    let held = memory(bed, way)?;
    holder.open(connections)?;
    let twice = memory(bed, way)?;
    Ok(States { started, closed_again, held, twice })
}

/// What each process takes of a core, in hundredths, while nothing is carried.
fn watch(bed: &Bed, way: Way, length: Duration) -> Result<Each, BenchError> {
    thread::sleep(SETTLED_AFTER);
    let times = || -> Result<Vec<Duration>, BenchError> {
        bed.processes(way).iter().map(fine_processor_time).collect()
    };
    let (before, begun) = (times()?, Instant::now());
    // The length is what is asked for: there is no condition to wait on.
    thread::sleep(length);
    let (after, took) = (times()?, begun.elapsed());
    let mut percent = Each::new();
    for (process, (before, after)) in bed.processes(way).iter().zip(before.iter().zip(after)) {
        let share = after.saturating_sub(*before).as_secs_f64() / took.as_secs_f64();
        *percent.entry(process.name().to_owned()).or_default() += 100.0 * share;
    }
    Ok(percent)
}

fn memory(bed: &Bed, way: Way) -> Result<Each, BenchError> {
    let mut memory = Each::new();
    for process in bed.processes(way) {
        let kib = u32::try_from(memory_bytes(process)? / 1024).unwrap_or(u32::MAX);
        *memory.entry(process.name().to_owned()).or_default() += f64::from(kib);
    }
    Ok(memory)
}

fn of(memory: &Each, process: &str) -> f64 {
    memory.get(process).copied().unwrap_or_default()
}

impl States {
    /// KiB for each connection in the first and in the second step.
    fn per_connection(&self, connections: usize) -> BTreeMap<String, [f64; 2]> {
        let each = f64::from(u32::try_from(connections).unwrap_or(u32::MAX)).max(1.0);
        let step = |process: &String| {
            let closed_again = of(&self.closed_again, process);
            let (held, twice) = (of(&self.held, process), of(&self.twice, process));
            [(held - closed_again) / each, (twice - held) / each]
        };
        self.held.keys().map(|process| (process.clone(), step(process))).collect()
    }
}

/// KiB for each connection in each step, the last from the first step's connections to very many.
fn per_connection(states: &States, many: &Many, options: &Options) -> BTreeMap<String, [f64; 3]> {
    let more = options.flows.saturating_sub(options.connections);
    let more = f64::from(u32::try_from(more).unwrap_or(u32::MAX)).max(1.0);
    let steps = states.per_connection(options.connections).into_iter();
    let all = steps.map(|(process, [first, second])| {
        let last = (of(&many.memory, &process) - of(&states.held, &process)) / more;
        (process, [first, second, last])
    });
    all.collect()
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "PSS from /proc/PID/smaps_rollup, children included; the kernel's sockets are not in it. \
         Each connection has carried one byte there and back."
            .to_owned(),
        "First step: from the state after a warm-up of as many connections, closed again, to that \
         many held. It may reuse what the warm-up left in the heap; the second step, from that many \
         to twice as many, cannot; nor can the last, from that many to all. --max-kib is held against \
         the largest."
            .to_owned(),
        "% of a core: processor time of all threads by the process's own clock, while all connections are \
         held and nothing is sent on any of them."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too few connections for its figures to mean anything.".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the warm-up left for reuse hides in the first step, but not in the second.
    #[test]
    fn second_step_shows_what_reuse_hides_in_the_first() {
        let memory = |kib| Each::from([("icp-adit".to_owned(), kib)]);
        let states = States {
            started: memory(1_000.0),
            closed_again: memory(3_000.0),
            held: memory(3_000.0),
            twice: memory(5_000.0),
        };
        assert_eq!(states.per_connection(1_000)["icp-adit"], [0.0, 2.0]);
    }
}
