//! The forwarder's registrar: which internal peers are to have contact points, and which have.
//!
//! A state machine without I/O. Inputs are `handle_*`; [`Registrar::poll_action`] says what is to
//! be done, until it says nothing; at [`Registrar::poll_timeout`] [`Registrar::handle_timeout`] is
//! due. A peer's way:
//!
//! ```text
//!              up                resolved            REGISTERED
//!   Waiting ────────▶ Resolving ─────────▶ Asked ───────────────▶ Registered
//!      ▲                  ▲ │                │                        │
//!      │                  │ │ no address     │ REFUSED                │ REFUSED (policy changed)
//!      │            later │ ▼                ▼                        │
//!      └───── down ───── Refused ◀────────────────────────────────────┘
//! ```

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::frame::{Protocol, Refused, Registration};
use adit_proto::id::ContactId;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::config::{Peer, Place};
use crate::handoff::{Command, ControlFrame, Service, SessionKey, Target};
use crate::logging::rounded;
use crate::sources::Sources;
use crate::status::PeerStatus;

/// Waits between attempts of one peer. The jitter doubles them at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What the registrar wants done.
#[derive(Debug)]
pub enum Action {
    /// Tell the pump.
    Tell(Command),
    /// Resolve a peer's name and call [`Registrar::handle_resolved`].
    Resolve(ContactId, Place),
}

/// The internal peers of the configuration, and how far each has come.
#[derive(Debug, Default)]
pub struct Registrar {
    entries: BTreeMap<ContactId, Entry>,
    last_id: u32,
    session: Option<SessionKey>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    stage: Stage,
    retries: ExponentialBackoff,
    retry_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Resolving,
    Asked,
    Registered { contact: String },
    Refused { reason: String },
}

impl Entry {
    fn new(peer: Peer) -> Self {
        Self { peer, stage: Stage::Waiting, retries: retries(), retry_at: None }
    }

    fn refuse(&mut self, reason: String, retry_from: Option<Instant>) {
        let wait = self.retries.next().unwrap_or(RETRY_MAX);
        self.retry_at = retry_from.map(|now| now + wait);
        let again_in = self.retry_at.map(|_| tracing::field::debug(rounded(wait)));
        let (name, contact) = (&self.peer.name, self.peer.contact);
        tracing::warn!(peer = %name, %contact, again_in, "refused: {reason}");
        self.stage = Stage::Refused { reason };
    }

    fn status(&self) -> PeerStatus {
        let asked_for = || self.peer.contact.to_string();
        let (state, contact, reason) = match &self.stage {
            Stage::Waiting => ("waiting", asked_for(), None),
            Stage::Resolving | Stage::Asked => ("asked", asked_for(), None),
            Stage::Registered { contact } => ("registered", contact.clone(), None),
            Stage::Refused { reason } => ("refused", asked_for(), Some(reason.clone())),
        };
        PeerStatus {
            name: self.peer.name.clone(),
            address: self.peer.address.to_string(),
            contact,
            state: state.to_owned(),
            registered: matches!(self.stage, Stage::Registered { .. }),
            reason,
        }
    }
}

fn retries() -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(RETRY_MIN).with_max_delay(RETRY_MAX);
    waits.with_jitter().without_max_times().build()
}

impl Registrar {
    /// Registers these peers as soon as there is a session.
    pub fn new(peers: Vec<Peer>) -> Self {
        let mut registrar = Self::default();
        registrar.handle_peers(peers);
        registrar
    }

