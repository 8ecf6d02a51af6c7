//! Connections whose reader has stopped, while the other end sends all it can.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netns_tests::Host;
use socket2::{Domain, Socket, Type};

use super::orders::{Orders, obey};
use super::{Load, source};
use crate::error::BenchError;

/// The least that makes sense: the kernel doubles it, for its own book-keeping.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024;
/// How long the last of them may take until something has come.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(20);

/// A holder of stalled connections on some host.
#[derive(Debug)]
pub(crate) struct Stalled(Orders);

impl Stalled {
    /// Starts it; it holds nothing yet.
    pub(crate) fn new(host: &Host<'_>, address: String) -> Result<Self, BenchError> {
        Ok(Self(Orders::to(Load::Stalled { address }.spawn_console(host)?)))
    }

    /// Opens `count` connections, and waits for a while until each has something to read, which
    /// nobody does. Returns how many have.
    pub(crate) fn open(&mut self, count: usize) -> Result<usize, BenchError> {
        let begun = self.0.open(count)?;
        let said = |_error| BenchError::unexpected("the stalled connections", begun.clone());
        begun.parse().map_err(said)
    }

    /// Closes all of them.
    pub(crate) fn close(&mut self) -> Result<(), BenchError> {
        self.0.close()
    }
}

/// Obeys standard input until it ends.
pub(super) fn run(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    obey(
        |count| (0..count).map(|_| connect(address)).collect(),
        |held| Ok(wait_for_first_bytes(held)?.to_string()),
    )
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
