//! The lab's clients and servers; see `netns_tests::traffic`.
#![forbid(unsafe_code)]

use std::hint;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use netns_tests::traffic::abuse::{self, Abuse};
use netns_tests::traffic::client;
use netns_tests::traffic::crowd;
use netns_tests::traffic::datagrams;
use netns_tests::traffic::latency;
use netns_tests::traffic::registrations;
use netns_tests::traffic::server::{Behaviour, serve};
use netns_tests::traffic::strangers;
use netns_tests::traffic::swarm::{self, Plan};

#[derive(Debug, Parser)]
enum Role {
    /// Server: sends back what comes.
    Echo { at: SocketAddr },
    /// Server: reads the pattern, answers its length.
    Sink { at: SocketAddr },
    /// Server: sends the pattern.
    Source { at: SocketAddr, bytes: u64 },
    /// Server: never reads.
    Stalled { at: SocketAddr },
    /// Server: resets at the first byte.
    Reset { at: SocketAddr },
    /// Server: ends its side first, and reads on.
    Farewell { at: SocketAddr },
    /// Server: prints how each connection ends.
    Watch { at: SocketAddr },
    /// Server: answers swarms.
    Exchange { at: SocketAddr },
    /// Server of datagrams: sends back what comes, and names each caller.
    DatagramEcho { at: SocketAddr },
    /// Client: one datagram there and back.
    Datagram { to: SocketAddr, bytes: usize },
    /// Client: datagrams that nobody may answer.
    DatagramUnanswered { to: SocketAddr },
    /// Client: numbered datagrams there and back until told to end.
    DatagramBeat {
        to: SocketAddr,
        #[arg(long, default_value_t = 20)]
        every_ms: u64,
    },
    /// Client: many flows of datagrams, both ways, each datagram until it is answered.
    DatagramCrowd { to: SocketAddr, flows: usize, bytes: u64 },
    /// Client: one datagram from each of many addresses of this host.
    DatagramFlood { to: SocketAddr, first: Ipv4Addr, count: u32 },
    /// Client: connects.
    Connect {
        to: SocketAddr,
        #[arg(long, default_value_t = 5000)]
        within_ms: u64,
    },
    /// Client: says something to an echo.
    Say {
        to: SocketAddr,
        words: String,
        /// Behind the five bytes that begin a TLS handshake.
        #[arg(long)]
        tls: bool,
        /// And so many zeros.
        #[arg(long, default_value_t = 0)]
        pad: usize,
        #[arg(long, default_value_t = 5000)]
        within_ms: u64,
    },
    /// Client: ends its side first, and reads on.
    HalfClose { to: SocketAddr, bytes: u64 },
    /// Client: hears the end, and writes on.
    HearOut { to: SocketAddr, bytes: u64 },
    /// Client: sends the pattern to a sink.
    Upload { to: SocketAddr, bytes: u64 },
    /// Client: reads the pattern from a source.
    Fetch { to: SocketAddr, bytes: u64 },
    /// Client: sends a byte and prints how the connection ends.
    Provoke { to: SocketAddr },
    /// Client: one round trip, then a reset.
    Abort { to: SocketAddr },
    /// Client: many connections at once.
    Hold { to: SocketAddr, count: usize },
    /// Client: a control flow.
    Pulse { to: SocketAddr },
    /// Client: many connections that never read.
    Stall { to: SocketAddr, count: usize },
    /// Client: many connections that write until blocked.
    Push { to: SocketAddr, count: usize },
    /// Client: round-trip times.
    Rtt {
        to: SocketAddr,
        #[arg(long, default_value_t = 20_000)]
        count: usize,
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Client: many flows, paced, both directions at once, until told to end.
    Swarm {
        to: SocketAddr,
        flows: usize,
        /// Another exchange, to share the flows with.
        #[arg(long)]
        also: Vec<SocketAddr>,
        /// All flows together, in each direction.
        #[arg(long, default_value_t = 1000)]
        kbytes_per_second: u64,
        #[arg(long, default_value_t = 50)]
        slice_ms: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Each flow in each direction; until told to end otherwise.
        #[arg(long)]
        bytes: Option<NonZeroU64>,
    },
    /// Client: misuses a tunnel's port.
    Abuse {
        to: SocketAddr,
        abuse: Abuse,
        #[arg(long, default_value_t = 10)]
        within_s: u64,
    },
    /// Client: connections without end from one network after the other, none of which is a handshake.
    Flood {
        to: SocketAddr,
        first: Ipv4Addr,
        networks: u32,
        count: u32,
        /// More than that, if there is time left.
        #[arg(long, default_value_t = 0)]
        for_ms: u64,
    },
    /// Client: handshakes of a byte a second, from one network after the other.
    Dawdle { to: SocketAddr, first: Ipv4Addr, networks: u32, count: u32 },
    /// Client of the local API: registers peers.
    Register {
        socket: PathBuf,
        /// Where they serve.
        target: SocketAddr,
        /// The first public port.
        port: u16,
        count: u16,
        /// How often they are registered, renewed and dropped; without it they stay.
        #[arg(long)]
        rounds: Option<u32>,
    },
    /// Keeps a processor awake.
    Spin,
}

fn main() -> ExitCode {
    match play(Role::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // On standard output, in order with the rest.
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: Role) -> io::Result<()> {
    match role {
        Role::Echo { at } => serve(at, Behaviour::Echo),
        Role::Sink { at } => serve(at, Behaviour::Sink),
        Role::Source { at, bytes } => serve(at, Behaviour::Source(bytes)),
        Role::Stalled { at } => serve(at, Behaviour::Stalled),
        Role::Reset { at } => serve(at, Behaviour::Reset),
        Role::Farewell { at } => serve(at, Behaviour::Farewell),
        Role::Watch { at } => serve(at, Behaviour::Watch),
        Role::Exchange { at } => swarm::exchange(at),
        Role::DatagramEcho { at } => datagrams::echo(at),
        Role::Datagram { to, bytes } => datagrams::one(to, bytes),
        Role::DatagramUnanswered { to } => datagrams::unanswered(to),
        Role::DatagramBeat { to, every_ms } => datagrams::beat(to, Duration::from_millis(every_ms)),
        Role::DatagramCrowd { to, flows, bytes } => crowd::crowd(to, flows, bytes),
        Role::DatagramFlood { to, first, count } => datagrams::flood(to, first, count),
        Role::Connect { to, within_ms } => client::reach(to, Duration::from_millis(within_ms)),
        Role::Say { to, words, tls, pad, within_ms } => {
            let begin: &[u8] = if tls { &[0x16, 3, 1, 0, 80] } else { &[] };
            let words = [begin, words.as_bytes(), &vec![0; pad]].concat();
            client::say(to, &words, Duration::from_millis(within_ms))
        }
        Role::HalfClose { to, bytes } => client::half_close(to, bytes),
        Role::HearOut { to, bytes } => client::hear_out(to, bytes),
        Role::Upload { to, bytes } => client::upload(to, bytes),
        Role::Fetch { to, bytes } => client::fetch(to, bytes),
        Role::Provoke { to } => client::provoke(to),
        Role::Abort { to } => client::abort(to),
        Role::Hold { to, count } => client::hold(to, count),
        Role::Pulse { to } => client::pulse(to),
        Role::Stall { to, count } => client::stall(to, count),
        Role::Push { to, count } => client::push(to, count),
        Role::Rtt { to, count, size } => {
            println!("{}", latency::render(&latency::measure(to, count, size)?));
            Ok(())
        }
        Role::Swarm { to, flows, also, kbytes_per_second, slice_ms, seed, bytes } => {
            swarm::swarm(&Plan {
                to: [vec![to], also].concat(),
                flows,
                bytes_per_second: kbytes_per_second * 1000,
                slice: Duration::from_millis(slice_ms),
                seed,
                bytes,
            })
        }
        Role::Abuse { to, abuse, within_s } => {
            abuse::commit(to, abuse, Duration::from_secs(within_s))
        }
        Role::Flood { to, first, networks, count, for_ms } => {
            strangers::flood(to, first, networks, count, Duration::from_millis(for_ms))
        }
        Role::Dawdle { to, first, networks, count } => {
            strangers::dawdle(to, first, networks, count)
        }
        Role::Register { socket, target, port, count, rounds } => {
            registrations::register(&socket, target, port, count, rounds)
        }
        Role::Spin => loop {
            hint::spin_loop();
        },
    }
}
