//! What strangers send to a tunnel's port.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// A way to misuse the tunnel's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Abuse {
    /// Bytes that are no TLS.
    Garbage,
    /// A record that promises more than it brings, then the end.
    Truncated,
    /// A record longer than any TLS record may be.
    Oversized,
    /// A record that begins well and goes on byte by byte.
    SlowLoris,
    /// A connection that never says anything.
    Silent,
}

/// Commits `abuse`, and prints `closed in N ms` when the other side has enough.
///
/// # Errors
/// When it puts up with it for longer than `within`.
pub fn commit(to: SocketAddr, abuse: Abuse, within: Duration) -> io::Result<()> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, within)?;
    let opening: Vec<u8> = match abuse {
        Abuse::Garbage => {
            (0..4096_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
        }
        Abuse::Truncated => [&[0x16, 3, 1, 2, 0], &[1; 100][..]].concat(),
        Abuse::Oversized => [&[0x16, 3, 1, 0xff, 0xff], &[1; 0xffff][..]].concat(),
        Abuse::SlowLoris => vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        Abuse::Silent => Vec::new(),
    };
    // The other side may close while we still write: that is a close like any other.
    let mut closed = stream.write_all(&opening).is_err();
    if abuse == Abuse::Truncated && stream.shutdown(Shutdown::Write).is_err() {
        closed = true;
    }
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut answer = [0; 1024];
    while !closed {
        if started.elapsed() > within {
            return Err(io::Error::other(format!("still open after {} s", within.as_secs())));
        }
        closed = match stream.read(&mut answer) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
            ),
        };
        if abuse == Abuse::SlowLoris && !closed {
            closed = stream.write_all(&[0]).is_err();
            thread::sleep(Duration::from_millis(20));
        }
    }
    println!("closed in {} ms", started.elapsed().as_millis());
    Ok(())
}
