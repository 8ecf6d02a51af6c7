//! A pool's buffer in the hands of one owner, and memory that is shared for reading.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::pool::Storage;

/// The unique owner of one pool buffer; dropping it gives the buffer back.
pub struct Buffer {
    storage: Rc<Storage>,
    index: u16,
    filled: usize,
}

impl Buffer {
    /// `index` must have left the free list and the kernel's ring, for this owner alone.
    pub(crate) fn new(storage: Rc<Storage>, index: u16, filled: usize) -> Self {
        let filled = filled.min(storage.layout().payload);
        Self { storage, index, filled }
    }

    /// How many bytes the kernel put behind the headroom.
    pub fn payload_len(&self) -> usize {
        self.filled
    }

    /// Where those bytes are.
    pub fn payload(&self) -> Range<usize> {
        let start = self.storage.layout().headroom;
        start..start + self.filled
    }

    /// The whole buffer: headroom, payload, tailroom.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes(self.index, self)
    }

    /// The whole buffer: headroom, payload, tailroom.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let storage = Rc::clone(&self.storage);
        storage.bytes_mut(self.index, self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.storage.give_back(self.index);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.index, self.filled)
    }
}

/// Memory that can be sent: a pool's buffer, or a piece of the heap.
#[derive(Debug)]
pub enum Memory {
    /// A pool's buffer.
    Pool(Buffer),
    /// A piece of the heap.
    Heap(Box<[u8]>),
}

impl From<Buffer> for Memory {
    fn from(buffer: Buffer) -> Self {
        Self::Pool(buffer)
    }
}

impl From<Box<[u8]>> for Memory {
    fn from(bytes: Box<[u8]>) -> Self {
        Self::Heap(bytes)
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Pool(buffer) => buffer.bytes(),
            Self::Heap(bytes) => bytes,
        }
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pool(buffer) => buffer.bytes_mut(),
            Self::Heap(bytes) => bytes,
        }
    }
}
