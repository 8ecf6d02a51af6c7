//! The relay's registrar: which contact points stand, who has them, and for how long.
//!
//! A contact point is leased to a *key*. It outlives the session, so that a forwarder that dials
//! again finds its ports, and callers in the meantime wait instead of being turned away:
//!
//! ```text
//!            REGISTER                    session ends
//!   (free) ───────────▶ held by a session ───────────▶ kept for the key
//!      ▲                      │       ▲                   │        │
//!      │      UNREGISTER,     │       │ REGISTER, same key│        │ lease over,
//!      ├──── policy changed ──┘       └───────────────────┘        │ policy changed
//!      └───────────────────────────────────────────────────────────┘
//! ```
//!
//! A state machine: time and the listener `L` are arguments, and it opens and closes nothing.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use adit::handoff::SessionKey;
use adit::key::PublicKey;
use adit_proto::frame::{Refused, Registration};
use adit_proto::id::ContactId;
use adit_proto::limits::{CONTACT_LEASE, CONTACTS_MAX};

use crate::policy::{Forbidden, Policy};
use crate::refused::Cause;

/// A contact point in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) session: SessionKey,
    pub(crate) contact: ContactId,
}

/// A contact point, in use or kept.
#[derive(Debug)]
pub(crate) struct Lease<L> {
    /// Whose it is.
    pub(crate) key: PublicKey,
    /// The internal peer's name.
    pub(crate) peer: String,
    /// Its port.
    pub(crate) port: u16,
    /// Where callers come in.
    pub(crate) listener: L,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held(Holder),
    Kept { until: Instant },
}

impl<L> Lease<L> {
    /// The session that has it, if one does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match self.state {
            State::Held(holder) => Some(holder),
            State::Kept { .. } => None,
        }
    }

    /// When it ends, if no session has it.
    pub(crate) fn kept_until(&self) -> Option<Instant> {
        match self.state {
            State::Held(_) => None,
            State::Kept { until } => Some(until),
        }
    }
}

/// Why there is no contact point.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("port {0} is held by another forwarder")]
    Taken(u16),
    #[error("port {port} cannot be had: {source}")]
    Unavailable { port: u16, source: io::Error },
    #[error("{0} is registered already in this session")]
    Twice(String),
    #[error("a forwarder may have {CONTACTS_MAX} contact points, and this one has them")]
    Limit,
}

impl Refusal {
    /// What it counts as.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Forbidden(_) => Cause::PortNotAllowed,
            Self::Taken(_) => Cause::PortTaken,
            Self::Unavailable { .. } => Cause::PortUnavailable,
            Self::Twice(_) | Self::Limit => Cause::ContactLimit,
        }
    }

    /// What the forwarder is told.
    pub(crate) fn frame(&self) -> Refused {
        let may_retry = matches!(self, Self::Taken(_) | Self::Unavailable { .. } | Self::Limit);
        Refused { may_retry, text: self.to_string() }
    }
}

/// Who asks for a contact point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) key: PublicKey,
    pub(crate) holder: Holder,
    pub(crate) policy: &'a Policy,
}

/// All contact points of a relay.
#[derive(Debug)]
pub(crate) struct Registrar<L> {
    leases_by_port: BTreeMap<u16, Lease<L>>,
    ports_by_holder: BTreeMap<Holder, u16>,
    counts_by_key: BTreeMap<PublicKey, usize>,
}

impl<L> Default for Registrar<L> {
    fn default() -> Self {
        Self {
            leases_by_port: BTreeMap::new(),
            ports_by_holder: BTreeMap::new(),
            counts_by_key: BTreeMap::new(),
        }
    }
}

