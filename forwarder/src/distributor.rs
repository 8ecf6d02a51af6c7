//! Hands messages out: to flows' sockets, as slices of the buffers that the records landed in,
//! and to the carrier, as the records that the session sealed.

use adit_proto::limits::{GATHERED_MAX, PAYLOAD_MAX};
use adit_ring::{Slice, SliceList};
use std::collections::VecDeque;

mod batch;
mod line;
mod proxy_header;

pub(crate) use batch::{Batch, Gathered};
pub(crate) use line::Line;
pub(crate) use proxy_header::proxy_header;

/// What waits for one flow's socket.
///
/// No more than one send is under way, and it takes only what the socket takes at once: memory
/// that waits for a slow socket is ours to copy out, never the kernel's.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    waiting: VecDeque<Slice>,
    /// Small pieces that came while the socket was full, behind what waits.
    gathered: Vec<u8>,
    /// Slices that are lent to the send under way.
    is_sending: bool,
    /// The socket took less than it was given: wait until it is writable.
    pub(crate) is_blocked: bool,
    /// The other end has finished; shut down after what waits.
    is_finishing: bool,
    is_shut: bool,
    bytes: usize,
}

impl Outlet {
    /// Queues `slice`; small ones that have to wait are gathered by copy, so that a stalled flow
    /// never pins a large receive buffer by a few bytes, nor costs more than its bytes.
    pub(crate) fn push(&mut self, slice: Slice) {
        self.bytes += slice.len();
        if self.is_blocked && slice.len() <= GATHERED_MAX {
            self.gathered.extend_from_slice(&slice);
            if self.gathered.len() >= PAYLOAD_MAX {
                self.queue_gathered();
            }
        } else {
            self.queue_gathered();
            self.waiting.push_back(slice);
        }
    }

