//! Contact points on a pump: what a flow opened through one leads to, and listeners that open
//! flows.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::{Destination, Open};
use adit_proto::id::ContactId;
use adit_ring::Socket;

use super::Pump;
use super::carriers::is_cancelled;
use super::meter::{Queue, SharedMeter};
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use crate::handoff::{ContactSocket, Protocol, Service, SessionKey, Volume};
use crate::sources::Sources;

/// How long a listener waits when the process or the system has no descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What stands under a contact point at this end.
#[derive(Debug)]
pub(super) enum Contact {
    /// Flows that the other end opens are dialled.
    Serve {
        /// The internal peer's name.
        peer: Arc<str>,
        /// The internal peer.
        service: Service,
        /// What all that call it use together.
        meter: SharedMeter,
    },
    /// Connections to a listener are opened as flows.
    Listen(Slot),
    /// What comes to a UDP socket is opened as associations.
    Receive(Slot),
}

/// A listening socket of a contact point.
#[derive(Debug)]
pub(super) struct Listener {
    tunnel: Slot,
    door: Door,
    socket: Socket,
    is_accepting: bool,
}

/// What a listening socket is for.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// What its flows count to.
    pub(super) contact: ContactId,
    /// Where they lead.
    pub(super) to: Destination,
    /// The peer's name, for logs.
    pub(super) peer: Arc<str>,
    /// Who may connect.
    pub(super) sources: Arc<Sources>,
}

impl Pump {
    pub(super) fn serve(
        &mut self,
        key: SessionKey,
        contact: ContactId,
        peer: Arc<str>,
        service: Service,
    ) {
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        let name = Arc::clone(&tunnel.name);
        // The same contact point once more forgives nothing.
        let meter = match tunnel.contacts.get(&contact) {
            Some(Contact::Serve { meter, .. }) => Rc::clone(meter),
            // Flows of its last contact point, or of another process, may have it already.
            _ => tunnel.meters_left.remove(&peer).unwrap_or_default(),
        };
        meter.borrow_mut().handle_limit(service.quota, Volume::Unlimited);
        let shared = Rc::clone(&meter);
        let served = Contact::Serve { peer: Arc::clone(&peer), service, meter };
        let old = tunnel.contacts.insert(contact, served);
        self.measures.contact(&name, &peer, self.now);
        old.into_iter().for_each(|old| self.drop_contact(old));
        // Flows of its last contact point wait in that one's queue.
        for queue in self.unpaid_by(slot, &shared) {
            self.handle_paid(slot, queue);
        }
    }

    /// The queues in which flows wait that this meter measures.
    fn unpaid_by(&self, tunnel: Slot, meter: &SharedMeter) -> Vec<Queue> {
        let unpaid = self.tunnels.get(tunnel).into_iter().flat_map(|tunnel| &tunnel.unpaid);
        let seat = |slot: &Slot| Some(&self.flows.get(*slot)?.seat);
        let is_its = |waiting: &VecDeque<Slot>| {
            waiting.iter().find_map(seat).is_some_and(|seat| seat.is_at(meter))
        };
        unpaid.filter(|(_, waiting)| is_its(waiting)).map(|(queue, _)| *queue).collect()
    }

    pub(super) fn listen(&mut self, key: SessionKey, door: Door, socket: ContactSocket) {
        if let Some(name) = self.tunnel_of(key).map(|(_, tunnel)| Arc::clone(&tunnel.name)) {
            self.measures.contact(&name, &door.peer, self.now);
        }
        match socket {
            ContactSocket::Tcp(listener) => self.listen_for_connections(key, door, listener),
            ContactSocket::Udp(socket) => self.listen_for_datagrams(key, door, socket),
        }
    }

