//! The beginning of a session: until those who were registered before have their answers, nobody knows
//! who may reach out.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_proto::id::ContactId;

use super::Registrar;
use super::entry::{Entry, Stage};
use crate::sources::Sources;

/// How long those who want to reach out wait for the answers: a name that nobody resolves is not to
/// hinder the others.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(8);

/// Those that were asked for at the beginning, less the first ones that have been answered.
#[derive(Debug)]
pub(super) struct Settling {
    asked: VecDeque<ContactId>,
    pub(super) until: Instant,
}

impl Settling {
    pub(super) fn new(asked: Vec<ContactId>, now: Instant) -> Self {
        Self { asked: asked.into(), until: now + SETTLE_MAX }
    }
}

impl Registrar {
    /// Who may reach out from now on, if that has changed: the peers that are registered. Each session
    /// tells it once at least, and not before it knows. `own` says which addresses this host has: peers
    /// on it connect from any of them.
    pub fn poll_sources(&mut self, own: impl FnOnce() -> BTreeSet<IpAddr>) -> Option<Sources> {
        self.settle();
        let is_known = self.session.is_some() && self.settling.is_none();
        is_known.then(|| self.table.poll_sources(own)).flatten()
    }

    /// Takes that this host's addresses may be others now.
    pub fn handle_network_change(&mut self) {
        self.table.handle_network_change();
    }

    /// Looks whether all answers are there.
    pub(super) fn settle(&mut self) {
        let Some(settling) = &mut self.settling else { return };
        let is_open = |entry: &Entry| matches!(entry.stage, Stage::Resolving | Stage::Asked);
        let is_answered = |id: &ContactId| !self.table.get(*id).is_some_and(is_open);
        while settling.asked.front().is_some_and(is_answered) {
            settling.asked.pop_front();
        }
        if settling.asked.is_empty() {
            self.settling = None;
        }
    }
}
