//! What runs inside the lab: this program again, as one of a few small generators.
//!
//! iperf3 makes the bulk load; these make what it cannot.

mod connect;
mod datagrams;
mod echo;
mod flood;
mod hold;
mod hop;
mod inetd;
mod orders;
mod pace;
mod ping;
mod recorded;
mod source;
mod spin;
mod stalled;
mod watch;

use std::env;
use std::ffi::OsString;
use std::fmt::Display;

use clap::Subcommand;
use netns_tests::{Host, Process};

use crate::error::BenchError;

pub(crate) use connect::connect;
pub(crate) use flood::{Sink, datagram_trips};
pub(crate) use hold::Holder;
pub(crate) use hop::Hop;
pub(crate) use pace::{Pace, paced};
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
    /// Datagrams; sends back whatever comes.
    DatagramEcho {
        /// Where it listens.
        port: u16,
    },
    /// Datagrams; counts those of the run that standard input names.
    DatagramSink {
        /// Where it listens.
        port: u16,
    },
    /// Sends numbered datagrams at a rate; prints how many.
    DatagramSend {
        /// The sink.
        address: String,
        /// Bytes of each.
        size: usize,
        /// Datagrams a second.
        rate: u64,
        /// What the sink knows them by.
        run: u64,
        /// How long.
        milliseconds: u64,
    },
    /// Round trips of datagrams, one after another; prints the lost ones and a histogram.
    DatagramPing {
        /// The echo.
        address: String,
        /// Round trips to make.
        count: u64,
        /// Bytes of each.
        size: usize,
        /// Seconds after which it ends anyway.
        seconds: u64,
    },
    /// Round trips, so many a second; prints the unanswered ones, how late they left, and a histogram.
    Pace {
        /// The echo service.
        address: String,
        /// Messages a second.
        per_second: u32,
        /// Bytes of each.
        size: usize,
        /// How long.
        seconds: u64,
    },
    /// The same of datagrams.
    DatagramPace {
        /// The echo.
        address: String,
        /// Datagrams a second.
        per_second: u32,
        /// Bytes of each.
        size: usize,
        /// How long.
        seconds: u64,
    },
    /// Becomes another program with the first connection as its input and output.
    Inetd {
        /// Where it listens.
        port: u16,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// One hop from a port to an address.
    Hop {
        /// How.
        hop: Hop,
        /// Where it listens.
        port: u16,
        /// Where it leads.
        to: String,
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
            Self::DatagramEcho { port } => datagrams::echo(port),
            Self::DatagramSink { port } => datagrams::sink(port),
            Self::DatagramSend { address, size, rate, run, milliseconds } => {
                datagrams::send(&address, size, rate, run, milliseconds)
            }
            Self::DatagramPing { address, count, size, seconds } => {
                datagrams::ping(&address, count, size, seconds)
            }
            Self::Pace { address, per_second, size, seconds } => {
                pace::run(&address, Pace { per_second, size, seconds, is_datagrams: false })
            }
            Self::DatagramPace { address, per_second, size, seconds } => {
                pace::run(&address, Pace { per_second, size, seconds, is_datagrams: true })
            }
            Self::Hop { hop, port, to } => hop::serve(hop, port, &to),
            Self::Inetd { port, command } => inetd::run(port, &command),
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
        let word;
        let (name, words): (&str, Vec<&dyn Display>) = match self {
            Self::Echo { port } => ("echo", vec![port]),
            Self::Ping { address, count, size, seconds } => {
                ("ping", vec![address, count, size, seconds])
            }
            Self::Connect { address, workers, seconds } => {
                ("connect", vec![address, workers, seconds])
            }
            Self::Hold { address } => ("hold", vec![address]),
            Self::Source { port } => ("source", vec![port]),
            Self::Stalled { address } => ("stalled", vec![address]),
            Self::Watch { address, paced, rate, patience } => {
                ("watch", vec![address, paced, rate, patience])
            }
            Self::DatagramEcho { port } => ("datagram-echo", vec![port]),
            Self::DatagramSink { port } => ("datagram-sink", vec![port]),
            Self::DatagramSend { address, size, rate, run, milliseconds } => {
                ("datagram-send", vec![address, size, rate, run, milliseconds])
            }
            Self::DatagramPing { address, count, size, seconds } => {
                ("datagram-ping", vec![address, count, size, seconds])
            }
            Self::Pace { address, per_second, size, seconds } => {
                ("pace", vec![address, per_second, size, seconds])
            }
            Self::DatagramPace { address, per_second, size, seconds } => {
                ("datagram-pace", vec![address, per_second, size, seconds])
            }
            Self::Hop { hop, port, to } => {
                word = hop.word();
                ("hop", vec![&word, port, to])
            }
            Self::Inetd { port, command } => {
                let command = command.iter().map(|word| -> &dyn Display { word });
                ("inetd", std::iter::once::<&dyn Display>(port).chain(command).collect())
            }
            Self::Spin { cpu } => ("spin", vec![cpu]),
        };
        let idle = ["chrt", "--idle", "0"].map(OsString::from);
        // What offers and counts must get the processor before what is measured, or it is measured.
        let eager = ["nice", "-n", "-15"].map(OsString::from);
        let before = match self {
            Self::Spin { .. } => &idle[..],
            Self::DatagramSend { .. }
            | Self::DatagramSink { .. }
            | Self::Pace { .. }
            | Self::DatagramPace { .. } => &eager[..],
            _ => &[],
        };
        let own = [own.into_os_string(), "load".into(), name.into()];
        let words = words.into_iter().map(|word| OsString::from(word.to_string()));
        Ok(before.iter().cloned().chain(own).chain(words).collect())
    }
}
