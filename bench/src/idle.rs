//! What an idle connection costs the processes in between, in user memory.
//!
//! Four states: just started; after as many connections as will be measured were opened and closed
//! again, which fills pools and lets the heap grow; with that many held; with twice that many. The
//! last difference is free of what the warm-up left behind for reuse.

use std::collections::BTreeMap;

use clap::Args;

use crate::bed::{Bed, EXTERNAL};
use crate::cli::Shared;
use crate::error::BenchError;
use crate::load::Holder;
use crate::machine;
use crate::process_tree::memory_bytes;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::way::{ECHO, Way};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Connections in the first step, and again in the second.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Fails when a daemon of Adit takes more KiB for one, in either step.
    #[arg(long)]
    max_kib: Option<f64>,
    #[command(flatten)]
    shared: Shared,
}

/// The memory of each process of a way, in KiB.
type Memory = BTreeMap<String, f64>;

/// The four states.
#[derive(Debug)]
struct States {
    started: Memory,
    closed_again: Memory,
    held: Memory,
    twice: Memory,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        options.connections = 50;
    }
    let ways = options.shared.ways(&[Way::Adit]);
    let bed = Bed::new("idle", &ways)?;
    let conditions = machine::conditions(bed.lab(), &ways)?;
    let mut table = Table::new([
        "process",
        "KiB each, first step",
        "second step",
        "started, KiB",
        "closed again",
        "held",
        "twice held",
    ]);
    let (mut above, mut results) = (None, Results::default());
    for way in ways {
        let states = measure(&bed, way, options.connections)?;
        for (process, [first, second]) in states.per_connection(options.connections) {
            let subject = format!("{way}: {process}");
            results.add(&subject, "first step", "KiB each", first);
            results.add(&subject, "second step", "KiB each", second);
            let at = |memory: &Memory| format!("{:.0}", of(memory, &process));
            table.row([
                subject,
                format!("{first:.2}"),
                format!("{second:.2}"),
                at(&states.started),
                at(&states.closed_again),
                at(&states.held),
                at(&states.twice),
            ]);
            if let Some(max_kib) = options.max_kib.filter(|max| first.max(second) > *max)
                && way == Way::Adit
            {
                above =
                    Some(BenchError::AboveBound { who: process, kib: first.max(second), max_kib });
            }
        }
    }
    let title = format!("Memory of idle connections, {} a step", options.connections);
    let name = "idle".to_owned();
    let report = Report { name, title, conditions, table, notes: notes(&options), results };
    report.publish(&options.shared)?;
    above.map_or(Ok(()), Err)
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
    let steps = measure(bed, way, connections)?.per_connection(connections);
    Ok(steps.into_values().map(|[_, second]| second).reduce(f64::max))
}

fn measure(bed: &Bed, way: Way, connections: usize) -> Result<States, BenchError> {
    let (host, port) = bed.entry(way, ECHO);
    // Started first, so that the libraries it shares with others count alike in every state.
    let mut holder = Holder::new(&bed.lab().host(EXTERNAL), format!("{host}:{port}"))?;
    bed.wait_until_idle(way)?;
    let started = memory(bed, way)?;
    holder.open(connections)?;
    holder.close()?;
    bed.wait_until_idle(way)?;
    let closed_again = memory(bed, way)?;
    holder.open(connections)?;
    let held = memory(bed, way)?;
    holder.open(connections)?;
    let twice = memory(bed, way)?;
    holder.close()?;
    bed.wait_until_idle(way)?;
    Ok(States { started, closed_again, held, twice })
}

fn memory(bed: &Bed, way: Way) -> Result<Memory, BenchError> {
    let mut memory = Memory::new();
    for process in bed.processes(way) {
        let kib = u32::try_from(memory_bytes(process)? / 1024).unwrap_or(u32::MAX);
        *memory.entry(process.name().to_owned()).or_default() += f64::from(kib);
    }
    Ok(memory)
}

fn of(memory: &Memory, process: &str) -> f64 {
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

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "PSS from /proc/PID/smaps_rollup, children included; the kernel's sockets are not in it. \
         Each connection has carried one byte there and back."
            .to_owned(),
        "First step: from the state after a warm-up of as many connections, closed again, to that \
         many held. It may reuse what the warm-up left in the heap; the second step, from that many \
         to twice as many, cannot. --max-kib is held against the larger."
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
        let memory = |kib| Memory::from([("icp-adit".to_owned(), kib)]);
        let states = States {
            started: memory(1_000.0),
            closed_again: memory(3_000.0),
            held: memory(3_000.0),
            twice: memory(5_000.0),
        };
        assert_eq!(states.per_connection(1_000)["icp-adit"], [0.0, 2.0]);
    }
}
