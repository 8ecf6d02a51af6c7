//! New connections: each worker opens one, has a byte sent back, closes it, and begins again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use netns_tests::{Host, LONG};

use super::{Load, recorded};
use crate::error::BenchError;

/// A connection that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(5);

/// What the workers did together.
#[derive(Debug)]
pub(crate) struct Connected {
    /// From the first word of a connection until its byte was back, in nanoseconds.
    pub(crate) times: Histogram<u64>,
    /// Connections that were refused, reset, or took too long.
    pub(crate) failed: u64,
    /// From the first connection's begin to the last one's end.
    pub(crate) took: Duration,
}

/// Opens connections from `host` for so many seconds.
pub(crate) fn connect(
    host: &Host<'_>,
    address: String,
    workers: usize,
    seconds: u64,
) -> Result<Connected, BenchError> {
    let log = Load::Connect { address, workers, seconds }.spawn(host)?.finish(LONG)?;
    let wrong = || BenchError::unexpected("the new connections", log.clone());
    let (first, rest) = log.split_once('\n').ok_or_else(wrong)?;
    let (failed, took) = first.split_once(' ').ok_or_else(wrong)?;
    let failed = failed.parse().map_err(|_error| wrong())?;
    let took = Duration::from_nanos(took.parse().map_err(|_error| wrong())?);
    Ok(Connected { times: recorded::read("the new connections", rest)?, failed, took })
}

/// Opens them, and prints how many failed, how long it took, and the times of the others.
pub(super) fn run(address: &str, workers: usize, seconds: u64) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let workers: Vec<_> = (0..workers).map(|_| thread::spawn(move || work(address, end))).collect();
    let (mut all, mut failed) = (recorded::empty(), 0);
    for worker in workers {
        let ended = worker.join().map_err(|_panic| io::Error::other("a worker panicked"))?;
        let (times, own_failed) = ended?;
        all.add(times).map_err(io::Error::other)?;
        failed += own_failed;
    }
    println!("{failed} {}", begun.elapsed().as_nanos());
    recorded::print(&all)
}

fn work(address: SocketAddr, end: Instant) -> io::Result<(Histogram<u64>, u64)> {
    let (mut times, mut failed) = (recorded::empty(), 0);
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok((times, failed));
        }
        match once(address) {
            Ok(()) => {
                let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                times.record(took).map_err(io::Error::other)?;
            }
            // It is a result, and counted as one.
            Err(_) => failed += 1,
        }
    }
}

fn once(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"a")?;
    stream.read_exact(&mut [0])
}
