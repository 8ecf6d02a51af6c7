//! Names to addresses. The C library's resolver blocks, so each look-up has a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::config::Place;

/// Look-ups, and so threads, at once: those that nobody waits for any more included.
const LOOKUPS_MAX: usize = 8;
static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// How long a look-up may take. The C library alone would ask a deaf server for 10 s and longer.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The addresses of `place` as the resolver has them now; nothing is kept from earlier.
///
/// # Errors
/// When the name cannot be resolved, or the resolver does not answer within 5 s.
pub async fn resolve(place: Place) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = place.literal() {
        return Ok(vec![address]);
    }
    let answer = tokio::time::timeout(RESOLVE_MAX, in_thread(move || place.resolve())).await;
    answer.unwrap_or_else(|_elapsed| {
        let silence = format!("no answer from the resolver in {} s", RESOLVE_MAX.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, silence))
    })
}

async fn in_thread<F>(look_up: F) -> io::Result<Vec<SocketAddr>>
where
    F: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
{
    // Never closed, so it cannot fail; without a permit the look-up would only be unbounded.
    let permit = LOOKUPS.acquire().await.ok();
    let (sender, receiver) = oneshot::channel();
    // Not tokio's blocking pool: its threads would keep the daemon from ending.
    thread::Builder::new().name("resolver".into()).spawn(move || {
        let answer = look_up();
        // The permit is the thread's: a look-up that was given up runs on, and still counts.
        drop(permit);
        // Nobody waits any more when the look-up was given up, or the daemon is ending.
        sender.send(answer).ok();
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the resolver's thread ended")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A resolver that hangs costs a bounded number of threads, however often it is asked.
    #[tokio::test]
    async fn look_ups_that_were_given_up_still_count() {
        let started = Arc::new(AtomicUsize::new(0));
        let (hang, hung) = std::sync::mpsc::channel::<()>();
        let hung = Arc::new(std::sync::Mutex::new(hung));
        for _ in 0..3 * LOOKUPS_MAX {
            let (started, hung) = (Arc::clone(&started), Arc::clone(&hung));
            let look_up = in_thread(move || {
                started.fetch_add(1, Ordering::Relaxed);
                hung.lock().unwrap().recv().ok();
                Ok(Vec::new())
            });
            tokio::time::timeout(Duration::from_millis(10), look_up).await.unwrap_err();
        }
        assert!(started.load(Ordering::Relaxed) <= LOOKUPS_MAX);
        drop(hang);
        // Once the hanging ones have ended there is room again.
        let again = tokio::time::timeout(Duration::from_secs(10), in_thread(|| Ok(Vec::new())));
        again.await.unwrap().unwrap();
    }
}