    fn queue_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.waiting.push_back(Slice::from(std::mem::take(&mut self.gathered)));
        }
    }

    /// Whether nothing more will be pushed.
    pub(crate) fn is_finishing(&self) -> bool {
        self.is_finishing
    }

    /// An outlet whose socket is not connected yet: all that comes waits.
    pub(crate) fn blocked() -> Self {
        Self { is_blocked: true, ..Self::default() }
    }

    /// An outlet as another process left it.
    pub(crate) fn restore(
        waiting: &[u8],
        is_finishing: bool,
        is_shut: bool,
        is_connected: bool,
    ) -> Self {
        let pieces = waiting.chunks(PAYLOAD_MAX).map(|piece| Slice::from(piece.to_vec()));
        Self {
            waiting: pieces.collect(),
            bytes: waiting.len(),
            is_blocked: !is_connected,
            is_finishing,
            is_shut,
            ..Self::default()
        }
    }

    /// What waits for the socket, of which nothing may be on its way.
    pub(crate) fn left(&self) -> Vec<u8> {
        debug_assert!(!self.is_sending, "invariant: a pump that packs stands still");
        let waiting: Vec<&[u8]> = self.waiting.iter().map(|slice| &**slice).collect();
        [waiting.concat().as_slice(), &self.gathered].concat()
    }

    /// No more will be pushed.
    pub(crate) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What to send now, at most so many pieces, put into `slices`; false when there is nothing or it must wait.
    pub(crate) fn poll_send(&mut self, slices: &mut SliceList, pieces_max: usize) -> bool {
        if self.is_sending || self.is_blocked {
            return false;
        }
        self.queue_gathered();
        if self.waiting.is_empty() {
            return false;
        }
        let pieces = self.waiting.len().min(pieces_max);
        slices.extend(self.waiting.drain(..pieces));
        self.is_sending = true;
        true
    }

    /// The socket took `taken` bytes of `slices`; the rest waits for it, first in the queue.
    pub(crate) fn handle_sent(&mut self, taken: usize, slices: &mut SliceList) {
        self.is_sending = false;
        self.bytes -= taken;
        let mut left = taken;
        let mut rest = Vec::new();
        for mut slice in slices.drain(..) {
            let gone = left.min(slice.len());
            left -= gone;
            slice.advance(gone);
            if !slice.is_empty() {
                rest.push(slice);
            }
        }
        self.is_blocked = !rest.is_empty();
        rest.into_iter().rev().for_each(|slice| self.waiting.push_front(slice));
    }

    /// Copies what waits out of the receive buffers, which are getting scarce.
    pub(crate) fn copy_out(&mut self) {
        for slice in &mut self.waiting {
            if slice.is_leased() {
                *slice = slice.to_owned_copy();
            }
        }
    }

    /// Whether the socket's sending direction is to be shut down now; true once.
    pub(crate) fn poll_shutdown(&mut self) -> bool {
        let is_due = self.is_finishing && !self.is_shut && !self.is_sending && self.bytes == 0;
        self.is_shut |= is_due;
        is_due
    }

    /// Everything was sent and the direction shut down.
    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::limits::FLOW_SEND_PIECES;

    use super::*;

    fn slice(bytes: &[u8]) -> Slice {
        Slice::from(bytes.to_vec())
    }

    fn sent(outlet: &mut Outlet, taken: usize) -> Vec<u8> {
        let mut slices = SliceList::new();
        assert!(outlet.poll_send(&mut slices, FLOW_SEND_PIECES));
        let bytes = slices.iter().flat_map(|s| s.to_vec()).take(taken).collect();
        outlet.handle_sent(taken, &mut slices);
        bytes
    }

    /// What a socket did not take is sent again, from where it stopped, before what came later.
    #[test]
    fn a_short_send_continues_where_it_stopped() {
        let mut outlet = Outlet::default();
        outlet.push(slice(b"hello "));
        outlet.push(slice(b"world"));
        assert_eq!(sent(&mut outlet, 8), b"hello wo");
        assert!(outlet.is_blocked);
        outlet.push(slice(b"!"));
        outlet.copy_out();
        outlet.is_blocked = false;
        assert_eq!(sent(&mut outlet, 4), b"rld!");
        assert_eq!(outlet.bytes(), 0);
    }

    /// Nothing is given to the kernel while a send is under way or the socket is full.
    #[test]
    fn one_send_at_a_time() {
        let mut outlet = Outlet::default();
        outlet.push(slice(b"a"));
        let mut slices = SliceList::new();
        assert!(outlet.poll_send(&mut slices, FLOW_SEND_PIECES));
        outlet.push(slice(b"b"));
        assert!(!outlet.poll_send(&mut SliceList::new(), FLOW_SEND_PIECES));
        outlet.handle_sent(0, &mut slices);
        assert!(!outlet.poll_send(&mut SliceList::new(), FLOW_SEND_PIECES));
    }

    /// Pieces of a byte that wait cost little more than their bytes, and come out in order.
    #[test]
    fn tiny_pieces_that_wait_are_gathered() {
        let mut outlet = Outlet::blocked();
        (0..100_000_u32).for_each(|n| outlet.push(slice(&[n.to_le_bytes()[0]])));
        assert!(outlet.waiting.len() <= 100_000 / PAYLOAD_MAX + 1);
        outlet.push(slice(&[7; 2_000]));
        outlet.is_blocked = false;
        let bytes = sent(&mut outlet, 102_000);
        assert_eq!(bytes.len(), 102_000);
        assert!(bytes.iter().take(100_000).enumerate().all(|(n, b)| *b == n.to_le_bytes()[0]));
    }

    /// The shutdown comes after the last byte, once.
    #[test]
    fn shutdown_follows_the_last_byte() {
        let mut outlet = Outlet::default();
        outlet.push(slice(b"abc"));
        outlet.finish();
        assert!(!outlet.poll_shutdown());
        sent(&mut outlet, 3);
        assert!(outlet.poll_shutdown());
        assert!(!outlet.poll_shutdown());
    }
}
