//! What comes of an operation.

use std::io;

use crate::buffer::Buffer;
use crate::message::Message;
use crate::slice::SliceList;
use crate::socket::Socket;

/// The caller's own name for an operation; it comes back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a receive brought, in order; nothing when the other end has sent its last byte.
pub type Received = Vec<Buffer>;

/// What came of an operation. A cancelled one ends with `ECANCELED`.
#[derive(Debug)]
pub enum Completion {
    /// A connection came in; false when the accept has to be armed again.
    Accepted(io::Result<Socket>, bool),
    /// The connect has ended.
    Connected(io::Result<()>),
    /// Bytes came. `ENOBUFS` says that the group was empty: arm again when buffers are back.
    Received(io::Result<Received>),
    /// A UDP socket has brought something; false when the receive has to be armed again.
    Message {
        /// What. `ENOBUFS` says that the group was empty.
        result: io::Result<Message>,
        /// Whether more will come.
        more: bool,
    },
    /// The send has ended; its slices come back.
    Sent {
        /// How many bytes the socket took.
        result: io::Result<usize>,
        /// What was sent.
        slices: SliceList,
    },
    /// The socket can be written to, or has failed.
    Writable(io::Result<()>),
    /// Somebody called [`crate::Waker::wake`].
    Woken,
}
