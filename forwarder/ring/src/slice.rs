//! Bytes to send: a view into shared memory that keeps it alive and unchanged.

use std::ops::{Deref, Range};
use std::rc::Rc;

use crate::buffer::Memory;

/// A part of a [`Memory`]. While a slice exists, its memory has no other owner that could change
/// it: `Rc::get_mut` is refused.
#[derive(Clone, Debug)]
pub struct Slice {
    memory: Rc<Memory>,
    start: usize,
    end: usize,
}

/// The slices of one send, in order.
pub type SliceList = Vec<Slice>;

impl Slice {
    /// The bytes of `range`, cut to what the memory has.
    pub fn from_memory(memory: &Rc<Memory>, range: Range<usize>) -> Self {
        let whole = memory.as_ref().as_ref().len();
        let end = range.end.min(whole);
        Self { memory: Rc::clone(memory), start: range.start.min(end), end }
    }

    /// Lets go of the first `n` bytes.
    pub fn advance(&mut self, n: usize) {
        self.start = self.end.min(self.start.saturating_add(n));
    }

    /// The bytes of `range` within it, cut to what it has.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let end = self.end.min(self.start.saturating_add(range.end));
        let start = end.min(self.start.saturating_add(range.start));
        Self { memory: Rc::clone(&self.memory), start, end }
    }

    /// Whether it keeps a pool's buffer from going back.
    pub fn is_leased(&self) -> bool {
        matches!(*self.memory, Memory::Pool(_))
    }

    /// The same bytes in memory of their own.
    #[must_use]
    pub fn to_owned_copy(&self) -> Self {
        Self::from(self.to_vec())
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { memory: Rc::new(Memory::Heap(bytes.into_boxed_slice())), start: 0, end }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().as_ref().get(self.start..self.end).unwrap_or_default()
    }
}
