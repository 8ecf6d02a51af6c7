//! Groups: the ring of provided buffers that the kernel picks from when bytes arrive.
//!
//! The kernel takes entries in ring order, and a bundle takes several in a row. Positions count
//! up for ever (modulo 2^16, as the kernel counts); `shadow` remembers which buffer stood where.

#![expect(unsafe_code, reason = "shares a ring of entries with the kernel")]

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::buffer::Buffer;
use crate::pool::{Layout, Pool};
use crate::refusal::Refusal;

/// Names a group of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(pub(crate) u16);

/// A group's ring of entries and the pool behind it.
#[derive(Debug)]
pub(crate) struct Provided {
    pub(crate) pool: Pool,
    entries: NonNull<BufRingEntry>,
    bytes: NonZeroUsize,
    /// Entries in the ring, a power of two.
    capacity: u16,
    tail: u16,
    /// Entries that the kernel holds, as far as completions have told.
    outstanding: u16,
    /// Which buffer was published at a position, for four rounds: completions may be read in
    /// another order than the buffers were taken, but never by more than a round.
    shadow: Vec<u16>,
    /// Where a buffer stands, while the kernel has it.
    positions: Vec<Option<u16>>,
}

impl Provided {
    pub(crate) fn new(layout: Layout) -> Result<Self, Refusal> {
        assert!(layout.published.is_power_of_two(), "invariant: a ring's size is a power of two");
        let pool = Pool::new(layout)?;
        let capacity = layout.published;
        let bytes = NonZeroUsize::new(usize::from(capacity) * size_of::<BufRingEntry>())
            .expect("invariant: a ring has entries");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let entries = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }
            .map_err(|errno| Refusal::Other(errno.into()))?;
        Ok(Self {
            pool,
            entries: entries.cast(),
            bytes,
            capacity,
            tail: 0,
            outstanding: 0,
            shadow: vec![0; 4 * usize::from(capacity)],
            positions: vec![None; usize::from(layout.buffers)],
        })
    }

    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(crate) fn capacity(&self) -> u16 {
        self.capacity
    }

    pub(crate) fn layout(&self) -> Layout {
        self.pool.0.layout()
    }

    /// Publishes free buffers until the kernel holds as many as it may.
    pub(crate) fn refill(&mut self) {
        let tail = self.tail;
        while self.outstanding < self.capacity {
            let Some((index, address)) = self.pool.0.publish() else { break };
            self.write_entry(index, address);
            self.tail = self.tail.wrapping_add(1);
            self.outstanding += 1;
        }
        if self.tail != tail {
            self.publish_tail();
        }
    }

    fn write_entry(&mut self, index: u16, address: u64) {
        let len = u32::try_from(self.layout().payload).expect("invariant: a payload is < 4 GiB");
        let at = usize::from(self.tail & (self.capacity - 1));
        let rounds = self.shadow.len();
        self.shadow[usize::from(self.tail) % rounds] = index;
        self.positions[usize::from(index)] = Some(self.tail);
        // SAFETY: `at` is below the capacity, for which the mapping has room.
        let entry = unsafe { self.entries.add(at) };
        // SAFETY: the entry is initialised (zeroed memory is a valid entry), and the kernel does
        // not read it before the tail passes it: fewer than `capacity` are outstanding.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(len);
        entry.set_bid(index);
    }

    fn publish_tail(&self) {
        // SAFETY: `entries` is the first entry of the ring, as `tail` asks.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in our mapping that both sides access atomically.
        let tail = unsafe { &*tail.cast::<AtomicU16>() };
        // Release: the kernel must see the entries before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }

    /// The buffers of a completion that begins with buffer `first` and brought `len` bytes.
    ///
    /// # Errors
    /// When the kernel names buffers that it was not lent, or not in ring order, as some 6.13 and
    /// 6.14 kernels do: the bytes cannot be told apart then. The start-up probe finds those out.
    pub(crate) fn take(&mut self, first: u16, len: usize) -> io::Result<Vec<Buffer>> {
        let payload = self.layout().payload;
        let count = len.div_ceil(payload).max(1);
        let start = self.positions.get(usize::from(first)).copied().flatten();
        let start = start.ok_or_else(disordered)?;
        let mut buffers = Vec::with_capacity(count);
        let mut left = len;
        for nth in 0..count {
            let filled = left.min(payload);
            left -= filled;
            let index = self.vacate(start, nth).ok_or_else(disordered)?;
            buffers.push(Buffer::new(Rc::clone(&self.pool.0), index, filled));
        }
        Ok(buffers)
    }

    /// Takes back the buffer at the `nth` position from `start`, if the kernel was lent it.
    fn vacate(&mut self, start: u16, nth: usize) -> Option<u16> {
        let position = start.wrapping_add(u16::try_from(nth).ok()?);
        let at = usize::from(position) % self.shadow.len();
        let index = self.shadow[at];
        let lent = &mut self.positions[usize::from(index)];
        if *lent != Some(position) {
            return None;
        }
        *lent = None;
        self.outstanding -= 1;
        self.pool.0.unpublish();
        Some(index)
    }
}

fn disordered() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel mixed up provided buffers")
}

impl Drop for Provided {
    fn drop(&mut self) {
        for index in 0..self.pool.0.layout().buffers {
            if self.positions[usize::from(index)].is_some() {
                self.pool.0.unpublish();
                self.pool.0.give_back(index);
            }
        }
        // SAFETY: the mapping is ours; `Ring::drop` has made the kernel forget it.
        let unmapped = unsafe { munmap(self.entries.cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "invariant: the mapping is ours");
    }
}
