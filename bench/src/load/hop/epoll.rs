//! One thread that is told what is ready.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connect;

/// What one call moves.
const BUFFER_BYTES: usize = 64 * 1024;
/// Calls that a flow may make before the others have their turn.
const CALLS_MAX: usize = 16;
/// Events that are told at once.
const EVENTS_MAX: usize = 64;
/// Names the listener; flows are named by their place.
const LISTENER: u64 = u64::MAX;

/// One direction, and what it has read and not yet written.
struct Half {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_ended: bool,
    is_done: bool,
}

struct Flow {
    streams: [TcpStream; 2],
    halves: [Half; 2],
}

/// Serves until it is killed.
pub(super) fn serve(listener: &TcpListener, to: SocketAddr) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    listener.set_nonblocking(true)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut flows: Vec<Option<Flow>> = Vec::new();
    let mut ready = VecDeque::new();
    let mut events = [EpollEvent::empty(); EVENTS_MAX];
    loop {
        let timeout = if ready.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let count = match epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in &events[..count] {
            match usize::try_from(event.data()) {
                Ok(at) if event.data() != LISTENER => ready.push_back(at),
                _ => accept(listener, to, &epoll, &mut flows)?,
            }
        }
        // Those that are not through come again after the others, and after new events.
        for _ in 0..ready.len() {
            let Some(at) = ready.pop_front() else { break };
            let Some(place) = flows.get_mut(at) else { continue };
            let Some(flow) = place else { continue };
            match flow.turn() {
                Turn::More => ready.push_back(at),
                Turn::Waits => {}
                Turn::Done => *place = None,
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    to: SocketAddr,
    epoll: &Epoll,
    flows: &mut Vec<Option<Flow>>,
) -> io::Result<()> {
    let outside = match listener.accept() {
        Ok((outside, _)) => outside,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    let streams = [connect(&outside, to)?, outside];
    let at = flows.iter().position(Option::is_none).unwrap_or(flows.len());
    let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
    for stream in &streams {
        stream.set_nonblocking(true)?;
        epoll.add(stream, EpollEvent::new(both | EpollFlags::EPOLLET, at as u64))?;
    }
    let flow = Flow { streams, halves: [Half::new(), Half::new()] };
    match flows.get_mut(at) {
        Some(place) => *place = Some(flow),
        None => flows.push(Some(flow)),
    }
    Ok(())
}

/// What a turn left.
enum Turn {
    More,
    Waits,
    Done,
}

impl Flow {
    fn turn(&mut self) -> Turn {
        let [inside, outside] = &self.streams;
        let [inwards, outwards] = &mut self.halves;
        let turns = [inwards.turn(outside, inside), outwards.turn(inside, outside)];
        let [Ok(first), Ok(second)] = turns else { return Turn::Done };
        match (inwards.is_done && outwards.is_done, first || second) {
            (true, _) => Turn::Done,
            (false, true) => Turn::More,
            (false, false) => Turn::Waits,
        }
    }
}

impl Half {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, is_ended: false, is_done: false }
    }

    /// Moves what goes; says whether there may be more at once.
    fn turn(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<bool> {
        for _ in 0..CALLS_MAX {
            let moved = match (self.start < self.end, self.is_ended) {
                (true, _) => {
                    to.write(&self.buffer[self.start..self.end]).map(|length| self.start += length)
                }
                (false, true) => {
                    if !self.is_done {
                        to.shutdown(Shutdown::Write)?;
                        self.is_done = true;
                    }
                    return Ok(false);
                }
                (false, false) => from.read(&mut self.buffer).map(|length| {
                    (self.start, self.end, self.is_ended) = (0, length, length == 0);
                }),
            };
            match moved {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                moved => moved?,
            }
        }
        Ok(true)
    }
}
