//! Sends without end. Each connection begins with eight bytes: how many bytes per second it wants.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// Asks for as much as goes.
pub(super) const UNBOUNDED: u64 = 0;
/// Asks for as much as goes, with a small buffer at the source: for thousands that never read.
pub(super) const UNREAD: u64 = u64::MAX;

/// Enough for a few words; thousands of connections have a thread each.
const STACK_BYTES: usize = 64 * 1024;
/// How often a paced connection gets its share: often, so that a gap shows as one.
const TICK: Duration = Duration::from_millis(5);
/// What one write takes.
const CHUNK: usize = 64 * 1024;
/// The kernel doubles it, for its own book-keeping.
const UNREAD_BUFFER_BYTES: usize = 8 * 1024;

static ZEROES: [u8; CHUNK] = [0; CHUNK];

/// The first bytes of a connection.
pub(super) fn greeting(bytes_per_second: u64) -> [u8; 8] {
    bytes_per_second.to_be_bytes()
}

/// Serves until it is killed.
pub(super) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        // One connection that fails is the other end's affair.
        let Ok(stream) = stream else { continue };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || send(stream))?;
    }
    Ok(())
}

/// Sends until the other end is gone, which is how every connection ends.
fn send(mut stream: TcpStream) {
    let mut greeting = [0; 8];
    if stream.set_nodelay(true).is_err() || stream.read_exact(&mut greeting).is_err() {
        return;
    }
    match u64::from_be_bytes(greeting) {
        UNBOUNDED => while stream.write_all(&ZEROES).is_ok() {},
        UNREAD => {
            let narrowed = SockRef::from(&stream).set_send_buffer_size(UNREAD_BUFFER_BYTES);
            if narrowed.is_ok() {
                while stream.write_all(&ZEROES).is_ok() {}
            }
        }
        bytes_per_second => send_paced(&stream, bytes_per_second),
    }
}

/// What could not be sent in time is not made up for: a gap shall not be followed by a burst.
fn send_paced(mut stream: &TcpStream, bytes_per_second: u64) {
    let ticks = u64::try_from(Duration::from_secs(1).as_nanos() / TICK.as_nanos()).unwrap_or(1);
    let share = usize::try_from(bytes_per_second / ticks).unwrap_or(CHUNK).clamp(1, CHUNK);
    while stream.write_all(&ZEROES[..share]).is_ok() {
        thread::sleep(TICK);
    }
}
