//! The contact points as one process leaves them to another.

use std::time::{Duration, Instant};

use adit::handoff::{Protocol, SessionKey};
use adit::key::PublicKey;
use adit_proto::id::ContactId;
use serde::{Deserialize, Serialize};

use super::{Holder, Lease, Registrar, State};
use crate::contact::Contact;

/// A contact point, whose listener, if it has one, is passed on beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LeaseLeft {
    pub(crate) key: PublicKey,
    pub(crate) peer: String,
    pub(crate) protocol: Protocol,
    pub(crate) contact: Contact,
    pub(crate) has_listener: bool,
    state: StateLeft,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum StateLeft {
    Held { session: u64, contact: ContactId },
    Kept { left: Duration },
}

impl<L> Lease<L> {
    /// What of it is no socket.
    pub(crate) fn leave(&self, now: Instant) -> LeaseLeft {
        LeaseLeft {
            key: self.key,
            peer: self.peer.clone(),
            protocol: self.protocol,
            contact: self.contact.clone(),
            has_listener: self.listener.is_some(),
            state: match self.state {
                State::Held(Holder { session, contact }) => {
                    StateLeft::Held { session: session.0, contact }
                }
                State::Kept { until } => {
                    StateLeft::Kept { left: until.saturating_duration_since(now) }
                }
            },
        }
    }
}

impl<L> Registrar<L> {
    /// Goes on with a contact point of another process.
    pub(crate) fn take_over(&mut self, left: LeaseLeft, listener: Option<L>, now: Instant) {
        let LeaseLeft { key, peer, protocol, contact, state, .. } = left;
        let state = match state {
            StateLeft::Held { session, contact } => {
                State::Held(Holder { session: SessionKey(session), contact })
            }
            StateLeft::Kept { left } => State::Kept { until: now + left },
        };
        match state {
            State::Held(holder) => drop(self.contacts_by_holder.insert(holder, contact.clone())),
            State::Kept { until } => {
                self.contacts_by_end.insert((until, contact.clone()));
            }
        }
        *self.counts_by_key.entry(key).or_default() += 1;
        let lease = Lease { key, peer, protocol, contact: contact.clone(), listener, state };
        self.leases.insert(contact, lease);
    }
}
