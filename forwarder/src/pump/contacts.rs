//! Contact points on a pump: what a flow opened through one leads to, and listeners that open
//! flows.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::Open;
use adit_proto::id::ContactId;
use adit_ring::Socket;

use super::Pump;
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use crate::handoff::SessionKey;

/// How long a listener waits when the process or the system has no descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What stands under a contact point at this end.
#[derive(Debug)]
pub(super) enum Contact {
    /// Flows that the other end opens are dialled.
    Serve {
        /// The internal peer's name.
        peer: Arc<str>,
        /// Where it listens.
        target: SocketAddr,
    },
    /// Connections to a listener are opened as flows.
    Listen(Slot),
}

/// A listening socket of a contact point.
#[derive(Debug)]
pub(super) struct Listener {
    tunnel: Slot,
    contact: ContactId,
    peer: Arc<str>,
    socket: Socket,
}

impl Pump {
    pub(super) fn serve(
        &mut self,
        key: SessionKey,
        contact: ContactId,
        peer: Arc<str>,
        target: SocketAddr,
    ) {
        let Some((_, tunnel)) = self.tunnel_of(key) else { return };
        let old = tunnel.contacts.insert(contact, Contact::Serve { peer, target });
        old.into_iter().for_each(|old| self.drop_contact(old));
    }

    pub(super) fn listen(
        &mut self,
        key: SessionKey,
        contact: ContactId,
        peer: Arc<str>,
        listener: TcpListener,
    ) {
        let Some((tunnel, _)) = self.tunnel_of(key) else { return };
        let socket = Socket::from(OwnedFd::from(listener));
        let slot = self.listeners.insert(Listener { tunnel, contact, peer, socket });
        if let Some((_, tunnel)) = self.tunnel_of(key) {
            let old = tunnel.contacts.insert(contact, Contact::Listen(slot));
            old.into_iter().for_each(|old| self.drop_contact(old));
        }
        self.arm_accept(slot);
    }

    pub(super) fn withdraw(&mut self, key: SessionKey, contact: ContactId) {
        let Some((_, tunnel)) = self.tunnel_of(key) else { return };
        let old = tunnel.contacts.remove(&contact);
        old.into_iter().for_each(|old| self.drop_contact(old));
    }

    pub(super) fn drop_contact(&mut self, contact: Contact) {
        let Contact::Listen(slot) = contact else { return };
        if let Some(listener) = self.listeners.remove(slot) {
            self.ring.cancel(&listener.socket);
        }
    }

    pub(super) fn arm_accept(&mut self, slot: Slot) {
        if let Some(listener) = self.listeners.get(slot) {
            self.ring.accept(&listener.socket, slot.token(Purpose::Accept));
        }
    }

    pub(super) fn handle_accepted(&mut self, slot: Slot, result: io::Result<Socket>, more: bool) {
        let Some(listener) = self.listeners.get(slot) else {
            // The contact point was withdrawn while a connection came in.
            if let Ok(socket) = result {
                socket.set_reset_on_close().ok();
            }
            return;
        };
        let (tunnel, contact, peer) = (listener.tunnel, listener.contact, listener.peer.clone());
        let is_error = result.is_err();
        match result {
            Ok(socket) => match socket.peer_address() {
                Ok(source) => self.open_flow(tunnel, Open { contact, source }, &peer, socket),
                // It has gone again.
                Err(_) => drop(socket),
            },
            Err(error) => tracing::warn!(%peer, %error, "accepting fails; trying again shortly"),
        }
        if !more && is_error {
            self.timers.set(self.now + ACCEPT_BACKOFF, Timer::Accept(slot));
        } else if !more {
            self.arm_accept(slot);
        }
    }
}
