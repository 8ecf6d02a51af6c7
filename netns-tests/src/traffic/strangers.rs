//! Strangers in numbers, from several networks at once: what a tunnel's port has to bear.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::wait_for_word;

/// How long one connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Connections that one source holds; beyond it the oldest goes.
const HELD_MAX: usize = 512;
/// How a handshake begins: a record that promises a `ClientHello` of 508 bytes.
const OPENING: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
/// A slow one sends a byte so often …
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// … and looks so often whether it has been closed …
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// … for so long.
const DAWDLE_MAX: Duration = Duration::from_secs(60);

/// The address at the same place in the network of 256 addresses that is `index` further on.
fn neighbour(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first).saturating_add(index << 8))
}

fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), CONNECT_MAX)?;
    Ok(socket.into())
}

/// Opens `count` connections from addresses of so many networks, each with the beginning of a
/// handshake, and more of them until `lasting` is over; prints `flooded N in_ms N`, and keeps what it
/// holds until the input ends.
///
/// # Errors
/// When an address is not this host's, or nothing listens.
pub fn flood(
    to: SocketAddr,
    first: Ipv4Addr,
    networks: u32,
    count: u32,
    lasting: Duration,
) -> io::Result<()> {
    println!("flooding");
    let begun = Instant::now();
    let flooding: Vec<_> = (0..networks)
        .map(|index| {
            let (source, until) = (neighbour(first, index), begun + lasting);
            thread::spawn(move || flood_from(source, to, count / networks, until))
        })
        .collect();
    let (mut held, mut made) = (Vec::new(), 0);
    for source in flooding {
        let source = source.join().map_err(|_panic| io::Error::other("a thread panicked"))?;
        let (count, streams) = source?;
        made += count;
        held.push(streams);
    }
    println!("flooded {made} in_ms {}", begun.elapsed().as_millis());
    wait_for_word()?;
    drop(held);
    Ok(())
}

fn flood_from(
    source: Ipv4Addr,
    to: SocketAddr,
    count: u32,
    until: Instant,
) -> io::Result<(u32, VecDeque<TcpStream>)> {
    let (mut made, mut held) = (0, VecDeque::new());
    while made < count || Instant::now() < until {
        made += 1;
        let mut stream = connect_from(source, to)?;
        // The other side may have closed it already, which is its right.
        stream.write_all(&OPENING).ok();
        held.push_back(stream);
        if held.len() > HELD_MAX {
            held.pop_front();
        }
    }
    Ok((made, held))
}

/// A handshake that comes byte by byte.
#[derive(Debug)]
struct Slow {
    stream: TcpStream,
    begun: Instant,
    said: Instant,
}

impl Slow {
    fn begin(source: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let mut stream = connect_from(source, to)?;
        stream.set_nonblocking(true)?;
        stream.write_all(&OPENING)?;
        Ok(Self { stream, begun: Instant::now(), said: Instant::now() })
    }

    /// Says the next byte when it is due; returns whether the other side has had enough.
    fn go_on(&mut self) -> bool {
        let closed = match self.stream.read(&mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        if closed || self.said.elapsed() < BYTE_EVERY {
            return closed;
        }
        self.said = Instant::now();
        self.stream.write_all(&[0]).is_err()
    }
}

/// Begins `count` handshakes from addresses of so many networks, prints `dawdling N`, goes on with
/// each by a byte a second, and prints `closed N shortest_ms N longest_ms N`: how long each was
/// put up with.
///
/// # Errors
/// When one is put up with for a minute.
pub fn dawdle(to: SocketAddr, first: Ipv4Addr, networks: u32, count: u32) -> io::Result<()> {
    let begin = |index| Slow::begin(neighbour(first, index % networks), to);
    let mut open = (0..count).map(begin).collect::<io::Result<Vec<_>>>()?;
    println!("dawdling {count}");
    let (begun, mut lives) = (Instant::now(), Vec::new());
    while !open.is_empty() {
        if begun.elapsed() > DAWDLE_MAX {
            return Err(io::Error::other(format!("{} are still open", open.len())));
        }
        open.retain_mut(|slow| {
            let closed = slow.go_on();
            if closed {
                lives.push(slow.begun.elapsed().as_millis());
            }
            !closed
        });
        thread::sleep(LOOK_EVERY);
    }
    let (shortest, longest) = (lives.iter().min(), lives.iter().max());
    let (shortest, longest) = (shortest.copied().unwrap_or(0), longest.copied().unwrap_or(0));
    println!("closed {} shortest_ms {shortest} longest_ms {longest}", lives.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stranger comes from a network of its own.
    #[test]
    fn neighbours_are_a_network_apart() {
        let first = Ipv4Addr::new(198, 18, 0, 1);
        assert_eq!(neighbour(first, 0), first);
        assert_eq!(neighbour(first, 15), Ipv4Addr::new(198, 18, 15, 1));
    }
}
