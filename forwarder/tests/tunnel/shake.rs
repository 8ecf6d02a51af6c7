//! A TLS handshake that blocks, for tests of both programs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use adit::handoff::Carrier;
use adit::tls::Handshake;

/// Shakes hands over a blocking stream.
pub(crate) fn shake(mut handshake: Handshake, mut stream: TcpStream) -> Carrier {
    let mut buffer = [0; 4096];
    loop {
        while let Some(bytes) = handshake.poll_transmit() {
            stream.write_all(&bytes).unwrap();
        }
        if handshake.is_done() {
            break;
        }
        let len = stream.read(&mut buffer).unwrap();
        handshake.handle_bytes(&buffer[..len]).unwrap();
    }
    let done = handshake.finish().unwrap();
    let remote = stream.peer_addr().unwrap();
    Carrier {
        stream: OwnedFd::from(stream),
        records: done.records,
        leftover: done.leftover,
        remote,
        peer: done.peer,
    }
}
