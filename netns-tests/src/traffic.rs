//! What `lab-peer` does: the clients and servers that real programs cannot stand in for.
//!
//! Blocking sockets, a thread for each connection, results as one line of text each. Streams carry
//! a pattern that depends on the position, so that a lost, doubled or misplaced byte shows.

pub mod abuse;
pub mod client;
pub mod crowd;
pub mod datagrams;
pub mod latency;
pub mod registrations;
pub mod server;
pub mod strangers;
pub mod swarm;

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// How much is read or written at once.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The byte at `offset` of every stream.
fn pattern_at(offset: u64) -> u8 {
    let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[1]
}

/// Writes the first `bytes` of the pattern.
pub(crate) fn write_pattern(stream: &mut impl Write, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < bytes {
        let length = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
        fill(&mut chunk[..length], sent);
        stream.write_all(&chunk[..length])?;
        sent += length as u64;
    }
    Ok(())
}

/// Reads to the end of the stream, and returns how many bytes came; they must be the pattern.
pub(crate) fn read_pattern(stream: &mut impl Read) -> io::Result<u64> {
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut received = 0;
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(received);
        }
        fill(&mut expected[..length], received);
        if chunk[..length] != expected[..length] {
            let wrong = (0..length).find(|&index| chunk[index] != expected[index]).unwrap_or(0);
            let at = received + wrong as u64;
            return Err(io::Error::other(format!("wrong byte at offset {at}")));
        }
        received += length as u64;
    }
}

fn fill(chunk: &mut [u8], offset: u64) {
    for (byte, at) in chunk.iter_mut().zip(offset..) {
        *byte = pattern_at(at);
    }
}

/// Closes with a reset: whatever is unsent is discarded.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Waits until standard input ends: until the test says "enough".
pub(crate) fn wait_for_word() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ())
}
