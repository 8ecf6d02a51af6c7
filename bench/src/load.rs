//! What runs inside the lab: this program again, as one of a few small generators.
//!
//! iperf3 makes the bulk load; these make what it cannot.

mod connect;
mod echo;
mod hold;
mod orders;
mod ping;
mod recorded;
mod source;
mod spin;
mod stalled;
mod watch;

use std::env;
use std::ffi::OsString;

use clap::Subcommand;
use netns_tests::{Host, Process};

use crate::error::BenchError;

pub(crate) use connect::connect;
pub(crate) use hold::Holder;
pub(crate) use ping::round_trips;
pub(crate) use spin::Spinner;
pub(crate) use stalled::Stalled;
pub(crate) use watch::{Gap, Watch, now_ns};

/// A generator.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Load {
    /// Sends back whatever comes, on every address.
    Echo {
        /// Where it listens.
        port: u16,
    },
    /// Round trips one after another; prints a histogram.
    Ping {
        /// The echo service.
        address: String,
        /// Round trips to make.
        count: u64,
        /// Bytes of each.
        size: usize,
        /// Seconds after which it ends anyway.
        seconds: u64,
    },
    /// New connections; prints how many failed, the time taken, and a histogram.
    Connect {
        /// The echo service.
        address: String,
        /// Connections at once.
        workers: usize,
        /// Seconds for which new ones begin.
        seconds: u64,
    },
    /// Holds idle connections, as told on standard input.
    Hold {
        /// The echo service.
        address: String,
    },
    /// Sends without end, at the rate that each connection asks for.
    Source {
        /// Where it listens.
        port: u16,
    },
    /// Connections to a source that are never read from, as told on standard input.
    Stalled {
        /// The source.
        address: String,
    },
    /// Reads a bulk flow and paced ones, and prints each gap.
    Watch {
        /// The source.
        address: String,
        /// Paced flows beside the bulk flow.
        paced: usize,
        /// Bytes per second of each.
        rate: u64,
        /// Seconds after which a silent flow is given up.
        patience: u64,
    },
    /// Keeps a processor awake, for ever.
    Spin {
        /// Which.
        cpu: usize,
    },
}

impl Load {
    /// Is the generator.
    pub(crate) fn run(self) -> Result<(), BenchError> {
        let name = format!("{self:?}");
        let ran = match self {
            Self::Echo { port } => echo::serve(port),
            Self::Ping { address, count, size, seconds } => {
                ping::run(&address, count, size, seconds)
            }
            Self::Connect { address, workers, seconds } => connect::run(&address, workers, seconds),
            Self::Hold { address } => hold::run(&address),
            Self::Source { port } => source::serve(port),
            Self::Stalled { address } => stalled::run(&address),
            Self::Watch { address, paced, rate, patience } => {
                watch::run(&address, paced, rate, patience)
            }
            Self::Spin { cpu } => spin::run(cpu),
        };
        ran.map_err(BenchError::io(name))
    }

    /// Starts the generator on `host`.
    pub(crate) fn spawn(&self, host: &Host<'_>) -> Result<Process, BenchError> {
        Ok(host.spawn(self.command()?)?)
    }

    /// Starts the generator on `host`, to be told what to do.
    pub(crate) fn spawn_console(&self, host: &Host<'_>) -> Result<Process, BenchError> {
        Ok(host.spawn_console(self.command()?)?)
    }

    /// The command line that [`Load::run`] is reached by.
    fn command(&self) -> Result<Vec<OsString>, BenchError> {
        let own = env::current_exe().map_err(BenchError::io("finding this program"))?;
        let words: Vec<String> = match self {
            Self::Echo { port } => vec!["echo".to_owned(), port.to_string()],
            Self::Ping { address, count, size, seconds } => vec![
                "ping".to_owned(),
                address.clone(),
                count.to_string(),
                size.to_string(),
                seconds.to_string(),
            ],
            Self::Connect { address, workers, seconds } => vec![
                "connect".to_owned(),
                address.clone(),
                workers.to_string(),
                seconds.to_string(),
            ],
            Self::Hold { address } => vec!["hold".to_owned(), address.clone()],
            Self::Source { port } => vec!["source".to_owned(), port.to_string()],
            Self::Stalled { address } => vec!["stalled".to_owned(), address.clone()],
            Self::Watch { address, paced, rate, patience } => vec![
                "watch".to_owned(),
                address.clone(),
                paced.to_string(),
                rate.to_string(),
                patience.to_string(),
            ],
            Self::Spin { cpu } => vec!["spin".to_owned(), cpu.to_string()],
        };
        let idle = ["chrt", "--idle", "0"].map(OsString::from);
        let before = if matches!(self, Self::Spin { .. }) { &idle[..] } else { &[] };
        let own = [own.into_os_string(), "load".into()];
        let words = words.into_iter().map(OsString::from);
        Ok(before.iter().cloned().chain(own).chain(words).collect())
    }
}
