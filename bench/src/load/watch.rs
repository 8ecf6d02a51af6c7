//! Reads one bulk flow and some paced ones, and notes when they stand still.
//!
//! A flow that ends, or is silent for too long, is made anew, and the gap counts as one that the flow
//! did not survive.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use netns_tests::{Host, LONG, Process, SHORT, wait_until};
use nix::time::{ClockId, clock_gettime};

use super::{Load, source};
use crate::error::BenchError;

/// A gap below it is not noted: paced flows have one of five milliseconds all the time.
const GAP_NS_MIN: u64 = 15_000_000;
/// A flow that got something so lately is flowing.
const LATELY_NS: u64 = 100_000_000;
/// Between attempts to make a flow anew.
const RETRY: Duration = Duration::from_millis(20);
/// What one attempt may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A time in which nothing came on one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Which flow; 0 is the bulk flow.
    pub(crate) flow: usize,
    /// The last byte before, by the machine's monotonic clock.
    pub(crate) begin_ns: u64,
    /// The first byte after.
    pub(crate) end_ns: u64,
    /// It is another connection that goes on after it.
    pub(crate) lost: bool,
}

/// The watcher, as a process of the external peer.
#[derive(Debug)]
pub(crate) struct Watch {
    process: Process,
    flows: usize,
    questions: usize,
}

impl Watch {
    /// Starts `paced` flows of `rate` bytes per second and the bulk flow, and waits until all flow.
    pub(crate) fn start(
        host: &Host<'_>,
        address: String,
        paced: usize,
        rate: u64,
        patience: u64,
    ) -> Result<Self, BenchError> {
        let process = Load::Watch { address, paced, rate, patience }.spawn_console(host)?;
        let mut watch = Self { process, flows: paced + 1, questions: 0 };
        watch.wait_until_all_flow(SHORT)?;
        Ok(watch)
    }

    /// Waits until every flow has lately got something.
    pub(crate) fn wait_until_all_flow(&mut self, deadline: Duration) -> Result<(), BenchError> {
        let mut failed = None;
        let mut flowing = 0;
        let all = wait_until(deadline, "all flows to flow", || match self.flowing() {
            Ok(count) => {
                flowing = count;
                count == self.flows
            }
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let told = |error| format!("{error}; {flowing} of {} do", self.flows);
        all.map_err(|error| BenchError::unexpected("the watched flows", told(error)))
    }

    /// How many flows have lately got something.
    fn flowing(&mut self) -> Result<usize, BenchError> {
        self.questions += 1;
        self.process.say("flowing")?;
        let begin = format!("flowing {} ", self.questions);
        let line = self.process.wait_for_line(&begin, SHORT, |line| line.starts_with(&begin))?;
        let count = line[begin.len()..].parse();
        count.map_err(|_error| BenchError::unexpected("the watcher", line))
    }

    /// Ends the flows; returns all gaps.
    pub(crate) fn finish(mut self) -> Result<Vec<Gap>, BenchError> {
        let log = self.process.finish(LONG)?;
        let gaps = log.lines().filter_map(|line| line.strip_prefix("gap "));
        let parsed = gaps.map(|line| {
            Gap::parse(line).ok_or_else(|| BenchError::unexpected("the watcher", line))
        });
        parsed.collect()
    }
}

impl Gap {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            flow: words.next()?.parse().ok()?,
            begin_ns: words.next()?.parse().ok()?,
            end_ns: words.next()?.parse().ok()?,
            lost: words.next()? == "lost",
        })
    }
}

/// The monotonic clock, which all processes of a machine share.
pub(crate) fn now_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        unreachable!("every Linux has a monotonic clock")
    };
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}

/// Watches until standard input ends.
pub(super) fn run(address: &str, paced: usize, rate: u64, patience: u64) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let last_ns: Vec<AtomicU64> = (0..=paced).map(|_| AtomicU64::new(0)).collect();
    let last_ns: &'static [AtomicU64] = Vec::leak(last_ns);
    for (flow, last_ns) in last_ns.iter().enumerate() {
        let rate = if flow == 0 { source::UNBOUNDED } else { rate };
        let patience = Duration::from_secs(patience);
        thread::spawn(move || watch(flow, address, rate, patience, last_ns));
    }
    for (line, number) in io::stdin().lines().zip(1..) {
        line?;
        let now = now_ns();
        let lately = |at: &&AtomicU64| now.saturating_sub(at.load(Ordering::Relaxed)) < LATELY_NS;
        println!("flowing {number} {}", last_ns.iter().filter(lately).count());
    }
    Ok(())
}

/// Reads one flow after another, for ever.
fn watch(
    flow: usize,
    address: SocketAddr,
    rate: u64,
    patience: Duration,
    last_ns: &AtomicU64,
) -> ! {
    let mut buffer = vec![0; 256 * 1024];
    let mut lost = false;
    loop {
        if let Ok(mut stream) = connect(address, rate, patience) {
            while let Ok(1..) = stream.read(&mut buffer) {
                let now = now_ns();
                let last = last_ns.swap(now, Ordering::Relaxed);
                if last != 0 && (lost || now - last >= GAP_NS_MIN) {
                    let how = if lost { "lost" } else { "kept" };
                    println!("gap {flow} {last} {now} {how}");
                }
                lost = false;
            }
        }
        // Before its first byte a flow has no gap to speak of.
        lost = last_ns.load(Ordering::Relaxed) != 0;
        thread::sleep(RETRY);
    }
}

fn connect(address: SocketAddr, rate: u64, patience: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&source::greeting(rate))?;
    Ok(stream)
}
