//! Round trips that leave at their times, whatever became of those before (open loop).
//!
//! Each time counts from when the message was to leave, not from when it left: what waited behind a stall
//! waited for the way, and says so. That is what measuring one after another omits ("coordinated
//! omission").

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use netns_tests::{Host, LONG};
use nix::sys::prctl::set_timerslack;

use super::datagrams::{HEADER, label, towards, word};
use super::{Load, recorded};
use crate::error::BenchError;

/// How long after the last message answers still count.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How often whoever waits for an answer looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Attempts to open a way for datagrams: the first may be lost.
const OPENERS: u64 = 20;
/// Between the opening and the first message.
const BEFORE: Duration = Duration::from_millis(20);

/// What came of them.
#[derive(Debug, Clone)]
pub(crate) struct Paced {
    /// From when a message was to leave until its answer was there, in nanoseconds.
    pub(crate) times: Histogram<u64>,
    /// Without an answer.
    pub(crate) lost: u64,
    /// 99 in 100 messages were sent no later than this after their time: the generator's own part.
    pub(crate) late: Duration,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Messages a second.
    pub(crate) per_second: u32,
    /// Bytes of each.
    pub(crate) size: usize,
    /// How long.
    pub(crate) seconds: u64,
    /// Over UDP.
    pub(crate) is_datagrams: bool,
}

/// Makes round trips from `host` at their times.
pub(crate) fn paced(host: &Host<'_>, address: String, pace: Pace) -> Result<Paced, BenchError> {
    let Pace { per_second, size, seconds, is_datagrams } = pace;
    let load = if is_datagrams {
        Load::DatagramPace { address, per_second, size, seconds }
    } else {
        Load::Pace { address, per_second, size, seconds }
    };
    let log = load.spawn(host)?.finish(LONG)?;
    let wrong = || BenchError::unexpected("the round trips at their times", log.clone());
    let (first, rest) = log.split_once('\n').ok_or_else(wrong)?;
    let mut words = first.split(' ').map(str::parse::<u64>);
    let (Some(Ok(lost)), Some(Ok(late))) = (words.next(), words.next()) else {
        return Err(wrong());
    };
    let times = recorded::read("the round trips at their times", rest)?;
    Ok(Paced { times, lost, late: Duration::from_nanos(late) })
}

/// Makes the round trips, and prints how many had no answer, how late messages left, and the times.
pub(super) fn run(address: &str, pace: Pace) -> io::Result<()> {
    let size = pace.size.max(HEADER);
    let end =
        if pace.is_datagrams { End::datagrams(address)? } else { End::stream(address, size)? };
    let times = Times::from(Instant::now() + BEFORE, pace);
    let sender = end.another()?;
    let sending = thread::spawn(move || send(sender, times, size));
    let mut histogram = recorded::empty();
    let until = times.due(times.count) + ANSWERS_WITHIN;
    let (mut got, mut answered) = (vec![0; size], 0);
    while answered < times.count
        && let Some(number) = end.answer(&mut got, answered, until)?
    {
        answered += 1;
        histogram.record(since(times.due(number))).map_err(io::Error::other)?;
    }
    // Whoever still waits to send would wait for ever.
    end.close();
    let late = sending.join().map_err(|_panic| io::Error::other("the sender panicked"))??;
    println!("{} {}", times.count - answered, late.value_at_quantile(0.99));
    recorded::print(&histogram)
}

/// Nanoseconds since then; none if that is still to come.
fn since(then: Instant) -> u64 {
    let waited = Instant::now().saturating_duration_since(then);
    u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX)
}

/// When messages are due.
#[derive(Debug, Clone, Copy)]
struct Times {
    begin: Instant,
    per_second: u64,
    count: u64,
}

impl Times {
    fn from(begin: Instant, pace: Pace) -> Self {
        let per_second = u64::from(pace.per_second.max(1));
        Self { begin, per_second, count: per_second * pace.seconds }
    }

    fn due(&self, number: u64) -> Instant {
        let (whole, part) = (number / self.per_second, number % self.per_second);
        let part = Duration::from_nanos(part * 1_000_000_000 / self.per_second);
        self.begin + Duration::from_secs(whole) + part
    }
}

