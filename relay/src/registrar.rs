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
//! A key that may have several sessions keeps what one of them has for that one, as long as it is
//! there. Private names are leased like ports, are global to the relay, and have no listener.
//!
//! A state machine: time and the listener `L` are arguments, and it opens and closes nothing.

mod left;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use adit::handoff::{Protocol, SessionKey};
use adit::key::PublicKey;
use adit_proto::frame::{Refused, Registration};
use adit_proto::id::ContactId;
use adit_proto::limits::{CONTACT_LEASE, CONTACTS_MAX};

use crate::contact::Contact;
use crate::policy::{Forbidden, Policy};
use crate::refused::Cause;

pub(crate) use left::LeaseLeft;

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
    /// What it carries.
    pub(crate) protocol: Protocol,
    /// Where it is.
    pub(crate) contact: Contact,
    /// Where callers come in; a private one has none.
    pub(crate) listener: Option<L>,
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
    PortTaken(u16),
    #[error("the private name {0} is held by another key")]
    NameTaken(String),
    #[error("{0} is held by another session of this key")]
    InUse(Contact),
    #[error("port {port} cannot be had: {source}")]
    Unavailable { port: u16, source: io::Error },
    #[error("{0} is registered already in this session")]
    Twice(String),
    #[error("a forwarder may have {CONTACTS_MAX} contact points, and this one has them")]
    Limit,
}

impl Refusal {
    fn taken(contact: Contact) -> Self {
        match contact {
            Contact::Public(port, _) => Self::PortTaken(port),
            Contact::Private(name) => Self::NameTaken(name),
        }
    }

    /// What it counts as.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Forbidden(Forbidden::Name { .. }) => Cause::NameNotAllowed,
            Self::Forbidden(_) => Cause::PortNotAllowed,
            Self::PortTaken(_) | Self::InUse(Contact::Public(..)) => Cause::PortTaken,
            Self::NameTaken(_) | Self::InUse(Contact::Private(_)) => Cause::NameTaken,
            Self::Unavailable { .. } => Cause::PortUnavailable,
            Self::Twice(_) | Self::Limit => Cause::ContactLimit,
        }
    }

    /// What the forwarder is told.
    pub(crate) fn frame(&self) -> Refused {
        let may_retry = match self {
            Self::Forbidden(_) | Self::Twice(_) => false,
            Self::PortTaken(_)
            | Self::NameTaken(_)
            | Self::InUse(_)
            | Self::Unavailable { .. }
            | Self::Limit => true,
        };
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

/// A contact point that somebody has now.
#[derive(Debug)]
pub(crate) struct Granted<'a, L> {
    pub(crate) lease: &'a Lease<L>,
    /// Who had it until now, in another session of the same key.
    pub(crate) taken_from: Option<Holder>,
}

/// All contact points of a relay.
#[derive(Debug)]
pub(crate) struct Registrar<L> {
    leases: BTreeMap<Contact, Lease<L>>,
    contacts_by_holder: BTreeMap<Holder, Contact>,
    contacts_by_end: BTreeSet<(Instant, Contact)>,
    counts_by_key: BTreeMap<PublicKey, usize>,
}

impl<L> Default for Registrar<L> {
    fn default() -> Self {
        Self {
            leases: BTreeMap::new(),
            contacts_by_holder: BTreeMap::new(),
            contacts_by_end: BTreeSet::new(),
            counts_by_key: BTreeMap::new(),
        }
    }
}

