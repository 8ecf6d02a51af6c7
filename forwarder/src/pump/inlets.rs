//! UDP contact points on a pump: a bound socket whose callers become associations.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::{Open, Protocol, ResetReason};
use adit_proto::limits::{ASSOCIATIONS_PER_S, DATAGRAM_SOCKET_BYTES};
use adit_ring::{Message, Socket};

use super::Pump;
use super::associations::{Association, End};
use super::contacts::{Contact, Door};
use super::meter::{Pace, Seat};
use super::slots::{Purpose, Slot};
use super::source_table::SourceTable;
use super::story::Story;
use crate::handoff::SessionKey;
use crate::sources::Sources;

/// Datagrams that may have come meanwhile: as many as the socket holds.
const DRAINED_MAX: usize = 8_192;

/// The socket of a UDP contact point.
#[derive(Debug)]
pub(super) struct Inlet {
    tunnel: Slot,
    pub(super) door: Door,
    pub(super) socket: Socket,
    table: SourceTable,
    /// How fast new callers may come.
    pace: Pace,
}

/// One who calls a contact point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) inlet: Slot,
    pub(super) source: SocketAddr,
    /// The address that was called: answers come from there.
    pub(super) local: Option<IpAddr>,
}

impl Pump {
    /// Takes datagrams that come to `socket`. The same contact point once more keeps its callers, and
    /// has new terms.
    pub(super) fn listen_for_datagrams(&mut self, key: SessionKey, door: Door, socket: UdpSocket) {
        let Some((tunnel, state)) = self.tunnel_of(key) else { return };
        if let Some(&Contact::Receive(slot)) = state.contacts.get(&door.contact)
            && let Some(inlet) = self.inlets.get_mut(slot)
        {
            let sources = Arc::clone(&door.sources);
            inlet.door = door;
            return self.admit_callers(slot, sources);
        }
        drain(&socket);
        let socket = Socket::from(OwnedFd::from(socket));
        // Without these it works, only less well.
        socket.set_gro().ok();
        socket.set_packet_info().ok();
        socket.set_buffers(DATAGRAM_SOCKET_BYTES, DATAGRAM_SOCKET_BYTES).ok();
        let contact = door.contact;
        let pace = Pace::new(ASSOCIATIONS_PER_S, Duration::from_secs(1));
        let slot =
            self.inlets.insert(Inlet { tunnel, door, socket, pace, table: SourceTable::default() });
        if let Some((_, tunnel)) = self.tunnel_of(key) {
            let old = tunnel.contacts.insert(contact, Contact::Receive(slot));
            old.into_iter().for_each(|old| self.drop_contact(old));
        }
        self.arm_messages(Purpose::InletReceive, slot);
    }

    /// From now on these may call, and no others: those that do are let go.
    pub(super) fn admit_callers(&mut self, slot: Slot, sources: Arc<Sources>) {
        let Some(inlet) = self.inlets.get_mut(slot) else { return };
        let denied = inlet.table.slots(|source| !sources.accepts(source.ip()));
        inlet.door.sources = sources;
        for association in denied {
            self.end_association(association, Some(ResetReason::Forbidden));
        }
    }

    /// The contact point is no more: nobody is answered from it.
    pub(super) fn drop_inlet(&mut self, slot: Slot) {
        let Some(inlet) = self.inlets.remove(slot) else { return };
        self.ring.cancel(&inlet.socket);
        for association in inlet.table.slots(|_| true) {
            self.end_association(association, Some(ResetReason::Ending));
        }
    }

    pub(super) fn forget_caller(&mut self, caller: &Caller) {
        if let Some(inlet) = self.inlets.get_mut(caller.inlet) {
            inlet.table.remove(&caller.source);
        }
    }

    /// Somebody has sent something to a contact point.
    pub(super) fn handle_called(&mut self, slot: Slot, message: &Message) {
        let Some(inlet) = self.inlets.get(slot) else { return };
        let Some(source) = message.source else { return };
        let found = inlet.table.get(&source);
        let caller = Caller { inlet: slot, source, local: message.local };
        if let Some(association) = found.or_else(|| self.let_in(caller)) {
            self.collect(association, message);
        }
    }

    /// Opens an association for a new caller, if it may call and there is room.
    fn let_in(&mut self, caller: Caller) -> Option<Slot> {
        let inlet = self.inlets.get_mut(caller.inlet)?;
        let (tunnel, source, now) = (inlet.tunnel, caller.source, self.now);
        let state = self.tunnels.get_mut(tunnel)?;
        if !inlet.door.sources.accepts(source.ip()) {
            state.flows_forbidden += 1;
            return None;
        }
        if !inlet.table.has_room_for(&source) || !inlet.pace.admits_one(now) {
            state.drops.crowded += 1;
            return None;
        }
        if inlet.table.is_full() || state.meter.borrow().is_full() {
            let is_newcomer =
                |slot: Slot| self.associations.get(slot).is_some_and(Association::is_newcomer);
            let Some(oldest) = inlet.table.pop_oldest(is_newcomer) else {
                state.flows_failed += 1;
                return None;
            };
            self.end_association(oldest, Some(ResetReason::Limit));
        }
        let state = self.tunnels.get_mut(tunnel)?;
        let admitted = state.meter.borrow_mut().admit_flow(now);
        if let Err(limit) = admitted {
            let peer = Arc::clone(&self.inlets.get(caller.inlet)?.door.peer);
            self.count_over_quota(tunnel, &peer, limit);
            return None;
        }
        let inlet = self.inlets.get(caller.inlet)?;
        let (contact, to) = (inlet.door.contact, inlet.door.to.clone());
        let peer = Arc::clone(&inlet.door.peer);
        let state = self.tunnels.get_mut(tunnel)?;
        let open = Open { contact, source, protocol: Protocol::Udp, to };
        let Ok(id) = state.session.open_flow(open, now) else {
            state.flows_failed += 1;
            return None;
        };
        let (seat, story) = (Seat::from(&state.meter), Story::new(id, Protocol::Udp, source));
        let (at, end) = ((tunnel, id), End::Caller(caller));
        let association = Association::new(at, peer, end, seat, now, story);
        let slot = self.insert_association(association);
        let is_newcomer =
            |slot: Slot| self.associations.get(slot).is_some_and(Association::is_newcomer);
        self.inlets.get_mut(caller.inlet)?.table.insert(source, slot, is_newcomer);
        self.schedule_send(tunnel);
        Some(slot)
    }
}

/// Forgets what came while nobody was there: it is too old to be answered.
fn drain(socket: &UdpSocket) {
    if socket.set_nonblocking(true).is_ok() {
        (0..DRAINED_MAX).take_while(|_| socket.recv(&mut []).is_ok()).for_each(drop);
        socket.set_nonblocking(false).ok();
    }
}
