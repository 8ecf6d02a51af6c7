//! Single messages over a connection that has had its handshake, for what is too short to be a
//! tunnel. Whoever waits sets the deadline.

use std::io;
use std::net::SocketAddr;

use adit_proto::id::Side;

use super::{Stream, Watch};
use crate::handoff::Carrier;
use crate::tls::{MessageError, Messages};

/// What one read may bring.
const READ_BYTES: usize = 4 * 1024;
/// Reads that the other end's farewell may take.
const FAREWELL_READS_MAX: usize = 16;

/// One end of an exchange.
#[derive(Debug)]
pub struct Exchange {
    stream: Stream,
    messages: Messages,
}

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl Exchange {
    /// Takes over from a handshake. `side` is ours.
    pub fn new(side: Side, carrier: Carrier) -> Self {
        let stream = Stream::from_fd(carrier.stream, carrier.remote);
        Self { stream, messages: Messages::new(side, carrier.records, carrier.leftover) }
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.stream.remote()
    }

    /// Something that tells how the connection's segments fare.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn watch(&self) -> io::Result<Watch> {
        self.stream.watch()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When it is too long, or the connection is gone.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), ExchangeError> {
        let record = self.messages.seal(message)?;
        Ok(self.stream.write_all(record).await?)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When none comes, or what comes is none.
    pub async fn receive(&mut self) -> Result<Vec<u8>, ExchangeError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut received: &[u8] = &[];
        loop {
            if let Some(message) = self.messages.handle_bytes(received)? {
                return Ok(message);
            }
            let (read, returned) = self.stream.read(buffer).await;
            buffer = returned;
            received = match read? {
                0 => return Err(MessageError::Closed.into()),
                len => buffer.get(..len).unwrap_or_default(),
            };
        }
    }

    /// Says that no more comes, and waits for the other end to close: closing over unread bytes
    /// would send a reset, which may overtake the last message.
    ///
    /// # Errors
    /// When the connection is gone, or the other end goes on talking.
    pub async fn finish(self) -> io::Result<()> {
        self.stream.shutdown_write()?;
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..FAREWELL_READS_MAX {
            let (read, returned) = self.stream.read(buffer).await;
            buffer = returned;
            if read? == 0 {
                return Ok(());
            }
        }
        Err(io::Error::other("the other end goes on talking"))
    }
}