    fn listen_for_connections(&mut self, key: SessionKey, door: Door, listener: TcpListener) {
        let Some((tunnel, _)) = self.tunnel_of(key) else { return };
        let contact = door.contact;
        let socket = Socket::from(OwnedFd::from(listener));
        let slot = self.listeners.insert(Listener { tunnel, door, socket, is_accepting: false });
        if let Some((_, tunnel)) = self.tunnel_of(key) {
            let old = tunnel.contacts.insert(contact, Contact::Listen(slot));
            old.into_iter().for_each(|old| self.drop_contact(old));
        }
        self.arm_accept(slot);
    }

    pub(super) fn admit(&mut self, key: SessionKey, contact: ContactId, sources: Arc<Sources>) {
        let Some((_, tunnel)) = self.tunnel_of(key) else { return };
        match tunnel.contacts.get(&contact) {
            Some(&Contact::Listen(slot)) => {
                if let Some(listener) = self.listeners.get_mut(slot) {
                    listener.door.sources = sources;
                }
            }
            Some(&Contact::Receive(slot)) => self.admit_callers(slot, sources),
            Some(Contact::Serve { .. }) | None => {}
        }
    }

    pub(super) fn withdraw(&mut self, key: SessionKey, contact: ContactId) {
        let now = self.now;
        let Some((_, tunnel)) = self.tunnel_of(key) else { return };
        let old = tunnel.contacts.remove(&contact);
        if let Some(Contact::Serve { peer, meter, .. }) = &old {
            // Its flows run on, and are to count when the peer comes back.
            tunnel.meters_left.insert(Arc::clone(peer), Rc::clone(meter));
            tunnel.meters_left.retain(|_, meter| meter.borrow().is_in_debt(now));
        }
        old.into_iter().for_each(|old| self.drop_contact(old));
    }

    pub(super) fn drop_contact(&mut self, contact: Contact) {
        match contact {
            Contact::Serve { .. } => {}
            Contact::Listen(slot) => {
                if let Some(listener) = self.listeners.remove(slot) {
                    self.ring.cancel(&listener.socket);
                }
            }
            Contact::Receive(slot) => self.drop_inlet(slot),
        }
    }

    pub(super) fn arm_accept(&mut self, slot: Slot) {
        let is_still = self.is_still();
        if let Some(listener) = self.listeners.get_mut(slot).filter(|_| !is_still)
            && !std::mem::replace(&mut listener.is_accepting, true)
        {
            self.ring.accept(&listener.socket, slot.token(Purpose::Accept));
        }
    }

    pub(super) fn handle_accepted(&mut self, slot: Slot, result: io::Result<Socket>, more: bool) {
        let Some(listener) = self.listeners.get_mut(slot) else {
            // The contact point was withdrawn while a connection came in.
            if let Ok(socket) = result {
                socket.set_reset_on_close().ok();
            }
            return;
        };
        listener.is_accepting = more;
        if result.as_ref().is_err_and(is_cancelled) {
            return;
        }
        let (tunnel, door) = (listener.tunnel, listener.door.clone());
        let is_error = result.is_err();
        match result {
            Ok(socket) => self.enter(tunnel, &door, socket),
            Err(error) => {
                tracing::warn!(peer = %door.peer, %error, "accepting fails; trying again shortly");
            }
        }
        if !more && is_error {
            self.timers.set(self.now + ACCEPT_BACKOFF, Timer::Accept(slot));
        } else if !more {
            self.arm_accept(slot);
        }
    }

    /// Somebody has connected.
    fn enter(&mut self, tunnel: Slot, door: &Door, socket: Socket) {
        // It fails when the caller has gone again.
        let Ok(source) = socket.peer_address() else { return };
        if !door.sources.accepts(source.ip()) {
            if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                tunnel.flows_forbidden += 1;
            }
            tracing::debug!(peer = %door.peer, %source, "turned away: its address is not let in");
            socket.set_reset_on_close().ok();
            return;
        }
        let open =
            Open { contact: door.contact, source, protocol: Protocol::Tcp, to: door.to.clone() };
        self.open_flow(tunnel, open, &door.peer, socket, None);
    }
}
