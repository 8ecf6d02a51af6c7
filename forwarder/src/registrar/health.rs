//! Health checks: a peer that nobody can connect to has no contact point.
//!
//! ```text
//!            second failure in a row
//!     up ─────────────────────────────▶ down
//!      ▲                                 │
//!      └──────────── success ────────────┘
//! ```

use std::io;
use std::time::{Duration, Instant};

use adit_proto::id::ContactId;

use super::entry::{Entry, Stage};
use super::{Action, Registrar};
use crate::api::{Refusal, StatusCode};

/// Failures in a row that make a peer `down`.
const FAILURES_MAX: u32 = 2;

/// How a peer's checks go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    every: Duration,
    failures: u32,
    last: Option<bool>,
    /// When the next check is due; nothing while one is under way.
    next: Option<Instant>,
}

impl Health {
    /// The first check is due at once.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self { every, failures: 0, last: None, next: Some(now) }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to check now; if so, one is under way from here on.
    fn poll_check(&mut self, now: Instant) -> bool {
        self.next.take_if(|at| *at <= now).is_some()
    }

    fn handle(&mut self, is_good: bool, now: Instant) {
        self.failures = if is_good { 0 } else { self.failures.saturating_add(1) };
        self.last = Some(is_good);
        self.next = Some(now + self.every);
    }

    /// For people.
    pub(super) fn status(&self) -> &'static str {
        match self.last {
            None => "unknown",
            Some(true) => "good",
            Some(false) => "failing",
        }
    }
}

impl Registrar {
    /// Asks for a peer's check if it is due.
    pub(super) fn check(&mut self, id: ContactId, now: Instant) {
        let poll = |entry: &mut Entry| {
            let is_due = entry.health.as_mut().is_some_and(|health| health.poll_check(now));
            is_due.then(|| entry.peer.address.clone())
        };
        if let Some(address) = self.table.update(id, poll).flatten() {
            self.actions.push_back(Action::Check(id, address));
        }
    }

    /// Takes what came of [`Action::Check`].
    pub fn handle_checked(&mut self, id: ContactId, checked: io::Result<()>, now: Instant) {
        let failures = self.table.update(id, |entry| {
            let health = entry.health.as_mut()?;
            health.handle(checked.is_ok(), now);
            Some(health.failures)
        });
        let Some(Some(failures)) = failures else { return };
        let is_down = self.table.get(id).is_some_and(Entry::is_down);
        match checked {
            Ok(()) if is_down => self.handle_recovered(id),
            Err(error) if failures >= FAILURES_MAX && !is_down => self.handle_failed(id, &error),
            _ => {}
        }
    }

    fn handle_failed(&mut self, id: ContactId, error: &io::Error) {
        let Some(entry) = self.table.get(id) else { return };
        let reason = format!("{FAILURES_MAX} checks in a row have failed: {error}");
        let (name, address) = (&entry.peer.name, &entry.peer.address);
        tracing::warn!(peer = %name, %address, "down: {reason}");
        if entry.pending.is_some() {
            let text = format!("{name} does not answer at {address}: {error}");
            let refusal = Refusal::new(StatusCode::BAD_GATEWAY, text);
            return self.give_up(id, refusal);
        }
        self.withdraw(id);
        self.table.update(id, |entry| entry.begin(Stage::Down { reason }));
    }

    fn handle_recovered(&mut self, id: ContactId) {
        // Under a new id, so that a late answer to the old one is not taken for its own.
        let Some(mut entry) = self.table.remove(id) else { return };
        tracing::info!(peer = %entry.peer.name, address = %entry.peer.address, "up again");
        entry.forget_refusals();
        entry.begin(Stage::Waiting);
        let id = self.table.insert(entry);
        self.ask(id);
    }
}