/// Sends each at its time, and notes how late.
fn send(mut end: End, times: Times, size: usize) -> io::Result<Histogram<u64>> {
    // A sleep otherwise ends up to 50 µs late on purpose (prctl(2), PR_SET_TIMERSLACK).
    set_timerslack(1)?;
    let (mut late, mut message) = (recorded::empty(), vec![b'a'; size]);
    for number in 0..times.count {
        let due = times.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        late.record(since(due)).map_err(io::Error::other)?;
        label(&mut message, 1, number);
        if end.send(&message).is_err() {
            // Closed under us: the rest has no answer.
            break;
        }
    }
    Ok(late)
}

/// The near end of the way.
#[derive(Debug)]
enum End {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

impl End {
    /// Connected, and known to reach the far end.
    fn stream(address: &str, size: usize) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut message = vec![b'a'; size];
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        stream.set_read_timeout(Some(TICK))?;
        Ok(Self::Stream(stream))
    }

    fn datagrams(address: &str) -> io::Result<Self> {
        let socket = towards(address)?;
        socket.set_read_timeout(Some(TICK))?;
        let mut opener = vec![b'a'; HEADER];
        label(&mut opener, 0, u64::MAX);
        for _ in 0..OPENERS {
            socket.send(&opener)?;
            if socket.recv(&mut [0; HEADER]).is_ok() {
                return Ok(Self::Datagrams(socket));
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "no answer to the first datagrams"))
    }

    fn another(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Stream(stream) => Self::Stream(stream.try_clone()?),
            Self::Datagrams(socket) => Self::Datagrams(socket.try_clone()?),
        })
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(message),
            Self::Datagrams(socket) => match socket.send(message) {
                Ok(_) => Ok(()),
                // It is lost, as others may be.
                Err(error) if is_passing(&error) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// The number of the next answer, if one comes in time. Those of a stream come in order.
    fn answer(&self, got: &mut [u8], next: u64, until: Instant) -> io::Result<Option<u64>> {
        let mut filled = 0;
        while Instant::now() < until {
            let came = match self {
                Self::Stream(stream) => (&*stream).read(&mut got[filled..]),
                Self::Datagrams(socket) => socket.recv(got),
            };
            match (self, came) {
                (Self::Stream(_), Ok(0)) => return Err(ErrorKind::UnexpectedEof.into()),
                (Self::Stream(_), Ok(more)) => {
                    filled += more;
                    if filled == got.len() {
                        return Ok(Some(next));
                    }
                }
                (Self::Datagrams(_), Ok(length)) => {
                    let bytes = &got[..length];
                    if word(bytes, 0) == Some(1)
                        && let Some(number) = word(bytes, 8)
                    {
                        return Ok(Some(number));
                    }
                }
                (_, Err(error)) if is_passing(&error) => {}
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn close(&self) {
        if let Self::Stream(stream) = self
            && stream.shutdown(Shutdown::Both).is_err()
        {
            // The other end has closed it already.
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    let is_full = error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32);
    is_full || matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The times are those of the rate, however late anybody is.
    #[test]
    fn messages_are_due_at_the_rate() {
        let begin = Instant::now();
        let pace = Pace { per_second: 3, size: 64, seconds: 2, is_datagrams: false };
        let times = Times::from(begin, pace);
        assert_eq!(times.count, 6);
        assert_eq!(times.due(3), begin + Duration::from_secs(1));
        assert_eq!(times.due(4), begin + Duration::from_nanos(1_333_333_333));
    }

    /// A message that waited behind a stall has the stall in its time, though the answer came at once when it
    /// was sent.
    #[test]
    fn a_stall_counts_for_all_that_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stall = Duration::from_millis(300);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut message = [0; 64];
            for number in 0.. {
                if stream.read_exact(&mut message).is_err() || stream.write_all(&message).is_err() {
                    return;
                }
                if number == 10 {
                    thread::sleep(stall);
                }
            }
        });
        let end = End::stream(&address, 64).unwrap();
        let pace = Pace { per_second: 100, size: 64, seconds: 1, is_datagrams: false };
        let times = Times::from(Instant::now(), pace);
        let sender = end.another().unwrap();
        let sending = thread::spawn(move || send(sender, times, 64));
        let (mut got, mut delayed) = ([0; 64], 0);
        for next in 0..times.count {
            let until = times.due(times.count) + ANSWERS_WITHIN;
            let number = end.answer(&mut got, next, until).unwrap().unwrap();
            delayed += u64::from(Instant::now() > times.due(number) + stall / 3);
        }
        sending.join().unwrap().unwrap();
        // Some twenty were to leave in the last two thirds of it.
        assert!(delayed >= 15, "{delayed}");
    }
}
