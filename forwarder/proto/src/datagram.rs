//! The datagram path: sealed UDP packets beside a session's TCP carrier.
//!
//! Deliberately absent: sockets, retransmission, congestion control. A path that does not prove
//! itself is closed, and its datagrams go on the TCP carrier.
//!
//! The order of calls, for each end of a path:
//!
//! 1. [`Path::new`], with the offer that `WELCOME` carried. The forwarder knows where the relay is;
//!    the relay waits to be spoken to.
//! 2. For each packet that arrives: [`Path::handle_packet`] opens it in place and says where its
//!    frames lie. A failed send or an ICMP error: [`Path::handle_unreachable`].
//! 3. After each of these, and at [`Path::poll_timeout`]: [`Path::handle_timeout`], then
//!    [`Path::poll_own`] until it has no more.
//! 4. While [`Path::is_open`]: packets of up to [`Path::content_max`] bytes of frames, each through
//!    [`Path::seal`], go to [`Path::remote`]; then [`Path::handle_sent`].

mod challenge;
pub(crate) mod join;
mod keys;
mod liveness;
mod packet;
mod path;
pub(crate) mod queue;
mod search;
mod window;

pub use packet::{PACKET_HEADER, PACKET_TRAILER, PacketError, PathError};
pub(crate) use path::PathSnapshot;
pub use path::{Path, PathCounters};

/// How many datagrams `len` bytes are: each has `segment` bytes but the last, which may have fewer; one
/// when that is 0.
pub fn count(segment: usize, len: usize) -> u64 {
    len.checked_div(segment).map_or(1, |_| len.div_ceil(segment).max(1) as u64)
}
