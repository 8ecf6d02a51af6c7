//! Round trips, closed loop: the next begins when the last has ended.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use netns_tests::{Host, LONG};

use super::{Load, recorded};
use crate::error::BenchError;

/// Round trips that are not counted: connections open, windows and caches warm.
const WARM_UP: u64 = 200;
/// On a slow way fewer do, and all would take too long.
const WARM_UP_WITHIN: Duration = Duration::from_secs(1);

/// Makes round trips from `host` and returns their times in nanoseconds.
pub(crate) fn round_trips(
    host: &Host<'_>,
    address: String,
    count: u64,
    size: usize,
    seconds: u64,
) -> Result<Histogram<u64>, BenchError> {
    let mut ping = Load::Ping { address, count, size, seconds }.spawn(host)?;
    let log = ping.finish(LONG)?;
    recorded::read("the round trips", &log)
}

/// Makes the round trips and prints each recorded value with how often it came.
pub(super) fn run(address: &str, count: u64, size: usize, seconds: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (sent, mut got) = (vec![b'a'; size], vec![0; size]);
    let mut histogram = recorded::empty();
    let warm = Instant::now() + WARM_UP_WITHIN;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut round, mut counted) = (0, 0);
    while counted < count {
        let begun = Instant::now();
        stream.write_all(&sent)?;
        stream.read_exact(&mut got)?;
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if round >= WARM_UP || begun >= warm {
            histogram.record(took).map_err(io::Error::other)?;
            counted += 1;
        }
        if begun >= end && counted > 0 {
            break;
        }
        round += 1;
    }
    recorded::print(&histogram)
}
