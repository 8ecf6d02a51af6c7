//! A TCP connection, for as long as the control plane has it.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio_uring::net::TcpStream;

/// A connection; dropping it closes it, with whatever still waits for it.
pub struct Stream {
    inner: TcpStream,
    remote: SocketAddr,
    is_handed_over: bool,
}

impl Stream {
    pub(super) fn new(inner: TcpStream, remote: SocketAddr) -> Self {
        Self { inner, remote, is_handed_over: false }
    }

    /// Takes a connection over from whoever had it.
    pub(super) fn from_fd(descriptor: OwnedFd, remote: SocketAddr) -> Self {
        Self::new(TcpStream::from_std(descriptor.into()), remote)
    }

    /// Connects to `remote` within `time_max`. An attempt that is given up is closed at once.
    ///
    /// # Errors
    /// When nobody answers there, or not in time.
    pub async fn connect(remote: SocketAddr, time_max: Duration) -> io::Result<Self> {
        // Not the ring's connect: given up, it would stay in the kernel until its retries are
        // spent, which takes two minutes.
        let connecting = tokio::net::TcpStream::connect(remote);
        let Ok(connected) = tokio::time::timeout(time_max, connecting).await else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        let stream = connected?.into_std()?;
        // The ring answers "try again" on a socket that does not block, instead of waiting.
        stream.set_nonblocking(false)?;
        Ok(Self::new(TcpStream::from_std(stream), remote))
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Reads into `buffer`, which comes back with what was read; 0 bytes mean the end.
    pub async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.inner.read(buffer).await
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.inner.write_all(bytes).await.0
    }

    /// Tells the other end that no more comes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.inner.shutdown(Shutdown::Write)
    }

    /// Gives the descriptor up. No operation may be pending: it would take bytes from whoever
    /// has the descriptor then.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn into_fd(mut self) -> io::Result<OwnedFd> {
        let descriptor = adit_ring::duplicate(&self.inner)?;
        self.is_handed_over = true;
        Ok(descriptor)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_handed_over {
            // A read that was given up (a deadline) keeps the descriptor until it completes, and
            // with a silent peer that is never; this completes it. An error means that the
            // connection is gone already.
            self.inner.shutdown(Shutdown::Both).ok();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("remote", &self.remote).finish_non_exhaustive()
    }
}