impl<L> Registrar<L> {
    /// Takes a `REGISTER`. The listener is opened only when policy and leases allow it, and used
    /// again when the key still has it.
    pub(crate) fn handle_register(
        &mut self,
        caller: Caller<'_>,
        asked: &Registration,
        open: impl FnOnce(u16) -> io::Result<L>,
    ) -> Result<&Lease<L>, Refusal> {
        caller.policy.check(asked)?;
        let (port, holder) = (asked.port, caller.holder);
        if self.ports_by_holder.get(&holder).is_some_and(|held| *held != port) {
            return Err(Refusal::Twice(format!("contact point {}", holder.contact.0)));
        }
        match self.leases_by_port.get_mut(&port) {
            Some(lease) if lease.key != caller.key => return Err(Refusal::Taken(port)),
            Some(lease) => {
                if let State::Held(other) = lease.state {
                    if other.session == holder.session && other != holder {
                        return Err(Refusal::Twice(format!("port {port}")));
                    }
                    self.ports_by_holder.remove(&other);
                }
                lease.state = State::Held(holder);
                lease.peer.clone_from(&asked.name);
            }
            None => self.open(caller, asked, open)?,
        }
        self.ports_by_holder.insert(holder, port);
        self.leases_by_port.get(&port).ok_or(Refusal::Taken(port))
    }

    fn open(
        &mut self,
        caller: Caller<'_>,
        asked: &Registration,
        open: impl FnOnce(u16) -> io::Result<L>,
    ) -> Result<(), Refusal> {
        let port = asked.port;
        let count = self.counts_by_key.get(&caller.key).copied().unwrap_or(0);
        if count >= CONTACTS_MAX {
            return Err(Refusal::Limit);
        }
        let listener = open(port).map_err(|source| Refusal::Unavailable { port, source })?;
        let state = State::Held(caller.holder);
        let lease = Lease { key: caller.key, peer: asked.name.clone(), port, listener, state };
        self.leases_by_port.insert(port, lease);
        self.counts_by_key.insert(caller.key, count + 1);
        Ok(())
    }

    /// Takes an `UNREGISTER`; what is returned is to be closed.
    pub(crate) fn handle_unregister(&mut self, holder: Holder) -> Option<Lease<L>> {
        let port = self.ports_by_holder.get(&holder).copied()?;
        self.remove(port)
    }

    /// Takes that a session has ended: what it held is kept for its key.
    pub(crate) fn handle_down(&mut self, session: SessionKey, now: Instant) {
        let first = Holder { session, contact: ContactId(0) };
        let last = Holder { session, contact: ContactId(u32::MAX) };
        for (_, port) in self.ports_by_holder.extract_if(first..=last, |_, _| true) {
            if let Some(lease) = self.leases_by_port.get_mut(&port) {
                lease.state = State::Kept { until: now + CONTACT_LEASE };
            }
        }
    }

    /// Takes that policies have changed; what they no longer allow is to be closed.
    pub(crate) fn handle_policies(
        &mut self,
        policies: &BTreeMap<PublicKey, Policy>,
    ) -> Vec<(Lease<L>, Option<Forbidden>)> {
        let forbidden = |lease: &Lease<L>| match policies.get(&lease.key) {
            None => Some(None),
            Some(policy) => policy.check_port(lease.port).err().map(Some),
        };
        let revoked: Vec<_> = self
            .leases_by_port
            .values()
            .filter_map(|lease| Some((lease.port, forbidden(lease)?)))
            .collect();
        let take = |(port, why)| Some((self.remove(port)?, why));
        revoked.into_iter().filter_map(take).collect()
    }

    /// Everything there is, to be closed: the relay is ending.
    pub(crate) fn drain(&mut self) -> Vec<Lease<L>> {
        let ports: Vec<_> = self.leases_by_port.keys().copied().collect();
        ports.into_iter().filter_map(|port| self.remove(port)).collect()
    }

    /// When the next lease ends.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.leases_by_port.values().filter_map(Lease::kept_until).min()
    }

    /// The leases that have ended, to be closed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Lease<L>> {
        let is_over = |lease: &&Lease<L>| lease.kept_until().is_some_and(|until| until <= now);
        let over: Vec<_> = self.leases_by_port.values().filter(is_over).map(|l| l.port).collect();
        over.into_iter().filter_map(|port| self.remove(port)).collect()
    }

    fn remove(&mut self, port: u16) -> Option<Lease<L>> {
        let lease = self.leases_by_port.remove(&port)?;
        if let Some(holder) = lease.holder() {
            self.ports_by_holder.remove(&holder);
        }
        if let Some(count) = self.counts_by_key.get_mut(&lease.key) {
            *count -= 1;
            if *count == 0 {
                self.counts_by_key.remove(&lease.key);
            }
        }
        Some(lease)
    }

    /// All contact points, by port.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease<L>> {
        self.leases_by_port.values()
    }
}
