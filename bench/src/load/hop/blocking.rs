//! Two threads for each flow.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::unistd::pipe2;

use super::connect;

/// What one call moves.
const BUFFER_BYTES: usize = 64 * 1024;
/// What a pipe may hold: its largest for who is not root.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Moves one direction to its end.
type Mover = fn(&TcpStream, &TcpStream) -> io::Result<()>;

/// Serves until it is killed.
pub(super) fn serve(listener: &TcpListener, to: SocketAddr, mover: Mover) -> io::Result<()> {
    for outside in listener.incoming() {
        let outside = outside?;
        let inside = Arc::new(connect(&outside, to)?);
        let outside = Arc::new(outside);
        for (from, to) in [(&outside, &inside), (&inside, &outside)] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            thread::spawn(move || {
                // A flow that fails ends, both ways; it is the ends' affair.
                let how = if mover(&from, &to).is_ok() { Shutdown::Write } else { Shutdown::Both };
                to.shutdown(how)
            });
        }
    }
    Ok(())
}

/// By read and write.
pub(super) fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
    }
}

/// Through a pipe, without a copy where the kernel can.
pub(super) fn splice(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (out, into) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(into.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
    let room = usize::try_from(PIPE_BYTES).unwrap_or(BUFFER_BYTES);
    let flags = SpliceFFlags::SPLICE_F_MOVE;
    loop {
        let mut left = nix::fcntl::splice(from, None, &into, None, room, flags)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            left -= nix::fcntl::splice(&out, None, to, None, left, flags)?;
        }
    }
}
