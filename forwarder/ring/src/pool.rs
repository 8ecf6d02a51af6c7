//! Pools: equal buffers in one mapping, handed out last in, first out, so that the hot ones stay
//! in the cache.

#![expect(unsafe_code, reason = "maps memory and hands out disjoint parts of it")]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

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
        let index = self.0.free.borrow_mut().take()?;
        Some(Buffer::new(Rc::clone(&self.0), index, 0))
    }

    /// Gives back to the kernel the memory of free buffers that nobody has taken since the last call,
    /// up to about `bytes_max`: what only a burst has needed. Such a buffer holds zeros when it is
    /// taken again.
    pub fn trim(&self, bytes_max: usize) {
        self.0.trim(bytes_max);
    }

    /// Buffers that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free.borrow().indices.len()
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

/// The buffers that nobody holds, the hottest last.
struct Free {
    indices: Vec<u16>,
    /// The fewest that there were since the last trim: so many, from the first, were left alone.
    fewest: usize,
    /// So many, from the first, have no memory.
    empty: usize,
}

impl Free {
    fn new(buffers: u16) -> Self {
        // The first index is taken first.
        let indices: Vec<u16> = (0..buffers).rev().collect();
        Self { fewest: indices.len(), empty: indices.len(), indices }
    }

    fn take(&mut self) -> Option<u16> {
        let index = self.indices.pop()?;
        self.fewest = self.fewest.min(self.indices.len());
        Some(index)
    }

    /// At most `max` that have memory and were not taken since the last call, in order; from now on
    /// they count as empty.
    fn idle(&mut self, max: usize) -> &[u16] {
        let empty = self.empty.min(self.fewest);
        self.empty = self.fewest.min(empty + max);
        self.fewest = self.indices.len();
        let idle = self.indices.get_mut(empty..self.empty).unwrap_or_default();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        idle
    }
}

/// The mapping and the free list. Each index is in exactly one place: the free list, the kernel's
/// ring, or one `Buffer`.
pub(crate) struct Storage {
    base: NonNull<u8>,
    len: NonZeroUsize,
    stride: usize,
    layout: Layout,
    free: RefCell<Free>,
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
        let free = RefCell::new(Free::new(layout.buffers));
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

    fn trim(&self, bytes_max: usize) {
        let mut free = self.free.borrow_mut();
        let idle = free.idle(bytes_max / self.stride);
        // Neighbours share pages: those go when both are idle.
        for neighbours in idle.chunk_by(|higher, lower| *higher == lower + 1) {
            if let (Some(last), Some(first)) = (neighbours.first(), neighbours.last()) {
                self.empty(*first, *last);
            }
        }
    }

    /// Gives the kernel the pages that lie between the beginning of the one buffer and the end of the
    /// other, all of which are free.
    fn empty(&self, first: u16, last: u16) {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4_096);
        let (first, last) = (self.start(first), self.start(last));
        // Up to the next page's beginning; pages are powers of two.
        let start = first.map_addr(|at| at.saturating_add(at.get().wrapping_neg() % page));
        let end = (last.addr().get() + self.stride) / page * page;
        let len = end.saturating_sub(start.addr().get());
        if len == 0 {
            return;
        }
        // SAFETY: `len` bytes from `start` on lie within buffers of the free list, which we have
        // borrowed: nobody reads or writes them. They become zeros, which are bytes as good as any.
        let given = unsafe { madvise(start.cast(), len, MmapAdvise::MADV_DONTNEED) };
        debug_assert!(given.is_ok(), "invariant: the mapping is ours");
    }

    pub(crate) fn give_back(&self, index: u16) {
        self.free.borrow_mut().indices.push(index);
    }

    /// Takes an index for the kernel's ring, with the address that it may write to.
    pub(crate) fn publish(&self) -> Option<(u16, u64)> {
        let index = self.free.borrow_mut().take()?;
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
        write!(f, "Pool({:?}, {} free)", self.layout, self.free.borrow().indices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFERS: u16 = 64;

    /// Takes every buffer of `pool`, and says how many hold zeros alone; then writes to all of them.
    fn fill(pool: &Pool) -> usize {
        let mut buffers: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        let zeros = buffers.iter().filter(|buffer| buffer.bytes().iter().all(|byte| *byte == 0));
        let zeros = zeros.count();
        buffers.iter_mut().for_each(|buffer| buffer.bytes_mut().fill(1));
        zeros
    }

    fn pool() -> Pool {
        let layout =
            Layout { headroom: 0, payload: 16_384, tailroom: 64, buffers: BUFFERS, published: 0 };
        Pool::new(layout).unwrap()
    }

    /// What a burst has needed is the kernel's again when it was not needed since, a bounded part at a
    /// time; what is in use stays as it is.
    #[test]
    fn memory_that_only_a_burst_has_needed_is_given_back() {
        let pool = pool();
        fill(&pool);
        let mut held = pool.take().unwrap();
        held.bytes_mut().fill(2);
        pool.trim(usize::MAX);
        drop(pool.take());
        pool.trim(pool.stride() * 32);
        let mut buffers: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        // A page that two buffers share goes with both of them, or stays.
        let is_empty = |buffer: &&Buffer| buffer.bytes()[4_096..12_288].iter().all(|b| *b == 0);
        assert_eq!(buffers.iter().filter(is_empty).count(), 32);
        assert!(held.bytes().iter().all(|byte| *byte == 2));
        buffers.clear();
    }

    /// What is taken again and again keeps its memory.
    #[test]
    fn memory_in_use_is_kept() {
        let pool = pool();
        fill(&pool);
        for _ in 0..3 {
            pool.trim(usize::MAX);
            assert_eq!(fill(&pool), 0);
        }
    }
}
