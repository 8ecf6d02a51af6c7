//! Names to addresses. The C library's resolver blocks, so each look-up has a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use crate::config::Place;

/// Look-ups, and so threads, at once.
const LOOKUPS_MAX: usize = 8;
static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// The addresses of `place` as the resolver has them now; nothing is kept from earlier.
///
/// # Errors
/// When the name cannot be resolved.
pub async fn resolve(place: Place) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = place.literal() {
        return Ok(vec![address]);
    }
    // Never closed, so it cannot fail; without a permit the look-up would only be unbounded.
    let _permit = LOOKUPS.acquire().await.ok();
    let (sender, receiver) = oneshot::channel();
    // Not tokio's blocking pool: its threads would keep the daemon from ending.
    thread::Builder::new().name("resolver".into()).spawn(move || {
        // Nobody waits any more when the daemon is ending.
        sender.send(place.resolve()).ok();
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the resolver's thread ended")))
}
