//! One thread and one ring: a receive into buffers that the kernel picks, a send of the same buffers, and
//! again.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use adit_ring::{
    Completion, Features, Group, Layout, Memory, Received, Ring, SendHow, Slice, Socket, Token,
    probe,
};
use nix::errno::Errno;

/// 512 KiB that are used again and again stay in a core's cache.
const SINGLE: Layout =
    Layout { headroom: 0, payload: 64 * 1024, tailroom: 0, buffers: 16, published: 8 };
const BUNDLE: Layout =
    Layout { headroom: 0, payload: 16 * 1024, tailroom: 0, buffers: 64, published: 32 };
/// 256 KiB.
const BUNDLE_BUFFERS: usize = 16;
/// Names the listener; directions are named by their place.
const LISTENER: Token = Token(u64::MAX);

/// One direction.
struct Half {
    from: Socket,
    to: Socket,
    /// Whether its end, or the flow's failure, has been passed on.
    is_done: bool,
}

struct Hop {
    ring: Ring,
    group: Group,
    buffers_max: usize,
    to: SocketAddr,
    /// The other direction of one at an even place is at the next.
    halves: Vec<Option<Half>>,
    /// Those that found no free buffer.
    starved: Vec<usize>,
}

/// Serves until it is killed.
pub(super) fn serve(listener: TcpListener, to: SocketAddr, is_bundle: bool) -> io::Result<()> {
    let offered = probe().map_err(io::Error::other)?;
    if is_bundle && !offered.bundles {
        return Err(io::Error::other("this kernel has no bundles that work: Linux 6.10 is needed"));
    }
    let mut ring = Ring::new(Features { bundles: is_bundle }).map_err(io::Error::other)?;
    let group =
        ring.add_group(if is_bundle { BUNDLE } else { SINGLE }).map_err(io::Error::other)?;
    let listener = Socket::from(OwnedFd::from(listener));
    ring.accept(&listener, LISTENER);
    let buffers_max = if is_bundle { BUNDLE_BUFFERS } else { 1 };
    let (halves, starved) = (Vec::new(), Vec::new());
    let mut hop = Hop { ring, group, buffers_max, to, halves, starved };
    loop {
        hop.ring.submit_and_wait(None)?;
        while let Some((token, completion)) = hop.ring.next_completion() {
            hop.handle(token, completion, &listener)?;
        }
    }
}

impl Hop {
    fn handle(
        &mut self,
        token: Token,
        completion: Completion,
        listener: &Socket,
    ) -> io::Result<()> {
        let at = usize::try_from(token.0).unwrap_or(usize::MAX);
        match completion {
            Completion::Accepted(result, more) => {
                self.join(result?)?;
                if !more {
                    self.ring.accept(listener, LISTENER);
                }
            }
            Completion::Received(Ok(received)) if received.is_empty() => self.end(at, true),
            Completion::Received(Ok(received)) => self.send(at, received),
            Completion::Received(Err(error)) if is_starved(&error) => self.starved.push(at),
            Completion::Sent { result, slices } => {
                drop(slices);
                match result {
                    Ok(_) => self.receive(at),
                    Err(_) => self.end(at, false),
                }
                // Buffers are back.
                for at in std::mem::take(&mut self.starved) {
                    self.receive(at);
                }
            }
            Completion::Received(Err(_)) => self.end(at, false),
            Completion::Connected(_)
            | Completion::Message { .. }
            | Completion::Writable(_)
            | Completion::Woken => {}
        }
        Ok(())
    }

    /// Connects inside, and begins in both directions.
    fn join(&mut self, outside: Socket) -> io::Result<()> {
        let inside = TcpStream::connect(self.to)?;
        let inside = Socket::from(OwnedFd::from(inside));
        outside.set_nodelay()?;
        inside.set_nodelay()?;
        let free = self.halves.chunks(2).position(|pair| pair.iter().all(Option::is_none));
        let at = free.map_or(self.halves.len(), |pair| 2 * pair);
        if at == self.halves.len() {
            self.halves.extend([None, None]);
        }
        let half = |from: &Socket, to: &Socket| {
            Some(Half { from: from.clone(), to: to.clone(), is_done: false })
        };
        self.halves[at] = half(&outside, &inside);
        self.halves[at + 1] = half(&inside, &outside);
        self.receive(at);
        self.receive(at + 1);
        Ok(())
    }

    fn receive(&mut self, at: usize) {
        let Some(Some(half)) = self.halves.get(at) else { return };
        self.ring.recv(&half.from, self.group, self.buffers_max, Token(at as u64));
    }

    /// All of it, before more is received.
    fn send(&mut self, at: usize, received: Received) {
        let Some(Some(half)) = self.halves.get(at) else { return };
        let slice = |buffer: adit_ring::Buffer| {
            let payload = buffer.payload();
            Slice::from_memory(&Rc::new(Memory::from(buffer)), payload)
        };
        let slices = received.into_iter().map(slice).collect();
        self.ring.send(&half.to, slices, SendHow::Whole, Token(at as u64));
    }

    /// Passes the end on, or ends both directions after a failure. The last to go closes the sockets.
    fn end(&mut self, at: usize, is_orderly: bool) {
        let Some(Some(half)) = self.halves.get_mut(at) else { return };
        half.is_done = true;
        let shut = if is_orderly { half.to.shutdown_write() } else { half.to.shutdown_both() };
        let is_over = shut.is_err() || !is_orderly;
        if is_over && half.from.shutdown_both().is_err() {
            // The other end is gone already.
        }
        let pair = at & !1;
        let is_done = |half: &Option<Half>| half.as_ref().is_none_or(|half| half.is_done);
        if self.halves[pair..pair + 2].iter().all(is_done) {
            self.halves[pair..pair + 2].fill_with(|| None);
        }
    }
}

fn is_starved(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}
