//! The registrars' frames: what forwarders ask for, and what they are told.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use adit::audit::{Entry, Event};
use adit::exit::Failed;
use adit::handoff::{Command, ContactSocket, ControlFrame, Destination, Protocol, SessionKey};
use adit::key::PublicKey;
use adit::net;
use adit_proto::frame::{Refused, Registered, Registration};
use adit_proto::id::ContactId;
use adit_proto::limits::CONTACT_LEASE;

use super::Daemon;
use crate::contact::Contact;
use crate::policy::Policy;
use crate::registrar::{Caller, Holder, Lease};

impl Daemon {
    /// Takes a frame of a session. Of a key that may have one alone only the newest counts: older
    /// ones are on their way out.
    pub(super) fn handle_frame(
        &mut self,
        session: SessionKey,
        frame: ControlFrame,
        now: Instant,
    ) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&session) else { return Ok(()) };
        let is_newest = self.sessions_by_key.get(&state.key) == Some(&session);
        let is_sole = self.policies.get(&state.key).is_none_or(|policy| policy.sessions_max() == 1);
        if self.ending.is_some() || is_sole && !is_newest {
            return Ok(());
        }
        match frame {
            ControlFrame::Register(contact, asked) => {
                self.register(Holder { session, contact }, &asked, now)
            }
            ControlFrame::Unregister(contact) => {
                let Some(lease) = self.registrar.handle_unregister(Holder { session, contact })
                else {
                    return Ok(());
                };
                let (name, peer) = (&state.name, &lease.peer);
                tracing::info!(forwarder = %name, %peer, contact = %lease.contact, "unregistered");
                let entry = Entry::new(Event::Unregistered).with("forwarder", name);
                self.record(&entry.with("peer", peer).with("contact", &lease.contact));
                self.close_contact(&lease)
            }
            ControlFrame::Goaway(goaway) => {
                tracing::info!(forwarder = %state.name, "going away: {}", goaway.text);
                Ok(())
            }
            // Answers to what we never ask.
            ControlFrame::Registered(..) | ControlFrame::Refused(..) => Ok(()),
        }
    }

    fn register(
        &mut self,
        holder: Holder,
        asked: &Registration,
        now: Instant,
    ) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&holder.session) else { return Ok(()) };
        // A key that a reload has just removed gets no answer: its session is being closed.
        let Some(policy) = self.policies.get(&state.key) else { return Ok(()) };
        let caller = Caller { key: state.key, holder, policy };
        let at = self.config.contact_address;
        // The newest session of a key that may have one alone takes all from the one before.
        let has_several = policy.sessions_max() > 1;
        let is_carried = |other| self.sessions.get(&other).is_some_and(|other| other.is_carried);
        let keeps = |other| has_several && is_carried(other);
        let granted = self
            .registrar
            .handle_register(caller, asked, keeps, |port, protocol| open(at, port, protocol));
        let (contact, taken_from) = match granted {
            Ok(granted) => (granted.lease.contact.clone(), granted.taken_from),
            Err(refusal) => {
                let why = format!("{} of {}: {refusal}", asked.name, state.name);
                let mut refusals = self.refusals.borrow_mut();
                refusals.count(refusal.cause(), state.remote, why, now);
                return self
                    .answer_register(holder, |id| ControlFrame::Refused(id, refusal.frame()));
            }
        };
        if let Some(other) = taken_from.filter(|_| has_several) {
            // It lost its carrier, and hears of this if it finds another.
            let text = format!("another session of this key has {contact} by now");
            let refused = Refused { may_retry: true, text };
            self.answer_register(other, |id| ControlFrame::Refused(id, refused))?;
        }
        if let Err(error) = self.listen_at(&contact)? {
            let text = format!("the relay has no descriptor left: {error}");
            let refused = Refused { may_retry: true, text };
            self.registrar.handle_unregister(holder);
            return self.answer_register(holder, |id| ControlFrame::Refused(id, refused));
        }
        let address = match &contact {
            Contact::Public(port, _) => contact_address(at, state.local, *port).to_string(),
            Contact::Private(name) => name.clone(),
        };
        let (name, peer) = (&state.name, &asked.name);
        tracing::info!(forwarder = %name, %peer, contact = %address, "registered");
        let entry = Entry::new(Event::Registered).with("forwarder", name).with("peer", peer);
        self.record(&entry.with("contact", &address).with("from", state.remote));
        let registered = Registered { lease: CONTACT_LEASE, address };
        self.answer_register(holder, |id| ControlFrame::Registered(id, registered))?;
        match contact {
            Contact::Private(name) => self.handle_back(&name, now),
            // Who called a port meanwhile waits in its listener.
            Contact::Public(..) => Ok(()),
        }
    }

    /// Lets the holder's pump take callers, where there is a listener for them.
    pub(super) fn listen_at(&self, contact: &Contact) -> Result<io::Result<()>, Failed> {
        let Some(lease) = self.registrar.lease(contact) else { return Ok(Ok(())) };
        let (Some(listener), Some(holder)) = (&lease.listener, lease.holder()) else {
            return Ok(Ok(()));
        };
        let Some(state) = self.sessions.get(&holder.session) else { return Ok(Ok(())) };
        let Some(policy) = self.policies.get(&lease.key) else { return Ok(Ok(())) };
        let socket = match listener.try_clone() {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error)),
        };
        let Holder { session, contact } = holder;
        let (peer, to) = (Arc::from(lease.peer.as_str()), Destination::Contact);
        let sources = Arc::clone(&policy.sources);
        let listen = Command::Listen { session, contact, peer, socket, to, sources };
        self.tell(state.pump, listen).map(Ok)
    }

    fn answer_register(
        &self,
        holder: Holder,
        frame: impl FnOnce(ContactId) -> ControlFrame,
    ) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&holder.session) else { return Ok(()) };
        let frame = frame(holder.contact);
        self.tell(state.pump, Command::Send { session: holder.session, frame })
    }

    /// Writes down what has happened.
    pub(super) fn record(&self, entry: &Entry) {
        self.refusals.borrow().audit().record(entry);
    }

    /// Nobody has come back for a contact point.
    pub(super) fn end_lease(&self, lease: &Lease<ContactSocket>) -> Result<(), Failed> {
        tracing::info!(peer = %lease.peer, contact = %lease.contact, "the lease is over");
        self.record(&entry_of(Event::LeaseOver, lease));
        self.close_contact(lease)
    }

    /// Ends a contact point for good: no new flows, and the port is free.
    pub(super) fn close_contact(&self, lease: &Lease<ContactSocket>) -> Result<(), Failed> {
        if let Some(holder) = lease.holder()
            && let Some(state) = self.sessions.get(&holder.session)
        {
            let (session, contact) = (holder.session, holder.contact);
            self.tell(state.pump, Command::Withdraw { session, contact })?;
        }
        // The pump may close its handle a little later; the port must be free now.
        if let Some(ContactSocket::Tcp(listener)) = &lease.listener {
            net::stop_listening(listener);
        }
        Ok(())
    }

    /// Takes back what a reload no longer allows, and says so.
    pub(super) fn revoke(&mut self) -> Result<(), Failed> {
        for (lease, forbidden) in self.registrar.handle_policies(&self.policies) {
            tracing::info!(peer = %lease.peer, contact = %lease.contact, "no longer allowed");
            self.record(&entry_of(Event::Withdrawn, &lease));
            self.close_contact(&lease)?;
            if let (Some(holder), Some(forbidden)) = (lease.holder(), forbidden) {
                let refused = Refused { may_retry: false, text: forbidden.to_string() };
                self.answer_register(holder, |id| ControlFrame::Refused(id, refused))?;
            }
        }
        Ok(())
    }

    /// The process before this one had its contact points at `before`: where that is another place now,
    /// nobody listens there any more, and whoever has a port asks for it again.
    pub(super) fn move_contacts(&mut self, before: Option<IpAddr>) -> Result<(), Failed> {
        if before == self.config.contact_address {
            return Ok(());
        }
        for lease in self.registrar.drain(|lease| lease.listener.is_some()) {
            tracing::info!(peer = %lease.peer, contact = %lease.contact, "to be had at another address");
            self.record(&entry_of(Event::Withdrawn, &lease));
            self.close_contact(&lease)?;
            if let Some(holder) = lease.holder() {
                let text = "the relay's contact_address is another one by now".to_owned();
                let refused = Refused { may_retry: true, text };
                self.answer_register(holder, |id| ControlFrame::Refused(id, refused))?;
            }
        }
        Ok(())
    }

    /// Lets what stands follow a reload: who may call, and how much each key may use.
    pub(super) fn renew(&self, before: &BTreeMap<PublicKey, Policy>) -> Result<(), Failed> {
        let has_changed = |key: &PublicKey, differs: fn(&Policy, &Policy) -> bool| {
            let policies = before.get(key).zip(self.policies.get(key));
            policies.is_some_and(|(old, new)| differs(old, new))
        };
        for lease in self.registrar.leases() {
            if has_changed(&lease.key, |old, new| old.sources != new.sources)
                && let Err(error) = self.listen_at(&lease.contact)?
            {
                let contact = &lease.contact;
                tracing::warn!(%contact, "keeps its old sources until the next reload: {error}");
            }
        }
        let differs = |old: &Policy, new: &Policy| {
            old.quota != new.quota || old.has_volume() != new.has_volume()
        };
        for (session, state) in &self.sessions {
            if has_changed(&state.key, differs) {
                self.limit(*session)?;
            }
        }
        Ok(())
    }
}