impl<L> Registrar<L> {
    /// Takes a `REGISTER`. The listener of a port is opened only when policy and leases allow it,
    /// and used again when the key still has it. `keeps` says of another session of the key whether
    /// it keeps what it holds.
    pub(crate) fn handle_register(
        &mut self,
        caller: Caller<'_>,
        asked: &Registration,
        keeps: impl Fn(SessionKey) -> bool,
        open: impl FnOnce(u16, Protocol) -> io::Result<L>,
    ) -> Result<Granted<'_, L>, Refusal> {
        let contact = caller.policy.may_register(asked)?;
        let holder = caller.holder;
        if self.contacts_by_holder.get(&holder).is_some_and(|held| *held != contact) {
            return Err(Refusal::Twice(format!("contact point {}", holder.contact.0)));
        }
        let mut taken_from = None;
        match self.leases.get_mut(&contact) {
            Some(lease) if lease.key != caller.key => return Err(Refusal::taken(contact)),
            Some(lease) => {
                match lease.state {
                    State::Held(other) if other.session == holder.session && other != holder => {
                        return Err(Refusal::Twice(contact.to_string()));
                    }
                    State::Held(other) if other != holder && keeps(other.session) => {
                        return Err(Refusal::InUse(contact));
                    }
                    State::Held(other) => {
                        self.contacts_by_holder.remove(&other);
                        taken_from = Some(other).filter(|other| *other != holder);
                    }
                    State::Kept { until } => {
                        self.contacts_by_end.remove(&(until, contact.clone()));
                    }
                }
                lease.state = State::Held(holder);
                lease.peer.clone_from(&asked.name);
                lease.protocol = asked.protocol;
            }
            None => self.open(caller, &contact, asked, open)?,
        }
        self.contacts_by_holder.insert(holder, contact.clone());
        let lease = self.leases.get(&contact).ok_or_else(|| Refusal::taken(contact))?;
        Ok(Granted { lease, taken_from })
    }

    /// Whether `key` would get what is asked for, were it to register now; nothing is changed. `open`
    /// says whether a port that nobody has can be had.
    pub(crate) fn judge(
        &self,
        key: PublicKey,
        policy: &Policy,
        asked: &Registration,
        open: impl FnOnce(u16, Protocol) -> io::Result<()>,
    ) -> Result<(), Refusal> {
        let contact = policy.may_register(asked)?;
        match self.leases.get(&contact) {
            Some(lease) if lease.key != key => return Err(Refusal::taken(contact)),
            Some(_) => return Ok(()),
            None => {}
        }
        if self.counts_by_key.get(&key).is_some_and(|count| *count >= CONTACTS_MAX) {
            return Err(Refusal::Limit);
        }
        match contact {
            Contact::Public(port, protocol) => {
                open(port, protocol).map_err(|source| Refusal::Unavailable { port, source })
            }
            Contact::Private(_) => Ok(()),
        }
    }

    fn open(
        &mut self,
        caller: Caller<'_>,
        contact: &Contact,
        asked: &Registration,
        open: impl FnOnce(u16, Protocol) -> io::Result<L>,
    ) -> Result<(), Refusal> {
        let count = self.counts_by_key.get(&caller.key).copied().unwrap_or(0);
        if count >= CONTACTS_MAX {
            return Err(Refusal::Limit);
        }
        let listener = match *contact {
            Contact::Public(port, protocol) => {
                Some(open(port, protocol).map_err(|source| Refusal::Unavailable { port, source })?)
            }
            Contact::Private(_) => None,
        };
        let (key, peer, contact) = (caller.key, asked.name.clone(), contact.clone());
        let state = State::Held(caller.holder);
        let protocol = asked.protocol;
        let lease = Lease { key, peer, protocol, contact: contact.clone(), listener, state };
        self.leases.insert(contact, lease);
        self.counts_by_key.insert(key, count + 1);
        Ok(())
    }

    /// Takes an `UNREGISTER`; what is returned is to be closed.
    pub(crate) fn handle_unregister(&mut self, holder: Holder) -> Option<Lease<L>> {
        let contact = self.contacts_by_holder.get(&holder).cloned()?;
        self.remove(&contact)
    }

    /// Takes that a session has ended: what it held is kept for its key.
    pub(crate) fn handle_down(&mut self, session: SessionKey, now: Instant) {
        let first = Holder { session, contact: ContactId(0) };
        let last = Holder { session, contact: ContactId(u32::MAX) };
        let until = now + CONTACT_LEASE;
        for (_, contact) in self.contacts_by_holder.extract_if(first..=last, |_, _| true) {
            if let Some(lease) = self.leases.get_mut(&contact) {
                lease.state = State::Kept { until };
                self.contacts_by_end.insert((until, contact));
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
            Some(policy) => policy.may_have(&lease.contact).err().map(Some),
        };
        let revoked: Vec<_> = self
            .leases
            .values()
            .filter_map(|lease| Some((lease.contact.clone(), forbidden(lease)?)))
            .collect();
        let take = |(contact, why)| Some((self.remove(&contact)?, why));
        revoked.into_iter().filter_map(take).collect()
    }

    /// Everything that `is_over`, to be closed.
    pub(crate) fn drain(&mut self, is_over: impl Fn(&Lease<L>) -> bool) -> Vec<Lease<L>> {
        let over = self.leases.values().filter(|lease| is_over(lease));
        let contacts: Vec<_> = over.map(|lease| lease.contact.clone()).collect();
        contacts.into_iter().filter_map(|contact| self.remove(&contact)).collect()
    }

    /// When the next lease ends.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.contacts_by_end.first().map(|(until, _)| *until)
    }

    /// The leases that have ended, to be closed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Lease<L>> {
        let mut over = Vec::new();
        while let Some((until, contact)) = self.contacts_by_end.first().cloned()
            && until <= now
        {
            self.contacts_by_end.remove(&(until, contact.clone()));
            over.extend(self.remove(&contact));
        }
        over
    }

    fn remove(&mut self, contact: &Contact) -> Option<Lease<L>> {
        let lease = self.leases.remove(contact)?;
        match lease.state {
            State::Held(holder) => drop(self.contacts_by_holder.remove(&holder)),
            State::Kept { until } => {
                self.contacts_by_end.remove(&(until, contact.clone()));
            }
        }
        if let Some(count) = self.counts_by_key.get_mut(&lease.key) {
            *count -= 1;
            if *count == 0 {
                self.counts_by_key.remove(&lease.key);
            }
        }
        Some(lease)
    }

    /// What stands at a contact point.
    pub(crate) fn lease(&self, contact: &Contact) -> Option<&Lease<L>> {
        self.leases.get(contact)
    }

    /// What is registered under a private name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Lease<L>> {
        self.leases.get(&Contact::Private(name.to_owned()))
    }

    /// All contact points: ports in order, then names.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease<L>> {
        self.leases.values()
    }
}
