//! Names that are being looked up for forwarders. The resolver is shared by all of them, so each
//! has a few look-ups at work, and a bounded number that wait for their turn.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use adit::handoff::SessionKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Look-ups of one session at work at once: half of what there is for all.
const AT_WORK_MAX: usize = 4;
/// Those at work and those that wait, of one session.
const BEGUN_MAX: usize = 256;

#[derive(Debug)]
struct Turns {
    begun: usize,
    turns: Arc<Semaphore>,
}

/// The look-ups of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Rc<RefCell<BTreeMap<SessionKey, Turns>>>);

/// A look-up, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lookup {
    session: SessionKey,
    turns: Arc<Semaphore>,
    all: Rc<RefCell<BTreeMap<SessionKey, Turns>>>,
}

impl Lookups {
    /// One more look-up, unless the session has too many.
    pub(crate) fn begin(&self, session: SessionKey) -> Option<Lookup> {
        let mut all = self.0.borrow_mut();
        let turns = all
            .entry(session)
            .or_insert_with(|| Turns { begun: 0, turns: Arc::new(Semaphore::new(AT_WORK_MAX)) });
        if turns.begun >= BEGUN_MAX {
            return None;
        }
        turns.begun += 1;
        Some(Lookup { session, turns: Arc::clone(&turns.turns), all: Rc::clone(&self.0) })
    }
}

impl Lookup {
    /// Waits for its turn, which lasts until the permit is dropped.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let mut all = self.all.borrow_mut();
        if let Some(turns) = all.get_mut(&self.session) {
            turns.begun -= 1;
            if turns.begun == 0 {
                all.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What one session asks for is bounded, takes nothing from others, and leaves nothing behind.
    #[test]
    fn look_ups_are_bounded_for_each_session() {
        let lookups = Lookups::default();
        let begun: Vec<_> = (0..BEGUN_MAX).map(|_| lookups.begin(SessionKey(1)).unwrap()).collect();
        assert!(lookups.begin(SessionKey(1)).is_none());
        assert!(lookups.begin(SessionKey(2)).is_some());
        drop(begun);
        assert!(lookups.0.borrow().is_empty());
        assert!(lookups.begin(SessionKey(1)).is_some());
    }

    /// Only a few work at once; the next has its turn when one of them is done.
    #[tokio::test]
    async fn a_few_work_at_once() {
        let lookups = Lookups::default();
        let begun: Vec<_> =
            (0..=AT_WORK_MAX).map(|_| lookups.begin(SessionKey(1)).unwrap()).collect();
        let mut permits = Vec::new();
        for lookup in &begun[1..] {
            permits.push(lookup.turn().await.unwrap());
        }
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, begun[0].turn()).await.is_err());
        permits.pop();
        assert!(begun[0].turn().await.is_some());
    }
}
