//! The command line of `adit-bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::BenchError;
use crate::load::Load;
use crate::quiet::Quiet;
use crate::way::Way;
use crate::{
    compare, connections, engine, fairness, flood, idle, latency, machine, soak, stall, throughput,
    timing, udp,
};

/// Measures Adit in a lab of network namespaces on this machine, beside plain forwarding.
#[derive(Debug, Parser)]
#[command(name = "adit-bench", version = adit_about::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All that compares, of all ways that are installed, in one report.
    Compare(compare::Options),
    /// Bulk TCP: Gbit/s, and processor seconds per GiB.
    Throughput(throughput::Options),
    /// Round trips: p50, p99, p99.9 and the longest.
    Latency(latency::Options),
    /// New connections a second, with their latency.
    Connections(connections::Options),
    /// User memory of idle connections, and processor time beside very many.
    Idle(idle::Options),
    /// How long flows stand still when the tunnel's connection is killed, or its way is blocked.
    Stall(stall::Options),
    /// Datagrams: the highest rate, round trips, processor time; or round trips beside a bulk flow.
    Udp(udp::Options),
    /// What a flood of strangers at the tunnel's port costs: round trips beside it, and memory.
    Flood(flood::Options),
    /// Adit for a long time: memory, descriptors, and every byte at each hop.
    Soak(soak::Options),
    /// Whether the time that secrets are compared in tells anything of them.
    Timing(timing::Options),
    /// What thousands of stalled readers cost the others.
    Fairness(fairness::Options),
    /// One hop, by each interface of the kernel: what moving bytes costs without a tunnel.
    Engine(engine::Options),
    /// A generator inside the lab; started by the others.
    #[command(hide = true, subcommand)]
    Load(Load),
}

/// What all measurements have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shared {
    /// What to compare [default: what the measurement is for].
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    ways: Vec<Way>,
    /// As short as it can be: does it still work?
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Seconds to wait before each run for others on the machine to be quiet.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    patience: u64,
    /// Writes the report's figures and plots into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Appends the report to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

impl Shared {
    /// Waits between runs as asked for; a smoke run waits for nobody.
    pub(crate) fn quiet(&self) -> Quiet {
        Quiet::new(if self.smoke { 0 } else { self.patience })
    }

    /// The ways asked for, each once, or the `usual` ones; without what is not installed.
    pub(crate) fn ways(&self, usual: &[Way]) -> Vec<Way> {
        let mut ways = if self.ways.is_empty() { usual.to_vec() } else { self.ways.clone() };
        ways.sort_unstable();
        ways.dedup();
        let missing = |way: &Way| {
            eprintln!("{way}: it is left out, as it needs {}", way.needs());
            false
        };
        ways.retain(|way| way.is_installed() || missing(way));
        ways
    }
}

/// The program.
pub(crate) fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), BenchError> {
    if let Command::Load(load) = command {
        return load.run();
    }
    machine::raise_file_limit()?;
    match command {
        Command::Compare(options) => compare::run(options),
        Command::Throughput(options) => throughput::run(options),
        Command::Latency(options) => latency::run(options),
        Command::Connections(options) => connections::run(options),
        Command::Idle(options) => idle::run(options),
        Command::Stall(options) => stall::run(options),
        Command::Udp(options) => udp::run(options),
        Command::Flood(options) => flood::run(options),
        Command::Soak(options) => soak::run(options),
        Command::Timing(options) => timing::run(options),
        Command::Fairness(options) => fairness::run(options),
        Command::Engine(options) => engine::run(options),
        Command::Load(load) => load.run(),
    }
}
