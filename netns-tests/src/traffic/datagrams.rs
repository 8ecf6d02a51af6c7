//! Datagrams: an echo that names its callers, numbered pings, single datagrams of any size, and a
//! flood from many sources.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::wait_for_word;

/// The largest datagram that IPv4 carries.
const DATAGRAM_MAX: usize = 65_507;
/// How long an answer may take, and how often it is asked for again: a datagram may be lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const TRIES: u32 = 5;
/// How long silence must last to be a refusal.
const SILENCE: Duration = Duration::from_secs(2);
/// Callers that an echo names; a flood has more.
const NAMED_MAX: usize = 64;
/// A flood's pause after so many sources, so that queues of the lab's own are not what it meets.
const FLOOD_PAUSE_AFTER: u32 = 64;
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// Sends back whatever comes, and prints `caller ADDRESS` for each new one.
///
/// # Errors
/// When the address is taken.
pub fn echo(at: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    println!("listening on {at}");
    let mut datagram = vec![0; DATAGRAM_MAX];
    let mut callers = BTreeSet::new();
    loop {
        let (length, caller) = match socket.recv_from(&mut datagram) {
            Ok(came) => came,
            // Somebody that was answered is gone.
            Err(error) if is_silence(&error) => continue,
            Err(error) => return Err(error),
        };
        if callers.len() < NAMED_MAX && callers.insert(caller) {
            println!("caller {caller}");
        }
        match socket.send_to(&datagram[..length], caller) {
            Ok(_) | Err(_) => {}
        }
    }
}

/// Sends one datagram of `length` bytes to an echo, and has the same back.
///
/// # Errors
/// When nothing comes, or something else.
pub fn one(to: SocketAddr, length: usize) -> io::Result<()> {
    let socket = towards(to)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let (mut sent, mut got) = (vec![0; length], vec![0; DATAGRAM_MAX + 1]);
    super::fill(&mut sent, 0);
    for _ in 0..TRIES {
        socket.send(&sent)?;
        match socket.recv(&mut got) {
            Ok(came) if got[..came] == sent => {
                println!("echoed {length}");
                return Ok(());
            }
            Ok(came) => return Err(io::Error::other(format!("sent {length}, received {came}"))),
            Err(error) if is_silence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("no answer to {TRIES} datagrams of {length} bytes")))
}

/// Sends datagrams, to which nobody may answer.
///
/// # Errors
/// When somebody does.
pub fn unanswered(to: SocketAddr) -> io::Result<()> {
    let socket = towards(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let end = Instant::now() + SILENCE;
    while Instant::now() < end {
        match socket.send(b"anybody?").and_then(|_| socket.recv(&mut [0; 64])) {
            Ok(_) => return Err(io::Error::other("an answer, where none was expected")),
            Err(error) if is_silence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    println!("unanswered");
    Ok(())
}

/// Numbered pings, one every `every`, until the input ends. Prints `beating` at the first answer, and
/// at the end `sent N answered N twice N gap_ms N`: the gap is the longest time without an answer.
///
/// # Errors
/// When the socket fails.
pub fn beat(to: SocketAddr, every: Duration) -> io::Result<()> {
    let socket = towards(to)?;
    let (enough, told) = mpsc::channel();
    thread::spawn(move || {
        let outcome = wait_for_word();
        // The receiver is gone only when the main thread has failed already.
        drop(enough.send(outcome));
    });
    let (mut due, mut number, mut answered) = (Instant::now(), 0_u64, BTreeMap::new());
    let (mut last, mut gap) = (None, Duration::ZERO);
    let mut got = [0; 64];
    while told.try_recv().is_err() {
        if Instant::now() >= due {
            match socket.send(&number.to_be_bytes()) {
                Ok(_) => {}
                Err(error) if is_silence(&error) => {}
                Err(error) => return Err(error),
            }
            (number, due) = (number + 1, due + every);
        }
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait))?;
        match socket.recv(&mut got) {
            Ok(length) => {
                if answered.is_empty() {
                    println!("beating");
                }
                *answered.entry(got[..length].to_vec()).or_insert(0_u64) += 1;
                gap = gap.max(last.map_or(Duration::ZERO, |last: Instant| last.elapsed()));
                last = Some(Instant::now());
            }
            Err(error) if is_silence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    gap = gap.max(last.map_or(Duration::MAX, |last| last.elapsed()));
    let twice = answered.values().filter(|&&times| times > 1).count();
    let count = answered.len();
    println!("sent {number} answered {count} twice {twice} gap_ms {}", gap.as_millis());
    Ok(())
}

/// Sends one datagram from each of `count` addresses from `first` on, all of which must be this host's.
///
/// # Errors
/// When an address is not.
pub fn flood(to: SocketAddr, first: Ipv4Addr, count: u32) -> io::Result<()> {
    for index in 0..count {
        let source = Ipv4Addr::from(u32::from(first) + index);
        let socket = UdpSocket::bind((IpAddr::V4(source), 0))?;
        match socket.send_to(b"flood", to) {
            Ok(_) | Err(_) => {}
        }
        if index % FLOOD_PAUSE_AFTER == 0 {
            thread::sleep(FLOOD_PAUSE);
        }
    }
    println!("flooded {count}");
    Ok(())
}

pub(super) fn towards(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if to.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0, 0, 0, 0], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Nothing came in time, or an ICMP error that a datagram's sender may meet at any time.
pub(super) fn is_silence(error: &io::Error) -> bool {
    use ErrorKind::{
        ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut,
        WouldBlock,
    };
    let kinds = [
        ConnectionRefused,
        HostUnreachable,
        NetworkUnreachable,
        PermissionDenied,
        TimedOut,
        WouldBlock,
    ];
    kinds.contains(&error.kind())
}
