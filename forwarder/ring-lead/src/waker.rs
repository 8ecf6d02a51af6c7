//! Wakes a ring from another thread.

use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::refusal::Refusal;

/// Wakes the ring that it came from. Clones wake the same ring.
#[derive(Clone, Debug)]
pub struct Waker(pub(crate) Arc<EventFd>);

impl Waker {
    pub(crate) fn new() -> Result<Self, Refusal> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags).map_err(|errno| Refusal::Other(errno.into()))?;
        Ok(Self(Arc::new(event)))
    }

    /// The ring's next, or present, wait ends.
    pub fn wake(&self) {
        // It fails only when the counter is at its end, and then the ring is awake anyway.
        self.0.write(1).ok();
    }

    /// Takes back the wake-ups so far.
    pub(crate) fn reset(&self) {
        // Nothing to take back is as good.
        self.0.read().ok();
    }
}
