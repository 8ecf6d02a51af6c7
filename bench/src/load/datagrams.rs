//! Datagrams that are numbered: a sender at a rate, a sink that counts, an echo, and a ping.
//!
//! ```text
//!   run u64 | number u64 | filling
//! ```
//!
//! Sender and sink move [`BATCH`] datagrams with one call, so that they are not what is measured.

use std::io::{self, BufRead, ErrorKind, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::recorded;

/// The run and the number.
pub(super) const HEADER: usize = 16;
/// Datagrams of one call.
const BATCH: usize = 64;
/// The longest that a sink or an echo takes.
const LENGTH_MAX: usize = 2_048;
/// What the sink's and the echo's sockets may hold: not they shall be what loses.
const SOCKET_BYTES: usize = 16 * 1024 * 1024;
/// Numbers of one run that are told apart: eight seconds at two million a second.
const NUMBERS_MAX: u64 = 16 * 1024 * 1024;
/// A sender that was kept from the processor for longer does not catch up with a burst.
const BEHIND_MAX: Duration = Duration::from_millis(5);
/// How long the way may take to open before what is sent counts.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// A round trip without an answer for so long is lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

fn bound(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    widen(&socket)?;
    Ok(socket)
}

pub(super) fn towards(address: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    widen(&socket)?;
    Ok(socket)
}

/// Without the right to force it the machine's own limit stands.
fn widen(socket: &UdpSocket) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BYTES).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &SOCKET_BYTES)?;
    }
    Ok(())
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

pub(super) fn label(datagram: &mut [u8], run: u64, number: u64) {
    datagram[..8].copy_from_slice(&run.to_be_bytes());
    datagram[8..HEADER].copy_from_slice(&number.to_be_bytes());
}

/// Sends back whatever comes, until it is killed.
pub(super) fn echo(port: u16) -> io::Result<()> {
    let socket = bound(port)?;
    let mut datagram = [0; 65_536];
    loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        match socket.send_to(&datagram[..length], from) {
            // An answer that nobody takes is the other end's affair.
            Ok(_) | Err(_) => {}
        }
    }
}

/// What came of the present run.
static RUN: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);
static TWICE: AtomicU64 = AtomicU64::new(0);

/// Counts what comes; each line on standard input is a run's number, and answered with
/// `run N received R twice T`. A new number begins a new run.
pub(super) fn sink(port: u16) -> io::Result<()> {
    let socket = bound(port)?;
    thread::spawn(move || {
        if let Err(error) = count(&socket) {
            println!("failed: {error}");
        }
    });
    for (line, turn) in io::stdin().lock().lines().zip(1_u64..) {
        let run = line?.trim().parse::<u64>().map_err(io::Error::other)?;
        if RUN.swap(run, Ordering::SeqCst) != run {
            RECEIVED.store(0, Ordering::SeqCst);
            TWICE.store(0, Ordering::SeqCst);
        }
        let (received, twice) = (RECEIVED.load(Ordering::SeqCst), TWICE.load(Ordering::SeqCst));
        println!("turn {turn} received {received} twice {twice}");
    }
    Ok(())
}

fn count(socket: &UdpSocket) -> io::Result<()> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![0; BATCH * LENGTH_MAX];
    let (mut run, mut seen) = (0, Vec::new());
    loop {
        let mut slices: Vec<_> =
            buffers.chunks_mut(LENGTH_MAX).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let came = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)?;
        let (mut fresh, mut twice) = (0, 0);
        let now = RUN.load(Ordering::SeqCst);
        if now != run {
            (run, seen) = (now, Vec::new());
        }
        for message in came {
            let Some(bytes) = message.iovs().next() else { continue };
            let (Some(of), Some(number)) = (word(bytes, 0), word(bytes, 8)) else { continue };
            if of != run || number >= NUMBERS_MAX {
                continue;
            }
            if is_new(&mut seen, number) { fresh += 1 } else { twice += 1 }
        }
        RECEIVED.fetch_add(fresh, Ordering::SeqCst);
        TWICE.fetch_add(twice, Ordering::SeqCst);
    }
}

