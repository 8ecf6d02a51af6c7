//! Listens, and becomes another program with the first connection as its input and output.
//!
//! For sshd, which otherwise begins a session (setsid(2)) for each connection: where the kernel shares
//! processors out by session (sched(7), autogroup), it would wait milliseconds for what spins in the bench's
//! own, and `SCHED_IDLE` yields within a session alone.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Waits for the connection; returns only when the program cannot be started.
pub(super) fn run(port: u16, command: &[String]) -> io::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::other("no program"));
    };
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let (stream, _) = listener.accept()?;
    drop(listener);
    let input = OwnedFd::from(stream);
    let output = input.try_clone()?;
    Err(Command::new(program).args(arguments).stdin(input).stdout(output).exec())
}
