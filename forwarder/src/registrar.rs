//! The forwarder's registrar: which internal peers are to have contact points, and which have.
//!
//! Peers of the configuration stay; those that are registered while the daemon runs have a lease.
//! A state machine without I/O. Inputs are `handle_*`; [`Registrar::poll_action`] says what is to
//! be done, until it says nothing; at [`Registrar::poll_timeout`] [`Registrar::handle_timeout`] is
//! due. Each takes logarithmic time in the number of peers, but for sessions and reloads, which
//! concern all of them. A peer's way:
//!
//! ```text
//!              up                resolved            REGISTERED
//!   Waiting ────────▶ Resolving ─────────▶ Asked ───────────────▶ Registered
//!    ▲   ▲                ▲ │                │                        │
//!    │   │                │ │ no address     │ REFUSED                │ REFUSED (policy changed)
//!    │   │          later │ ▼                ▼                        │
//!    │   └──── down ───── Refused ◀────────────────────────────────────┘
//!    │
//!    └──── a check succeeds ──── Down ◀── checks fail, from anywhere
//! ```
//!
//! A peer that is being registered for the first time, and that somebody waits for, is removed
//! instead of `Refused` or `Down`: the answer is no, and nothing stays.

#[cfg(test)]
mod tests;

mod entry;
mod health;
mod inside;
mod leases;
mod left;
mod settling;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_proto::frame::{Protocol, Refused, Registration};
use adit_proto::id::ContactId;

use crate::api::{Refusal, StatusCode};
use crate::audit::{self, Event};
use crate::config::{Address, Peer, Place};
use crate::handoff::{Command, ControlFrame, ProxyHeader, Service, SessionKey, Target};
use crate::status::PeerStatus;
use entry::{Entry, Stage, Tenure};
use settling::Settling;
use table::Table;

pub use leases::{LEASE, LEASE_MAX, LEASE_MIN, Lease, Registered};
pub use left::PeerLeft;

/// What the registrar wants done.
#[derive(Debug)]
pub enum Action {
    /// Tell the pump.
    Tell(Command),
    /// Resolve a peer's name and call [`Registrar::handle_resolved`].
    Resolve(ContactId, Place),
    /// Connect to a peer and call [`Registrar::handle_checked`].
    Check(ContactId, Address),
}

/// The internal peers, and how far each has come.
#[derive(Debug, Default)]
pub struct Registrar {
    table: Table,
    session: Option<SessionKey>,
    settling: Option<Settling>,
    actions: VecDeque<Action>,
    /// What is to be written down.
    entries: VecDeque<audit::Entry>,
}

impl Registrar {
    /// Registers these peers of the configuration as soon as there is a session.
    pub fn new(peers: Vec<Peer>, now: Instant) -> Self {
        let mut registrar = Self::default();
        registrar.handle_peers(peers, now);
        registrar
    }

    /// Takes the peers of a new configuration. Those that stay the same are not touched, but for those
    /// that were refused; one that was registered otherwise gives way to one that has its name or its
    /// contact point.
    pub fn handle_peers(&mut self, peers: Vec<Peer>, now: Instant) {
        let mut wanted: BTreeMap<_, _> =
            peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        // First, so that a changed peer can have its old port again.
        for id in self.table.ids() {
            let Some(entry) = self.table.get(id) else { continue };
            if entry.tenure != Tenure::Configured {
                continue;
            }
            let name = &entry.peer.name;
            if wanted.get(name) == Some(&entry.peer) {
                wanted.remove(name);
                self.ask_again(id);
                continue;
            }
            tracing::info!(peer = %name, contact = %entry.peer.contact, "removed");
            self.record(id, Event::Unregistered, &"the configuration has it no more");
            self.withdraw(id);
            self.table.remove(id);
        }
        for peer in wanted.into_values() {
            self.make_way(&peer);
            let id = self.table.insert(Entry::new(peer, Tenure::Configured, now));
            self.ask(id);
        }
    }

    fn make_way(&mut self, peer: &Peer) {
        let holders = [self.table.id_by_name(&peer.name), self.table.id_by_contact(peer)];
        for id in holders.into_iter().flatten() {
            let text = format!("the configuration has {} now, at {}", peer.name, peer.contact);
            let Some(entry) = self.table.get(id) else { continue };
            tracing::warn!(peer = %entry.peer.name, contact = %entry.peer.contact, "removed: {text}");
            self.record(id, Event::Withdrawn, &text);
            self.give_up(id, Refusal::new(StatusCode::CONFLICT, text));
        }
    }