/// One bit for each number.
fn is_new(seen: &mut Vec<u64>, number: u64) -> bool {
    let Ok(at) = usize::try_from(number / 64) else { return false };
    if seen.len() <= at {
        seen.resize((at + 1).next_power_of_two(), 0);
    }
    let bit = 1 << (number % 64);
    let new = seen[at] & bit == 0;
    seen[at] |= bit;
    new
}

/// Sends at a rate for so long; prints `sent N in_us T`.
pub(super) fn send(
    address: &str,
    size: usize,
    rate: u64,
    run: u64,
    milliseconds: u64,
) -> io::Result<()> {
    let size = size.max(HEADER);
    let socket = towards(address)?;
    // Opens the way: what is sent before a flow stands inside waits, or is lost.
    let opener = vec![0; HEADER];
    for _ in 0..10 {
        socket.send(&opener)?;
        thread::sleep(OPEN_WITHIN / 250);
    }
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![0; BATCH * size];
    let (begun, lasts) = (Instant::now(), Duration::from_millis(milliseconds));
    let (mut sent, mut behind) = (0_u64, 0_u64);
    let behind_max = (u128::from(rate) * BEHIND_MAX.as_micros() / 1_000_000).max(1);
    let behind_max = u64::try_from(behind_max).unwrap_or(u64::MAX).max(BATCH as u64);
    while begun.elapsed() < lasts {
        let due = u128::from(rate) * begun.elapsed().as_nanos() / 1_000_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX) - behind;
        let burst = due.saturating_sub(sent);
        if burst == 0 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        behind += burst.saturating_sub(behind_max);
        let burst = usize::try_from(burst).unwrap_or(BATCH).min(BATCH);
        for (datagram, number) in buffers.chunks_mut(size).take(burst).zip(sent..) {
            label(datagram, run, number);
        }
        let slices: Vec<_> =
            buffers.chunks(size).take(burst).map(|datagram| [IoSlice::new(datagram)]).collect();
        let (to, flags) = ([None; BATCH], MsgFlags::empty());
        match sendmmsg(socket.as_raw_fd(), &mut headers, slices.iter(), &to[..burst], [], flags) {
            Ok(went) => sent += went.count() as u64,
            Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    println!("sent {sent} in_us {}", begun.elapsed().as_micros());
    Ok(())
}

/// Round trips one after another; prints `lost N`, then the histogram.
pub(super) fn ping(address: &str, count: u64, size: usize, seconds: u64) -> io::Result<()> {
    let socket = towards(address)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let (mut sent, mut got) = (vec![b'a'; size.max(HEADER)], vec![0; 65_536]);
    let mut histogram = recorded::empty();
    let end = Instant::now() + Duration::from_secs(seconds);
    let warm_up = (count / 20).clamp(1, 200);
    let (mut lost, mut number) = (0_u64, 0_u64);
    while number < count + warm_up && (Instant::now() < end || histogram.is_empty()) {
        label(&mut sent, 1, number);
        let begun = Instant::now();
        socket.send(&sent)?;
        let answered = answer(&socket, &mut got, number)?;
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match answered {
            true if number >= warm_up => histogram.record(took).map_err(io::Error::other)?,
            true => {}
            false => lost += 1,
        }
        number += 1;
        if histogram.is_empty() && lost > 20 {
            return Err(io::Error::other("no answer to 20 datagrams"));
        }
    }
    println!("lost {lost}");
    recorded::print(&histogram)
}

/// Waits for the answer to `number`; late ones to others are passed over.
fn answer(socket: &UdpSocket, got: &mut [u8], number: u64) -> io::Result<bool> {
    loop {
        match socket.recv(got) {
            Ok(length) if word(&got[..length], 8) == Some(number) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_silence(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number counts once, however far from the others it is.
    #[test]
    fn a_number_counts_once() {
        let mut seen = Vec::new();
        assert!([3, 64, 0, 100_000].into_iter().all(|number| is_new(&mut seen, number)));
        assert!(![3, 64, 0, 100_000].into_iter().any(|number| is_new(&mut seen, number)));
    }
}