fn entry_of(event: Event, lease: &Lease<ContactSocket>) -> Entry {
    Entry::new(event).with("peer", &lease.peer).with("contact", &lease.contact)
}

/// Opens a contact address: the configured one, or every address of both families, or of IPv4 where
/// the host has no IPv6.
fn open(at: Option<IpAddr>, port: u16, protocol: Protocol) -> io::Result<ContactSocket> {
    let bind = |ip| {
        let address = SocketAddr::new(ip, port);
        match protocol {
            Protocol::Tcp => {
                net::bind(address, net::CONTACT_BACKLOG, false).map(ContactSocket::Tcp)
            }
            Protocol::Udp => net::bind_datagrams(address, false, false).map(ContactSocket::Udp),
        }
    };
    at_either(at, bind)
}

/// Whether [`open`] would open it.
pub(super) fn can_open(at: Option<IpAddr>, port: u16, protocol: Protocol) -> io::Result<()> {
    let is_udp = protocol == Protocol::Udp;
    at_either(at, |ip| net::can_bind(SocketAddr::new(ip, port), is_udp))
}

fn at_either<T>(at: Option<IpAddr>, bind: impl Fn(IpAddr) -> io::Result<T>) -> io::Result<T> {
    if let Some(ip) = at {
        return bind(ip);
    }
    match bind(Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if !is_final(&error) => bind(Ipv4Addr::UNSPECIFIED.into()),
        opened => opened,
    }
}

/// Whether the other family would fail for the same reason.
fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// What the forwarder is told: where contact points listen everywhere, the address that it dialled
/// is one that works.
fn contact_address(at: Option<IpAddr>, local: IpAddr, port: u16) -> SocketAddr {
    let ip = at.filter(|ip| !ip.is_unspecified()).unwrap_or(local);
    SocketAddr::new(ip, port)
}
