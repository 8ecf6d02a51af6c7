//! Peers that are registered while the daemon runs, each for the time of a lease.
//!
//! Who registers is answered when the relay has answered, or when it is clear that it does not; a
//! registration that fails leaves nothing behind. Afterwards the peer is as one of the configuration,
//! through outages and new sessions, until its lease ends.

use std::time::{Duration, Instant};

use adit_proto::id::ContactId;
use adit_proto::limits::CONTACTS_MAX;

use super::Registrar;
use super::entry::{Entry, Pending, Tenure};
use crate::api::{Refusal, Reply, StatusCode};
use crate::audit::Event;
use crate::config::{Peer, Sha256, Token};
use crate::status::PeerStatus;

/// A lease when none is asked for …
pub const LEASE: Duration = Duration::from_secs(300);
/// … the shortest …
pub const LEASE_MIN: Duration = Duration::from_secs(10);
/// … and the longest.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long a registration may take: a tunnel, a name to be resolved, the relay's answer.
pub(super) const REGISTER_MAX: Duration = Duration::from_secs(8);

/// What a peer is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// For how long without renewal.
    pub time: Duration,
    /// By whose token, if not by the daemon's own user: without the token there is no lease.
    pub by: Option<Sha256>,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whether it was not there before.
    pub is_new: bool,
    /// The peer as it is now.
    pub peer: PeerStatus,
}

impl Registrar {
    /// Registers a peer for `lease`, or renews it when it is registered as it is; one that was refused
    /// meanwhile is asked for again. The answer may come later.
    pub fn handle_register(
        &mut self,
        peer: Peer,
        lease: Lease,
        reply: Reply<Registered>,
        now: Instant,
    ) {
        let until = now + lease.time;
        if let Some(id) = self.table.id_by_name(&peer.name) {
            return self.register_again(id, &peer, until, reply, now);
        }
        if let Some(holder) = self.holder(&peer) {
            let text = format!("{} is held by the peer {holder}", peer.contact);
            return reply.send(Err(Refusal::new(StatusCode::CONFLICT, text)));
        }
        if self.table.len() >= CONTACTS_MAX {
            let text = format!(
                "a forwarder may have {CONTACTS_MAX} peers, and this one has them: unregister one, \
                 or start another forwarder"
            );
            return reply.send(Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, text)));
        }
        let mut entry = Entry::new(peer, Tenure::Leased { until, by: lease.by }, now);
        entry.pending = Some(Pending { replies: vec![reply], until: now + REGISTER_MAX });
        let id = self.table.insert(entry);
        self.ask(id);
    }

    /// Who has the contact point that `peer` asks for.
    fn holder(&self, peer: &Peer) -> Option<String> {
        let id = self.table.id_by_contact(peer)?;
        let holder = &self.table.get(id)?.peer;
        Some(format!("{} ({})", holder.name, holder.address))
    }

    fn register_again(
        &mut self,
        id: ContactId,
        peer: &Peer,
        until: Instant,
        reply: Reply<Registered>,
        now: Instant,
    ) {
        let Some(entry) = self.table.get(id) else { return };
        let held = &entry.peer;
        if entry.tenure == Tenure::Configured {
            return reply.send(Err(configured(&held.name)));
        }
        if held != peer {
            let text = format!(
                "the name {} is held by another peer, {} at {}: unregister that one first, or take \
                 another name",
                held.name, held.address, held.contact
            );
            return reply.send(Err(Refusal::new(StatusCode::CONFLICT, text)));
        }
        self.ask_again(id);
        self.table.update(id, |entry| {
            entry.tenure.renew(until);
            match &mut entry.pending {
                Some(pending) => pending.replies.push(reply),
                None => reply.send(Ok(Registered { is_new: false, peer: entry.status(now) })),
            }
        });
    }

    /// Lets a peer's lease begin again, for `lease`, and asks for it again if it was refused.
    ///
    /// # Errors
    /// When no peer has the name, or it has no lease.
    pub fn handle_renew(
        &mut self,
        name: &str,
        lease: Duration,
        now: Instant,
    ) -> Result<PeerStatus, Refusal> {
        let id = self.leased(name)?;
        self.ask_again(id);
        let renewed = self.table.update(id, |entry| {
            entry.tenure.renew(now + lease);
            entry.status(now)
        });
        renewed.ok_or_else(|| unknown(name))
    }

    /// Removes a peer that was registered here.
    ///
    /// # Errors
    /// When no peer has the name, or it is one of the configuration.
    pub fn handle_unregister(&mut self, name: &str) -> Result<(), Refusal> {
        let id = self.leased(name)?;
        tracing::info!(peer = %name, "unregistered");
        self.record(id, Event::Unregistered, &"it was asked for");
        let text = format!("{name} was unregistered before the relay had answered");
        self.give_up(id, Refusal::new(StatusCode::CONFLICT, text));
        Ok(())
    }

    fn leased(&self, name: &str) -> Result<ContactId, Refusal> {
        let id = self.table.id_by_name(name).ok_or_else(|| unknown(name))?;
        match self.table.get(id).map(|entry| entry.tenure) {
            Some(Tenure::Leased { .. }) => Ok(id),
            _ => Err(configured(name)),
        }
    }

    /// Takes the tokens of a new configuration: what they are not good for any more is removed.
    pub fn handle_tokens(&mut self, tokens: &[Token]) {
        let is_good = |peer: &Peer, hash| {
            let mut own = tokens.iter().filter(|token| token.sha256 == hash);
            own.any(|token| token.peer == peer.name && token.contacts.contain(peer.contact))
        };
        let is_revoked = |entry: &Entry| match entry.tenure {
            Tenure::Leased { by: Some(hash), .. } => !is_good(&entry.peer, hash),
            _ => false,
        };
        let revoked = self.table.iter().filter(|(_, entry)| is_revoked(entry));
        for id in revoked.map(|(id, _)| id).collect::<Vec<_>>() {
            let Some(entry) = self.table.get(id) else { continue };
            tracing::info!(peer = %entry.peer.name, contact = %entry.peer.contact, "token revoked");
            let text = "the token is not good for this any more";
            self.record(id, Event::Withdrawn, &text);
            self.give_up(id, Refusal::new(StatusCode::FORBIDDEN, text));
        }
    }

    /// Removes what does not become or remain a registration; who waits for it is told why.
    pub(super) fn give_up(&mut self, id: ContactId, refusal: Refusal) {
        self.withdraw(id);
        if let Some(mut entry) = self.table.remove(id) {
            entry.answer(&Err(refusal));
        }
    }

    /// Takes that a registration has not come to an end in time.
    pub(super) fn handle_overdue(&mut self, id: ContactId) {
        let seconds = REGISTER_MAX.as_secs();
        let text = match self.session {
            None => format!(
                "there has been no tunnel to the relay for {seconds} s (adit status says why): \
                 nothing is registered"
            ),
            Some(_) => {
                format!("the relay has not answered within {seconds} s: nothing is registered")
            }
        };
        self.give_up(id, Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }

    pub(super) fn handle_lease_over(&mut self, id: ContactId) {
        let Some(entry) = self.table.get(id) else { return };
        tracing::info!(peer = %entry.peer.name, contact = %entry.peer.contact, "the lease is over");
        self.record(id, Event::LeaseOver, &"nobody has renewed it");
        let text = "the lease was over before the relay answered";
        self.give_up(id, Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("no peer {name} is registered"))
}

fn configured(name: &str) -> Refusal {
    let text = format!(
        "{name} is a peer of the configuration, without a lease: change it there, then reload (kill -HUP)"
    );
    Refusal::new(StatusCode::CONFLICT, text)
}
