//! Round trips, timed one by one into an HDR histogram.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Round trips before those that count: caches, windows and the scheduler settle.
const WARM_UP: usize = 500;
/// The columns of the longest bar.
const BAR: u64 = 46;

/// Times `count` round trips of `size` bytes against an echo: closed loop, one in flight.
///
/// # Errors
/// When the connection breaks or the echo differs.
pub fn measure(to: SocketAddr, count: usize, size: usize) -> io::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut histogram = Histogram::new(3).map_err(io::Error::other)?;
    let (mut message, mut answer) = (vec![0; size], vec![0; size]);
    for round in 0..WARM_UP + count {
        for (byte, mark) in message.iter_mut().zip(round.to_le_bytes()) {
            *byte = mark;
        }
        let started = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if answer != message {
            return Err(io::Error::other(format!("round trip {round} brought something else")));
        }
        if round >= WARM_UP {
            histogram.record(nanoseconds).map_err(io::Error::other)?;
        }
    }
    Ok(histogram)
}

/// The histogram as bars and one line of quantiles, in microseconds.
#[must_use]
pub fn render(histogram: &Histogram<u64>) -> String {
    let micro = |quantile: f64| {
        Duration::from_nanos(histogram.value_at_quantile(quantile)).as_secs_f64() * 1e6
    };
    // Eight steps to a doubling; what lies beyond p99.9 goes into the last line.
    let last = histogram.value_at_quantile(0.999).max(1);
    let mut edges = vec![histogram.min().max(1)];
    while edges[edges.len() - 1] < last {
        let edge = edges[edges.len() - 1];
        edges.push(edge + (edge / 4).max(1));
    }
    let counts: Vec<(u64, u64, u64)> = edges
        .windows(2)
        .map(|pair| (pair[0], pair[1], histogram.count_between(pair[0], pair[1] - 1)))
        .collect();
    let highest = counts.iter().map(|&(_, _, count)| count).max().unwrap_or(1).max(1);
    let mut text = String::new();
    for (low, high, count) in counts {
        let bar = "█".repeat(usize::try_from(count * BAR / highest).unwrap_or(0));
        let (low, high) = (Duration::from_nanos(low), Duration::from_nanos(high));
        // Writing to a String cannot fail.
        let written = writeln!(
            text,
            "{:>9.1} – {:>8.1} µs {count:>7} {bar}",
            low.as_secs_f64() * 1e6,
            high.as_secs_f64() * 1e6
        );
        debug_assert!(written.is_ok());
    }
    let written = write!(
        text,
        "round trips {} p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} µs",
        histogram.len(),
        micro(0.5),
        micro(0.9),
        micro(0.99),
        micro(0.999),
        micro(1.0)
    );
    debug_assert!(written.is_ok());
    text
}
