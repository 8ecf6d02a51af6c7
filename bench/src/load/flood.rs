//! The ends that order datagrams and read what came of them.

use std::time::Duration;

use hdrhistogram::Histogram;
use netns_tests::{Host, LONG, Process, SHORT, wait_until};

use super::{Load, recorded};
use crate::error::BenchError;

/// Between two questions to a sink whether more has come: longer than any queue on the way.
const SETTLED_AFTER: Duration = Duration::from_millis(150);

/// What one run of a sender came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flood {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Datagrams that came, each counted once.
    pub(crate) received: u64,
    /// How long the sender took.
    pub(crate) seconds: f64,
}

impl Flood {
    /// The share that did not come.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// Datagrams that came in a second.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
    pub(crate) fn rate(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    /// Datagrams offered in a second.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
    pub(crate) fn offered(&self) -> f64 {
        self.sent as f64 / self.seconds
    }
}

/// A sink, which every way leads to.
#[derive(Debug)]
pub(crate) struct Sink {
    process: Process,
    turns: u64,
    run: u64,
}

impl Sink {
    /// Starts it on `host`.
    pub(crate) fn start(host: &Host<'_>, port: u16) -> Result<Self, BenchError> {
        let mut process = Load::DatagramSink { port }.spawn_console(host)?;
        let filter = format!("sport = :{port}");
        wait_until(SHORT, "the sink of datagrams", || {
            let shown = host.run(["ss", "-Hlun", &filter]);
            !process.runs() || shown.is_ok_and(|shown| !shown.stdout.trim().is_empty())
        })?;
        Ok(Self { process, turns: 0, run: 0 })
    }

    /// Sends so many datagrams a second from `host` to `address`, and counts what comes.
    pub(crate) fn flood(
        &mut self,
        host: &Host<'_>,
        address: &str,
        size: usize,
        rate: u64,
        milliseconds: u64,
    ) -> Result<Flood, BenchError> {
        self.run += 1;
        self.ask()?;
        let (address, run) = (address.to_owned(), self.run);
        let mut sender =
            Load::DatagramSend { address, size, rate, run, milliseconds }.spawn(host)?;
        let said = sender.finish(LONG)?;
        let mut received = self.ask()?;
        loop {
            // Datagrams have no end that could be waited for: nothing new is the end.
            std::thread::sleep(SETTLED_AFTER);
            let now = self.ask()?;
            if now == received {
                break;
            }
            received = now;
        }
        let line = said.lines().find(|line| line.starts_with("sent ")).unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        match (number(1), number(3)) {
            (Some(sent), Some(us)) => {
                Ok(Flood { sent, received, seconds: Duration::from_micros(us).as_secs_f64() })
            }
            _ => Err(BenchError::unexpected("the sender of datagrams", said)),
        }
    }

    /// How many have come of this run.
    fn ask(&mut self) -> Result<u64, BenchError> {
        self.turns += 1;
        self.process.say(&self.run.to_string())?;
        let begin = format!("turn {} ", self.turns);
        let line = self.process.wait_for_line(&begin, SHORT, |line| line.starts_with(&begin))?;
        let count = line.split_whitespace().nth(3).and_then(|word| word.parse().ok());
        count.ok_or_else(|| BenchError::unexpected("the sink of datagrams", line))
    }
}

/// Round trips, and how many had no answer.
#[derive(Debug, Clone)]
pub(crate) struct Trips {
    /// In nanoseconds.
    pub(crate) times: Histogram<u64>,
    /// Without an answer.
    pub(crate) lost: u64,
}

/// Round trips from `host`, one after another.
pub(crate) fn datagram_trips(
    host: &Host<'_>,
    address: String,
    count: u64,
    size: usize,
    seconds: u64,
) -> Result<Trips, BenchError> {
    read(&Load::DatagramPing { address, count, size, seconds }.spawn(host)?.finish(LONG)?)
}

fn read(log: &str) -> Result<Trips, BenchError> {
    let (first, rest) = log.split_once('\n').unwrap_or((log, ""));
    let lost = first.strip_prefix("lost ").and_then(|lost| lost.parse().ok());
    let lost = lost.ok_or_else(|| BenchError::unexpected("the round trips", log))?;
    Ok(Trips { times: recorded::read("the round trips", rest)?, lost })
}
