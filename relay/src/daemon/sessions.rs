//! What becomes of sessions and their carriers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit::audit::{Entry, Event};
use adit::exit::Failed;
use adit::handoff::{Command, Down, GoawayReason, SessionKey};
use adit_proto::id::SessionId;

use super::{Daemon, Session};
use crate::refused::Cause;

impl Daemon {
    /// Ends the sessions and the probes of keys that are let in no more.
    pub(super) fn close_removed(&self) -> Result<(), Failed> {
        self.probes.borrow().end_removed(|key| self.policies.contains_key(key));
        let is_removed = |state: &Session| !self.policies.contains_key(&state.key);
        let all = self.sessions.iter().chain(&self.arrivals);
        let why = "the relay no longer accepts this key";
        all.filter(|(_, state)| is_removed(state))
            .try_for_each(|(session, _)| self.close(*session, GoawayReason::Revoked, why))
    }

    pub(super) fn handle_up(
        &mut self,
        session: SessionKey,
        carrier: SessionKey,
        id: SessionId,
        is_resumed: bool,
    ) -> Result<(), Failed> {
        let Some(arrival) = self.arrivals.remove(&carrier) else { return Ok(()) };
        let (name, remote) = (Arc::clone(&arrival.name), arrival.remote);
        let what = if is_resumed { "tunnel resumed" } else { "tunnel up" };
        tracing::info!(forwarder = %name, %remote, session = %id, "{what}");
        if !is_resumed {
            let entry = Entry::new(Event::TunnelUp).with("forwarder", &name);
            self.record(&entry.with("from", remote).with("session", id));
        }
        let pump = arrival.pump;
        self.sessions_by_key.insert(arrival.key, session);
        self.sessions.insert(session, Session { id: Some(id), ..arrival });
        if self.ending.is_some() {
            // It was on its way when the others were told.
            return self.tell(pump, Command::Drain { session });
        }
        // It came with the carrier, and a reload may have changed it since.
        self.limit(session)
    }

    /// Tells the pump how much the session's owner may use.
    pub(super) fn limit(&self, session: SessionKey) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&session) else { return Ok(()) };
        let Some(policy) = self.policies.get(&state.key) else { return Ok(()) };
        let (quota, volume) = (policy.quota, self.volume_of(&state.key, policy));
        self.tell(state.pump, Command::Limit { session, quota, volume })
    }

    pub(super) fn handle_lost(&mut self, session: SessionKey, why: &Down, now: Instant) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.is_carried = false;
        let (name, remote, grace) = (&state.name, state.remote, self.config.grace);
        tracing::warn!(forwarder = %name, %remote, ?grace, "connection lost, flows wait: {why}");
        self.count_broken(why, remote, now);
    }

    pub(super) fn handle_dropped(&mut self, carrier: SessionKey, why: &Down, now: Instant) {
        let Some(state) = self.arrivals.remove(&carrier) else { return };
        let (name, remote) = (&state.name, state.remote);
        tracing::warn!(forwarder = %name, %remote, "no tunnel: {why}");
        self.count_broken(why, remote, now);
    }

    fn count_broken(&self, why: &Down, remote: SocketAddr, now: Instant) {
        if let Down::Broken(_) = why {
            self.refusals.borrow_mut().count(Cause::Protocol, remote, why, now);
        }
    }

    pub(super) fn handle_down(&mut self, session: SessionKey, why: &Down, now: Instant) {
        let Some(state) = self.sessions.remove(&session) else { return };
        if self.sessions_by_key.get(&state.key) == Some(&session) {
            self.sessions_by_key.remove(&state.key);
            let is_same = |(_, other): &(&SessionKey, &Session)| other.key == state.key;
            if let Some((&other, _)) = self.sessions.iter().rev().find(is_same) {
                self.sessions_by_key.insert(state.key, other);
            }
        }
        self.count_broken(why, state.remote, now);
        let (name, remote) = (&state.name, state.remote);
        let entry = Entry::new(Event::TunnelDown).with("forwarder", name).with("from", remote);
        self.record(&entry.with("why", why));
        match why {
            Down::Closed => tracing::info!(forwarder = %name, %remote, "tunnel closed"),
            why => tracing::warn!(forwarder = %name, %remote, "tunnel down: {why}"),
        }
        self.registrar.handle_down(session, now);
    }
}
