//! Datagrams: a server that sends them back, and clients that count what comes.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// What a datagram may hold, and more than any does.
const BUFFER: usize = 65_536;
/// How long answers may still come after the last question.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// Sends back what comes, and prints each source when it is first heard.
///
/// # Errors
/// When the address cannot be had.
pub fn echo(at: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    println!("listening");
    let (mut buffer, mut sources) = (vec![0; BUFFER], BTreeSet::new());
    loop {
        // A source that is gone again is told by an ICMP message: nothing to end for.
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if sources.insert(from) {
            println!("heard {from}");
        }
        socket.send_to(&buffer[..len], from).ok();
    }
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Sends `count` numbered datagrams of `size` bytes, one each `every`, and prints how many were
/// answered, how many twice, how many with other bytes, and the longest time without an answer.
///
/// # Errors
/// When there is no socket.
pub fn ping(to: SocketAddr, count: u32, every: Duration, size: usize) -> io::Result<()> {
    let socket = connected(to)?;
    let sender = socket.try_clone()?;
    println!("pinging");
    let start = Instant::now();
    let sending = thread::spawn(move || {
        for number in 0..count {
            let due = start + every * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // Refused while nobody listens, or while the network is down: the next one may arrive.
            sender.send(&question(number, size)).ok();
        }
    });
    let until = start + every * count + STRAGGLERS;
    let (mut seen, mut buffer) = (BTreeSet::new(), vec![0; BUFFER]);
    let (mut twice, mut altered, mut last, mut gap) = (0, 0, start, Duration::ZERO);
    while seen.len() < count as usize {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        let number = buffer.first_chunk().map_or(u32::MAX, |number| u32::from_be_bytes(*number));
        if buffer[..len] != question(number, size) {
            altered += 1;
        } else if !seen.insert(number) {
            twice += 1;
        }
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    sending.join().map_err(|_panic| io::Error::other("the sender panicked"))?;
    println!(
        "answered {} of {count} twice {twice} altered {altered} gap {} ms",
        seen.len(),
        gap.as_millis()
    );
    Ok(())
}

fn question(number: u32, size: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let filler = number.to_le_bytes()[0];
    bytes.resize(size.max(4), filler);
    bytes.truncate(size.max(4));
    bytes
}

/// Asks once for each of `sizes` until it is answered, and prints that all were.
///
/// # Errors
/// When one is not answered in ten seconds, or with other bytes.
pub fn sizes(to: SocketAddr, sizes: &[usize]) -> io::Result<()> {
    let socket = connected(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = vec![0; BUFFER];
    for &size in sizes {
        let bytes: Vec<u8> = (0..size as u64).map(super::pattern_at).collect();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            socket.send(&bytes)?;
            if socket.recv(&mut buffer).is_ok_and(|len| buffer[..len] == bytes) {
                break;
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("{size} bytes are not answered")));
            }
        }
    }
    println!("all answered");
    Ok(())
}

/// Sends one datagram from each of `count` addresses that this host has, `from` being the first.
///
/// # Errors
/// When an address is not this host's.
pub fn crowd(to: SocketAddr, from: Ipv4Addr, count: u32) -> io::Result<()> {
    for number in 0..count {
        let source = Ipv4Addr::from_bits(from.to_bits() + number);
        let socket = UdpSocket::bind((source, 0))?;
        socket.send_to(b"anybody there?", to)?;
    }
    println!("sent {count}");
    Ok(())
}
