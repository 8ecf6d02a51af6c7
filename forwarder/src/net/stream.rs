//! A TCP connection, for as long as the control plane has it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_ring::{PathSample, Socket};
use tokio_uring::net::TcpStream;

use super::leave::connect;

/// A connection; dropping it closes it, with whatever still waits for it.
pub struct Stream {
    inner: TcpStream,
    remote: SocketAddr,
    /// What was read before the stream was one; the first that is read from it.
    early: RefCell<Vec<u8>>,
    is_handed_over: bool,
}

impl Stream {
    pub(super) fn new(inner: TcpStream, remote: SocketAddr) -> Self {
        Self { inner, remote, early: RefCell::default(), is_handed_over: false }
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
        Self::from_tokio(connect(remote, None, None, time_max).await?, remote, Vec::new())
    }

    /// Takes over a connection that tokio has had until now, with what was read from it already.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn from_tokio(
        stream: tokio::net::TcpStream,
        remote: SocketAddr,
        early: Vec<u8>,
    ) -> io::Result<Self> {
        let stream = stream.into_std()?;
        // The ring answers "try again" on a socket that does not block, instead of waiting.
        stream.set_nonblocking(false)?;
        let stream = Self::new(TcpStream::from_std(stream), remote);
        stream.early.replace(early);
        Ok(stream)
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Reads into `buffer`, which comes back with what was read; 0 bytes mean the end.
    pub async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let len = self.read_early(&mut buffer);
        if len > 0 {
            return (Ok(len), buffer);
        }
        self.inner.read(buffer).await
    }

    fn read_early(&self, buffer: &mut [u8]) -> usize {
        let mut early = self.early.borrow_mut();
        let len = early.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(early.drain(..len)) {
            *to = from;
        }
        len
    }

    /// What was read before the stream was one, and not since.
    pub(super) fn take_early(&self) -> Vec<u8> {
        self.early.take()
    }

    /// Something that tells how the connection's segments fare, while others use the stream.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn watch(&self) -> io::Result<Watch> {
        Ok(Watch(Socket::from(adit_ring::duplicate(&self.inner)?)))
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

/// How a connection's segments fare.
#[derive(Debug)]
pub struct Watch(Socket);

impl Watch {
    /// As the kernel sees it now; nothing when the connection is gone.
    pub fn sample(&self) -> Option<PathSample> {
        self.0.path().ok()
    }
}
