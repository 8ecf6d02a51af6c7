//! One hop between two connections, in five ways, each in one process: what moving bytes costs with each
//! interface of the kernel, without anything of Adit's but its ring.
//!
//! All take 64 KiB or more with a call, have Nagle off, and connect inside while they accept: what is compared
//! is the moving.

mod blocking;
mod epoll;
mod ring;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use clap::ValueEnum;

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Hop {
    /// Two threads for each flow, read(2) and write(2).
    Blocking,
    /// One thread, epoll(7), read(2) and write(2).
    Epoll,
    /// One thread, one io_uring, one buffer a receive.
    Single,
    /// One thread, one io_uring, bundles of buffers.
    Bundle,
    /// Two threads for each flow, splice(2) through a pipe.
    Splice,
}

impl Hop {
    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Epoll => "epoll",
            Self::Single => "single",
            Self::Bundle => "bundle",
            Self::Splice => "splice",
        }
    }

    /// Its name in a report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Blocking => "blocking, 2 threads a flow",
            Self::Epoll => "epoll",
            Self::Single => "io_uring, single-shot",
            Self::Bundle => "io_uring, bundles",
            Self::Splice => "splice, 2 threads a flow",
        }
    }
}

/// Hops from `port` to `to` until it is killed.
pub(super) fn serve(hop: Hop, port: u16, to: &str) -> io::Result<()> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    match hop {
        Hop::Blocking => blocking::serve(&listener, to, blocking::copy),
        Hop::Splice => blocking::serve(&listener, to, blocking::splice),
        Hop::Epoll => epoll::serve(&listener, to),
        Hop::Single => ring::serve(listener, to, false),
        Hop::Bundle => ring::serve(listener, to, true),
    }
}

/// The connection inside, and both without Nagle's delay.
fn connect(outside: &TcpStream, to: SocketAddr) -> io::Result<TcpStream> {
    let inside = TcpStream::connect(to)?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::sync::atomic::{AtomicU16, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Sends back what comes, to the end of it.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut &stream, &mut &stream).unwrap());
            }
        });
        address
    }

    /// A port that was free a moment ago, below those that the kernel gives to connections: whoever waits
    /// for it to listen must not meet himself.
    fn free_port() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(30_100);
        let next = || NEXT.fetch_add(1, Ordering::Relaxed);
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        std::iter::repeat_with(next).take(1_000).find(is_free).unwrap()
    }

    fn connect_soon(port: u16) -> TcpStream {
        for _ in 0..500 {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return stream;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody listens on {port}");
    }

    /// Whatever moves them, the bytes come back whole and in order, on flows beside each other, and the end comes
    /// after them.
    #[test]
    fn every_hop_carries_all_bytes_and_the_end() {
        let to = echo().to_string();
        for hop in Hop::value_variants().iter().copied() {
            let (port, to) = (free_port(), to.clone());
            thread::spawn(move || serve(hop, port, &to));
            let flows: Vec<_> = (0..4_u32)
                .map(|flow| {
                    let stream = connect_soon(port);
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let sent: Vec<u8> =
                        (0..1_000_000_u32).flat_map(|at| (at ^ flow).to_be_bytes()).collect();
                    thread::spawn(move || {
                        let mut writer = stream.try_clone().unwrap();
                        let copy = sent.clone();
                        let writing = thread::spawn(move || {
                            writer.write_all(&copy).unwrap();
                            writer.shutdown(Shutdown::Write).unwrap();
                        });
                        let mut got = Vec::new();
                        (&stream).read_to_end(&mut got).unwrap();
                        writing.join().unwrap();
                        got == sent
                    })
                })
                .collect();
            for flow in flows {
                assert!(flow.join().unwrap(), "{hop:?}");
            }
        }
    }
}
