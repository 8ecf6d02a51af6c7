//! Connections whose reader has stopped, while the other end sends all it can.

use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netns_tests::{Host, LONG, Process};
use socket2::{Domain, Socket, Type};

use super::{Load, source};
use crate::error::BenchError;

/// The least that makes sense: the kernel doubles it, for its own book-keeping.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024;
/// How long the last of them may take until something has come.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(20);

/// A holder of stalled connections on some host.
#[derive(Debug)]
pub(crate) struct Stalled {
    process: Process,
    /// Orders so far; each is answered with its number.
    orders: usize,
}

impl Stalled {
    /// Starts it; it holds nothing yet.
    pub(crate) fn new(host: &Host<'_>, address: String) -> Result<Self, BenchError> {
        Ok(Self { process: Load::Stalled { address }.spawn_console(host)?, orders: 0 })
    }

    /// Opens `count` connections, and waits for a while until each has something to read, which nobody
    /// does. Returns how many have.
    pub(crate) fn open(&mut self, count: usize) -> Result<usize, BenchError> {
        self.order(&format!("open {count}"))
    }

    /// Closes all of them.
    pub(crate) fn close(&mut self) -> Result<(), BenchError> {
        self.order("close").map(|_| ())
    }

    fn order(&mut self, order: &str) -> Result<usize, BenchError> {
        self.orders += 1;
        self.process.say(order)?;
        let begin = format!("done {} ", self.orders);
        let line = self.process.wait_for_line(&begin, LONG, |line| line.starts_with(&begin))?;
        let begun = line[begin.len()..].parse();
        begun.map_err(|_error| BenchError::unexpected("the stalled connections", line))
    }
}

/// Obeys standard input until it ends.
pub(super) fn run(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let mut held = Vec::new();
    for (line, number) in io::stdin().lock().lines().zip(1..) {
        let line = line?;
        match line.split_once(' ') {
            Some(("open", count)) => {
                let count = count.parse::<usize>().map_err(io::Error::other)?;
                for _ in 0..count {
                    held.push(connect(address)?);
                }
            }
            _ => held.clear(),
        }
        println!("done {number} {}", wait_for_first_bytes(&held)?);
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Before the connection: the window's scale is agreed on with it.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&source::greeting(source::UNREAD))?;
    Ok(stream)
}

/// How many have something to read. One that has not may never have reached the source, or the
/// others have taken what it needed.
fn wait_for_first_bytes(held: &[TcpStream]) -> io::Result<usize> {
    let end = Instant::now() + FIRST_BYTES_WITHIN;
    let mut begun = 0;
    for stream in held {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        // Ended, reset, or without a word: in no such case did it stall.
        begun += usize::from(matches!(stream.peek(&mut [0]), Ok(1..)));
    }
    Ok(begun)
}