    fn withdraw(&mut self, contact: ContactId) {
        if let Some(session) = self.session {
            let frame = ControlFrame::Unregister(contact);
            self.actions.push_back(Action::Tell(Command::Send { session, frame }));
            self.actions.push_back(Action::Tell(Command::Withdraw { session, contact }));
        }
    }

    /// Takes that a session has begun, in which nothing is registered.
    pub fn handle_up(&mut self, session: SessionKey, now: Instant) {
        self.session = Some(session);
        self.table.renew_sources();
        let ids = self.table.ids();
        ids.iter().for_each(|id| self.ask(*id));
        self.settling = Some(Settling::new(ids, now));
        self.settle();
    }

    /// Takes that the session has ended.
    pub fn handle_down(&mut self) {
        self.session = None;
        self.settling = None;
        for id in self.table.ids() {
            self.table.update(id, |entry| {
                entry.forget_refusals();
                if !entry.is_down() {
                    entry.begin(Stage::Waiting);
                }
            });
        }
    }

    /// Begins a peer's registration with its address, which may have changed since the last time.
    fn ask(&mut self, id: ContactId) {
        if self.session.is_none() {
            return;
        }
        let begin = |entry: &mut Entry| {
            (!entry.is_down()).then(|| {
                entry.begin(Stage::Resolving);
                entry.peer.address.clone()
            })
        };
        match self.table.update(id, begin).flatten() {
            Some(Address::Unix(path)) => self.register(id, Target::Unix(path)),
            Some(Address::Tcp(place)) => match place.literal() {
                Some(target) => self.register(id, Target::Tcp(target)),
                None => self.actions.push_back(Action::Resolve(id, place)),
            },
            Some(Address::Udp(place)) => match place.literal() {
                Some(target) => self.register(id, Target::Udp(target)),
                None => self.actions.push_back(Action::Resolve(id, place)),
            },
            None => {}
        }
    }

    /// Asks once more for a peer that was refused: somebody wants it still, and at the relay the files
    /// may have changed.
    fn ask_again(&mut self, id: ContactId) {
        if self.table.get(id).is_some_and(|entry| matches!(entry.stage, Stage::Refused { .. })) {
            self.ask(id);
        }
    }

    /// Takes what came of [`Action::Resolve`].
    pub fn handle_resolved(
        &mut self,
        id: ContactId,
        resolved: io::Result<SocketAddr>,
        now: Instant,
    ) {
        let is_expected = |entry: &&Entry| entry.stage == Stage::Resolving;
        let Some(entry) = self.table.get(id).filter(is_expected) else { return };
        match resolved {
            Ok(target) => {
                let target = match entry.peer.protocol() {
                    Protocol::Tcp => Target::Tcp(target),
                    Protocol::Udp => Target::Udp(target),
                };
                self.register(id, target);
            }
            Err(error) => {
                let text = format!("cannot resolve {}: {error}", entry.peer.address);
                self.handle_refused(id, text, StatusCode::UNPROCESSABLE_ENTITY, Some(now));
            }
        }
        self.settle();
    }

    fn register(&mut self, contact: ContactId, target: Target) {
        self.table.update(contact, |entry| {
            entry.begin(Stage::Asked);
            entry.target = Some(target);
        });
        // The pump knows the target before the relay can open the first flow to it.
        self.serve(contact, None);
        let (Some(session), Some(entry)) = (self.session, self.table.get(contact)) else { return };
        let registration = Registration {
            protocol: entry.peer.protocol(),
            port: entry.peer.contact.port(),
            name: entry.peer.name.clone(),
        };
        let frame = ControlFrame::Register(contact, registration);
        self.actions.push_back(Action::Tell(Command::Send { session, frame }));
    }

