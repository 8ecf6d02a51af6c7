//! Pools: equal buffers in one mapping, handed out last in, first out, so that the hot ones stay
//! in the cache.

#![expect(unsafe_code, reason = "maps memory and hands out disjoint parts of it")]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::buffer::Buffer;
use crate::refusal::Refusal;

/// A cache line: no two buffers share one.
const ALIGN: usize = 64;

/// The shape of a pool and of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes kept free in front of what the kernel receives.
    pub headroom: usize,
    /// Bytes that the kernel may receive into one buffer.
    pub payload: usize,
    /// Bytes kept free behind it.
    pub tailroom: usize,
    /// Buffers in all.
    pub buffers: u16,
    /// How many the kernel may hold at once; a power of two.
    pub published: u16,
}

/// A pool's buffers, counted. Cloning shares the pool.
#[derive(Clone, Debug)]
pub struct Pool(pub(crate) Rc<Storage>);

impl Pool {
    /// Maps the pool; no page of it is touched.
    ///
    /// # Errors
    /// When the kernel maps no more memory.
    pub fn new(layout: Layout) -> Result<Self, Refusal> {
        Storage::map(layout).map(|storage| Self(Rc::new(storage)))
    }

    /// Takes a buffer that is not received into; `None` when all are in use.
    pub fn take(&self) -> Option<Buffer> {
        let index = self.0.free.borrow_mut().pop()?;
        Some(Buffer::new(Rc::clone(&self.0), index, 0))
    }

    /// Buffers that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free.borrow().len()
    }

    /// Buffers that somebody other than the kernel's ring holds.
    pub fn held(&self) -> usize {
        self.buffers() - self.free() - self.0.published.get()
    }

    /// Buffers that a receive can be filled with: those that are free, and those that the kernel
    /// was lent already.
    pub fn available(&self) -> usize {
        self.buffers() - self.held()
    }

    /// Buffers in all.
    pub fn buffers(&self) -> usize {
        usize::from(self.0.layout.buffers)
    }

    /// Bytes that one buffer takes in memory.
    pub fn stride(&self) -> usize {
        self.0.stride
    }
}

/// The mapping and the free list. Each index is in exactly one place: the free list, the kernel's
/// ring, or one `Buffer`.
pub(crate) struct Storage {
    base: NonNull<u8>,
    len: NonZeroUsize,
    stride: usize,
    layout: Layout,
    free: RefCell<Vec<u16>>,
    published: Cell<usize>,
}

impl Storage {
    fn map(layout: Layout) -> Result<Self, Refusal> {
        let size = layout.headroom + layout.payload + layout.tailroom;
        let stride = size.next_multiple_of(ALIGN);
        let len = NonZeroUsize::new(stride * usize::from(layout.buffers))
            .expect("invariant: a layout has buffers and they have a size");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that anybody else has.
        let base = unsafe { mmap_anonymous(None, len, protection, flags) }
            .map_err(|errno| Refusal::Other(errno.into()))?;
        // The first index is taken first: the free list is popped from its end.
        let free = RefCell::new((0..layout.buffers).rev().collect());
        let published = Cell::new(0);
        Ok(Self { base: base.cast(), len, stride, layout, free, published })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    fn start(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.layout.buffers, "invariant: an index names a buffer of its pool");
        // SAFETY: the index was just checked, so the offset is within the mapping.
        unsafe { self.base.add(usize::from(index) * self.stride) }
    }

    fn size(&self) -> usize {
        self.layout.headroom + self.layout.payload + self.layout.tailroom
    }

    /// The buffer's bytes, for as long as its owner lends itself.
    pub(crate) fn bytes<'a>(&self, index: u16, _owner: &'a Buffer) -> &'a [u8] {
        // SAFETY: the one `Buffer` with this index is borrowed for 'a and keeps the mapping; the
        // kernel does not write to it, since the index is not published. Anonymous memory is
        // zeroed, so every byte is initialised.
        unsafe { std::slice::from_raw_parts(self.start(index).as_ptr(), self.size()) }
    }

    /// The same for writing.
    pub(crate) fn bytes_mut<'a>(&self, index: u16, _owner: &'a mut Buffer) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the owner is borrowed mutably, so nobody else reads.
        unsafe { std::slice::from_raw_parts_mut(self.start(index).as_ptr(), self.size()) }
    }

    pub(crate) fn give_back(&self, index: u16) {
        self.free.borrow_mut().push(index);
    }

    /// Takes an index for the kernel's ring, with the address that it may write to.
    pub(crate) fn publish(&self) -> Option<(u16, u64)> {
        let index = self.free.borrow_mut().pop()?;
        self.published.set(self.published.get() + 1);
        let address = self.start(index).as_ptr() as u64 + self.layout.headroom as u64;
        Some((index, address))
    }

    /// The kernel has filled a published buffer: it is nobody's until a `Buffer` is made.
    pub(crate) fn unpublish(&self) {
        self.published.set(self.published.get() - 1);
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and whole. Nobody refers to it: buffers keep the storage
        // alive, and the ring lets go of it only after the kernel did (see `Ring::drop`).
        let unmapped = unsafe { munmap(self.base.cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "invariant: the mapping is ours");
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?}, {} free)", self.layout, self.free.borrow().len())
    }
}
