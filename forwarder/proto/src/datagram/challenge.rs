//! An address that an authentic packet came from, and whether the other end is really there.
//!
//! Who copies a packet and sends it from elsewhere, ahead of the original, does not answer for that
//! address; nor can anybody have the relay send an address more than came from it.

use std::net::SocketAddr;

use super::packet::PACKET_OWN;
use crate::id::Time;
use crate::limits::{PATH_CHALLENGES_MAX, PATH_PACKET_BASE, PATH_PROBE_BUSY};

/// Whether these are the same, however the kernel wrote them: an IPv4 address may be mapped.
pub(super) fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

/// The address, and the challenge that is sent to it.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) address: SocketAddr,
    /// What may be sent there: as many bytes as came and were not yet returned.
    allowance: usize,
    /// Sent to nobody else.
    number: u64,
    /// When the challenge is sent, or sent again.
    due: Time,
    /// Challenges that may be sent before the address is heard again.
    left: u32,
}

impl Challenge {
    /// A first authentic packet of this many bytes came from the address.
    pub(super) fn new(address: SocketAddr, bytes: usize, number: u64, now: Time) -> Self {
        Self { address, allowance: bytes, number, due: now, left: PATH_CHALLENGES_MAX }
    }

    /// Another one did.
    pub(super) fn handle_heard(&mut self, bytes: usize) {
        self.allowance = self.allowance.saturating_add(bytes);
        self.left = PATH_CHALLENGES_MAX;
    }

    pub(super) fn handle_sent(&mut self, bytes: usize) {
        self.allowance = self.allowance.saturating_sub(bytes);
    }

    /// Whether so many bytes may go there.
    pub(super) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.allowance
    }

    /// How long a packet to the address may be, padded or not.
    pub(super) fn packet_max(&self) -> usize {
        self.allowance.min(PATH_PACKET_BASE)
    }

    pub(super) fn poll_timeout(&self) -> Time {
        if self.left > 0 && self.allows(PACKET_OWN) { self.due } else { Time(u64::MAX) }
    }

    /// The number of the challenge to send now, in a packet of at least `bytes`, if one is due.
    pub(super) fn poll_ping(&mut self, bytes: usize, now: Time) -> Option<u64> {
        if now < self.poll_timeout() || !self.allows(bytes) {
            return None;
        }
        self.due = now + PATH_PROBE_BUSY;
        self.left -= 1;
        Some(self.number)
    }

    /// Whether the address answered for itself.
    pub(super) fn is_answered_by(&self, number: u64, from: SocketAddr) -> bool {
        is_same(from, self.address) && self.number == number
    }
}