    /// Tells the pump where a peer is, for whom, and at which contact address it is called.
    fn serve(&mut self, contact: ContactId, called: Option<SocketAddr>) {
        let (Some(session), Some(entry)) = (self.session, self.table.get(contact)) else { return };
        let Some(target) = entry.target.clone() else { return };
        let peer = Arc::from(entry.peer.name.as_str());
        let sources = Arc::clone(&entry.peer.sources);
        let proxy = entry.peer.proxy.map(|version| ProxyHeader { version, contact: called });
        let service = Service { target, sources, proxy, quota: entry.peer.quota };
        self.actions.push_back(Action::Tell(Command::Serve { session, contact, peer, service }));
    }

    /// Takes the relay's registrar's answer.
    pub fn handle_frame(&mut self, frame: ControlFrame, now: Instant) {
        match frame {
            ControlFrame::Registered(id, registered) => {
                self.handle_registered(id, registered.address, now);
            }
            ControlFrame::Refused(id, Refused { may_retry, text }) => {
                let is_expected =
                    |entry: &Entry| matches!(entry.stage, Stage::Asked | Stage::Registered { .. });
                if !self.table.get(id).is_some_and(is_expected) {
                    return;
                }
                let status = if may_retry { StatusCode::CONFLICT } else { StatusCode::FORBIDDEN };
                self.handle_refused(id, text, status, may_retry.then_some(now));
            }
            ControlFrame::Goaway(goaway) => {
                let place = Some(goaway.place).filter(|place| !place.is_empty());
                tracing::warn!(place, "the relay is going away: {}", goaway.text);
            }
            // Only forwarders register; a relay that does is ignored, not believed.
            ControlFrame::Register(..) | ControlFrame::Unregister(_) => {}
        }
        self.settle();
    }

    fn handle_registered(&mut self, id: ContactId, contact: String, now: Instant) {
        let is_expected = |entry: &&Entry| entry.stage == Stage::Asked;
        let Some(entry) = self.table.get(id).filter(is_expected) else { return };
        let (name, address) = (&entry.peer.name, &entry.peer.address);
        tracing::info!(peer = %name, %contact, %address, "registered");
        self.entries.push_back(entry.record(Event::Registered).with("at", &contact));
        // A private one is told as its name.
        let called = contact.parse().ok().filter(|_| entry.peer.proxy.is_some());
        self.table.update(id, |entry| {
            entry.forget_refusals();
            entry.begin(Stage::Registered { contact });
            let peer = entry.status(now);
            entry.answer(&Ok(Registered { is_new: true, peer }));
        });
        if called.is_some() {
            self.serve(id, called);
        }
    }

    /// Takes that there is no contact point. Who waits for it to be registered is told so, and
    /// nothing stays; what was registered before is asked for again, where that can help.
    fn handle_refused(
        &mut self,
        id: ContactId,
        reason: String,
        status: StatusCode,
        retry_from: Option<Instant>,
    ) {
        self.record(id, Event::Refused, &reason);
        if let Some(entry) = self.table.get(id).filter(|entry| entry.pending.is_some()) {
            let (name, contact) = (&entry.peer.name, entry.peer.contact);
            tracing::info!(peer = %name, %contact, "refused: {reason}");
            return self.give_up(id, Refusal::new(status, reason));
        }
        self.table.update(id, |entry| entry.refuse(reason, retry_from));
    }

    /// When something is to be done next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let settling = self.settling.as_ref().map(|settling| settling.until);
        [self.table.poll_timeout(), settling].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.settling.take_if(|settling| settling.until <= now);
        for id in self.table.due(now) {
            let Some(entry) = self.table.get(id) else { continue };
            let is_retry = is_due(entry.retry_at());
            if is_due(entry.lease_until()) {
                self.handle_lease_over(id);
            } else if is_due(entry.pending.as_ref().map(|pending| pending.until)) {
                self.handle_overdue(id);
            } else {
                self.check(id, now);
                if is_retry {
                    self.ask(id);
                }
            }
        }
    }

    /// What is to be done next, if anything.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Notes what has happened to a peer, and why.
    fn record(&mut self, id: ContactId, event: Event, why: &dyn Display) {
        let Some(entry) = self.table.get(id) else { return };
        self.entries.push_back(entry.record(event).with("why", why));
    }

    /// What is to be written into the audit log, if anything.
    pub fn poll_entry(&mut self) -> Option<audit::Entry> {
        self.entries.pop_front()
    }

    /// The peers for `adit peers`.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.table.iter().map(|(_, entry)| entry.status(now)).collect()
    }
}
