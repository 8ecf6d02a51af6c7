//! Keys that have used up their volume of the month, and those that have some again.

use std::collections::BTreeSet;
use std::time::Instant;

use adit::audit::{Entry, Event};
use adit::exit::Failed;
use adit::handoff::{Command, Volume};
use adit::invitation::UnixTime;
use adit::key::PublicKey;

use super::{Daemon, Session};
use crate::policy::Policy;

impl Daemon {
    /// Now and then, where any key has a volume: looks who has used up what, and asks the pumps what has
    /// moved since.
    pub(super) fn check_volumes(&mut self, date: UnixTime, now: Instant) -> Result<(), Failed> {
        if !self.volumes.handle_timeout(now) {
            return Ok(());
        }
        self.judge_volumes(date)?;
        let has_volume = |key| self.policies.get(key).is_some_and(Policy::has_volume);
        let counting = self.sessions.values().filter(|state: &&Session| has_volume(&state.key));
        let pumps: BTreeSet<usize> = counting.map(|state| state.pump).collect();
        pumps.into_iter().try_for_each(|pump| self.tell(pump, Command::Moved))
    }

    /// How the owner of a key stands with its volume.
    pub(super) fn volume_of(&self, key: &PublicKey, policy: &Policy) -> Volume {
        match policy.has_volume() {
            false => Volume::Unlimited,
            true if self.spent.contains(key) => Volume::Spent,
            true => Volume::Left,
        }
    }

    /// Lets every key move bytes, or not, as its volume and what it has moved say on this day.
    pub(super) fn judge_volumes(&mut self, date: UnixTime) -> Result<(), Failed> {
        self.volumes.handle_date(date);
        self.volumes.handle_limited(self.policies.values().any(Policy::has_volume));
        let limited = self.policies.iter().filter_map(|(key, policy)| {
            let max = policy.bytes_per_month?;
            Some((*key, self.volumes.moved(key) >= max))
        });
        let spent: BTreeSet<_> =
            limited.filter(|(_, is_spent)| *is_spent).map(|(key, _)| key).collect();
        let before = std::mem::replace(&mut self.spent, spent);
        let changed: Vec<_> = before.symmetric_difference(&self.spent).copied().collect();
        changed.iter().try_for_each(|key| self.handle_turned(key))
    }

    /// A key has used up its volume, or has some again.
    fn handle_turned(&self, key: &PublicKey) -> Result<(), Failed> {
        // A key that was removed loses its sessions anyway.
        let Some(policy) = self.policies.get(key) else { return Ok(()) };
        let (name, bytes) = (&policy.name, self.volumes.moved(key));
        if self.spent.contains(key) {
            tracing::warn!(forwarder = %name, bytes, "bytes_per_month is used up: flows are reset");
            let entry = Entry::new(Event::Spent).with("forwarder", name);
            self.record(&entry.with_count("bytes", bytes));
        } else {
            tracing::info!(forwarder = %name, bytes, "bytes_per_month leaves room again");
        }
        let own = self.sessions.iter().filter(|(_, state)| state.key == *key);
        own.map(|(session, _)| *session).try_for_each(|session| self.limit(session))
    }
}