    /// Takes the peers of a new configuration. Those that stay the same are not touched.
    pub fn handle_peers(&mut self, peers: Vec<Peer>) {
        let wanted: BTreeSet<Peer> = peers.into_iter().collect();
        let is_gone = |entry: &Entry| !wanted.contains(&entry.peer);
        let gone: Vec<_> = self.entries.extract_if(.., |_, entry| is_gone(entry)).collect();
        // First, so that a changed peer can have its old port again.
        for (id, entry) in gone {
            tracing::info!(peer = %entry.peer.name, contact = %entry.peer.contact, "removed");
            self.withdraw(id);
        }
        let known: BTreeSet<_> = self.entries.values().map(|entry| entry.peer.clone()).collect();
        for peer in wanted.difference(&known) {
            // Ids are not used again, so that a late answer cannot find a new tenant.
            self.last_id += 1;
            let id = ContactId(self.last_id);
            self.entries.insert(id, Entry::new(peer.clone()));
            self.ask(id);
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
    pub fn handle_up(&mut self, session: SessionKey) {
        self.session = Some(session);
        let ids: Vec<_> = self.entries.keys().copied().collect();
        ids.into_iter().for_each(|id| self.ask(id));
    }

    /// Takes that the session has ended.
    pub fn handle_down(&mut self) {
        self.session = None;
        for entry in self.entries.values_mut() {
            *entry = Entry::new(entry.peer.clone());
        }
    }

    /// Begins a peer's registration with its address, which may have changed since the last time.
    fn ask(&mut self, id: ContactId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|_| self.session.is_some()) else {
            return;
        };
        entry.stage = Stage::Resolving;
        entry.retry_at = None;
        match entry.peer.address.literal() {
            Some(target) => self.register(id, target),
            None => self.actions.push_back(Action::Resolve(id, entry.peer.address.clone())),
        }
    }

    /// Takes what came of [`Action::Resolve`].
    pub fn handle_resolved(
        &mut self,
        id: ContactId,
        resolved: io::Result<SocketAddr>,
        now: Instant,
    ) {
        let is_expected = |entry: &&mut Entry| entry.stage == Stage::Resolving;
        let Some(entry) = self.entries.get_mut(&id).filter(is_expected) else { return };
        match resolved {
            Ok(target) => self.register(id, target),
            Err(error) => {
                entry.refuse(format!("cannot resolve {}: {error}", entry.peer.address), Some(now));
            }
        }
    }

    fn register(&mut self, contact: ContactId, target: SocketAddr) {
        let (Some(session), Some(entry)) = (self.session, self.entries.get_mut(&contact)) else {
            return;
        };
        entry.stage = Stage::Asked;
        let peer = Arc::from(entry.peer.name.as_str());
        let registration = Registration {
            protocol: Protocol::Tcp,
            port: entry.peer.contact.port(),
            name: entry.peer.name.clone(),
        };
        // The pump knows the target before the relay can open the first flow to it.
        let (target, sources) = (Target::from(target), Arc::new(Sources::any()));
        let service = Service { target, sources, proxy: None };
        let serve = Command::Serve { session, contact, peer, service };
        let frame = ControlFrame::Register(contact, registration);
        self.actions.push_back(Action::Tell(serve));
        self.actions.push_back(Action::Tell(Command::Send { session, frame }));
    }

    /// Takes the relay's registrar's answer.
    pub fn handle_frame(&mut self, frame: ControlFrame, now: Instant) {
        match frame {
            ControlFrame::Registered(id, registered) => {
                let Some(entry) = self.entries.get_mut(&id) else { return };
                let (name, contact) = (&entry.peer.name, registered.address);
                tracing::info!(peer = %name, %contact, address = %entry.peer.address, "registered");
                entry.retries = retries();
                entry.stage = Stage::Registered { contact };
            }
            ControlFrame::Refused(id, Refused { may_retry, text }) => {
                let Some(entry) = self.entries.get_mut(&id) else { return };
                entry.refuse(text, may_retry.then_some(now));
            }
            ControlFrame::Goaway(goaway) => {
                let place = Some(goaway.place).filter(|place| !place.is_empty());
                tracing::warn!(place, "the relay is going away: {}", goaway.text);
            }
            // Only forwarders register; a relay that does is ignored, not believed.
            ControlFrame::Register(..) | ControlFrame::Unregister(_) => {}
        }
    }

    /// When the next retry is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.retry_at).min()
    }

    /// Tries again what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |entry: &Entry| entry.retry_at.is_some_and(|at| at <= now);
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| *id);
        let due: Vec<_> = due.collect();
        due.into_iter().for_each(|id| self.ask(id));
    }

    /// What is to be done next, if anything.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The peers for `adit peers`.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.entries.values().map(Entry::status).collect()
    }
}
