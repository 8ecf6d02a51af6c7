//! Adit's io_uring substrate: a safe interface to one ring of one thread.
//!
//! What the kernel is lent, it keeps until the operation's last completion: buffers belong to the
//! in-flight table or to a group meanwhile, and sockets stay open. That is what makes the interface safe.
//!
//! Deliberately absent: futures, splice and shutdown as operations (they always go through a
//! worker thread), SQPOLL, zero-copy sends, direct descriptors, more than one backend.
//!
//! The order of calls: [`probe()`] once; [`Ring::new`] in the thread that will use it;
//! [`Ring::add_group`]; then, turn by turn, ask for operations, [`Ring::submit_and_wait`], and
//! [`Ring::next_completion`] until there is none.

mod buffer;
mod completion;
mod group;
mod in_flight;
mod message;
mod passing;
mod pool;
mod probe;
mod refusal;
mod ring;
mod slice;
mod socket;
mod target;
mod waker;

pub use buffer::{Buffer, Memory};
pub use completion::{Completion, Received, Token};
pub use group::Group;
pub use message::{Envelope, MESSAGE_ROOM, Message};
pub use passing::{PACKET_MAX, PASSED_MAX, pass, passage, receive_passed};
pub use pool::{Layout, Pool};
pub use probe::{Features, probe};
pub use refusal::Refusal;
pub use ring::{Ring, SendHow};
pub use slice::{Slice, SliceList};
pub use socket::{LineSample, PathSample, Socket, duplicate};
pub use target::Target;
pub use waker::Waker;
