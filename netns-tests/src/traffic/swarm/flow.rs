//! One flow, which is the same at both ends: a paced pattern out, another one in, at the same time.
//!
//! ```text
//!   pattern … pattern │ SHA-256 of it, 32 bytes │ verdict, 1 byte │ end of the stream
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::meter::{End, Meter, Roster};
use super::pattern::Pattern;

/// The bytes that follow the pattern: its sum, and whether all is well so far with what was heard.
pub const TRAILER: usize = 33;
const WELL: u8 = 1;
const AMISS: u8 = 0;

/// A rate that is kept in slices of time.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    slice: Duration,
    began: Instant,
    granted: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64, slice: Duration) -> Self {
        Self { bytes_per_second, slice, began: Instant::now(), granted: 0 }
    }

    /// How many bytes may go now; what was missed while the socket was full is made up for, to the
    /// amount of one second.
    fn due(&mut self) -> usize {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(self.bytes_per_second) / 1000;
        let due = (earned - self.granted).min(self.bytes_per_second);
        self.granted = earned;
        usize::try_from(due).unwrap_or(usize::MAX)
    }
}

/// What this end sends and expects.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) sends: Pattern,
    pub(super) hears: Pattern,
    pub(super) pace: Pace,
    /// How much it sends, if that is fixed.
    pub(super) bytes: Option<NonZeroU64>,
}

/// Carries the flow to its end, which is then in its meter; `on_first` is called at the first byte.
pub(super) fn carry(
    stream: Arc<TcpStream>,
    side: Side,
    meter: &Arc<Meter>,
    roster: &Arc<Roster>,
    on_first: impl FnOnce(),
) {
    let Side { sends, hears, pace, bytes } = side;
    let writer = {
        let (stream, meter, roster) = (Arc::clone(&stream), Arc::clone(meter), Arc::clone(roster));
        thread::spawn(move || {
            let writing = Writing { meter: &meter, roster: &roster, bytes };
            let wrote = writing.write(&stream, sends, pace);
            // What befalls the writer after the reader's end says nothing about that end.
            let came_first = !meter.is_over();
            if wrote.is_err() && stream.shutdown(Shutdown::Both).is_err() {
                // It is down already: what was wanted, namely that the reader wakes.
            }
            (wrote, came_first)
        })
    };
    let heard = read(&stream, hears, meter, on_first);
    // Whom only the other's end of stream has reached is connected still (getpeername(2)).
    let is_down = stream.peer_addr().is_err();
    if heard != End::Right {
        meter.set_end(heard.clone());
    }
    meter.set_over();
    let (wrote, came_first) =
        writer.join().unwrap_or_else(|_| (Err(io::Error::other("the writer panicked")), true));
    // The socket goes first: whoever counts ends may rely on it.
    drop(stream);
    meter.set_end(if meter.is_aborted() {
        End::Aborted
    } else {
        settle(heard, wrote, came_first || is_down)
    });
}

/// A reset that the writer was told of, the reader sees as a mere end.
fn settle(heard: End, wrote: io::Result<()>, is_of_writer: bool) -> End {
    match (heard, wrote) {
        (End::Right, Err(error)) => ended_by(&error),
        (End::Early, Err(error)) if is_of_writer => ended_by(&error),
        (heard, _) => heard,
    }
}

fn ended_by(error: &io::Error) -> End {
    match error.kind() {
        // Who shuts down a side of a socket that was reset meanwhile finds it not connected.
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected => End::Reset,
        _ => End::Broken(error.to_string()),
    }
}

/// What decides how long a flow writes.
#[derive(Debug)]
struct Writing<'a> {
    meter: &'a Meter,
    roster: &'a Roster,
    bytes: Option<NonZeroU64>,
}

impl Writing<'_> {
    fn write(&self, mut stream: &TcpStream, mut sends: Pattern, mut pace: Pace) -> io::Result<()> {
        let Self { meter, bytes, .. } = self;
        let mut sum = Sha256::new();
        while !self.is_over(sends.offset()) {
            let left = bytes.map_or(u64::MAX, |bytes| bytes.get() - sends.offset());
            let due = usize::try_from(left).unwrap_or(usize::MAX).min(pace.due());
            let bytes = sends.next(due);
            stream.write_all(bytes)?;
            sum.update(bytes);
            meter.sent(bytes.len());
            thread::sleep(pace.slice);
        }
        if meter.is_aborted() {
            return Ok(());
        }
        let mut trailer = sum.finalize().to_vec();
        trailer.push(if meter.end().is_none() { WELL } else { AMISS });
        stream.write_all(&trailer)?;
        stream.shutdown(Shutdown::Write)
    }

    fn is_over(&self, sent: u64) -> bool {
        let Self { meter, roster, bytes } = self;
        let is_told = match bytes {
            // The other end may have said all of its own before.
            Some(bytes) => sent >= bytes.get() || meter.end().is_some(),
            None => roster.is_enough() || meter.is_over(),
        };
        is_told || meter.is_aborted()
    }
}

fn read(mut stream: &TcpStream, mut hears: Pattern, meter: &Meter, on_first: impl FnOnce()) -> End {
    let (mut sum, mut on_first) = (Sha256::new(), Some(on_first));
    let mut chunk = vec![0; 16 * 1024];
    // The last bytes so far: the trailer, if nothing follows.
    let mut held = Vec::new();
    loop {
        let length = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return ended_by(&error),
        };
        if meter.received(length)
            && let Some(on_first) = on_first.take()
        {
            on_first();
        }
        held.extend_from_slice(&chunk[..length]);
        let body = held.len().saturating_sub(TRAILER);
        if let Some(end) = compare(&held[..body], &mut hears) {
            return end;
        }
        sum.update(&held[..body]);
        held.drain(..body);
    }
    if held.len() < TRAILER || held == hears.next(TRAILER) {
        return End::Early;
    }
    let (digest, verdict) = held.split_at(TRAILER - 1);
    if digest != sum.finalize().as_slice() {
        return End::Wrong(format!("the sum differs after {} bytes", hears.offset()));
    }
    if verdict == [WELL] { End::Right } else { End::Wrong("the other end heard amiss".to_owned()) }
}

fn compare(heard: &[u8], hears: &mut Pattern) -> Option<End> {
    let offset = hears.offset();
    let expected = hears.next(heard.len());
    if heard == expected {
        return None;
    }
    let wrong = heard.iter().zip(expected).take_while(|(heard, expected)| heard == expected);
    Some(End::Wrong(format!("wrong byte at offset {}", offset + wrong.count() as u64)))
}
