//! How an association comes to its socket: one that the control plane gives, one that a contact point
//! leads to, or one that is judged first.

use std::sync::Arc;

use adit_proto::frame::{Open, ResetReason};
use adit_proto::id::FlowId;
use adit_ring::{Slice, Socket, Target};

use super::Pump;
use super::associations::{Association, End};
use super::meter::Seat;
use super::slots::{Purpose, Slot};
use super::story::Story;
use crate::distributor::proxy_header;
use crate::handoff::{Answer, Listening};

impl Pump {
    /// Opens an association for a connected socket that the control plane has.
    pub(super) fn open_association(
        &mut self,
        tunnel: Slot,
        open: Open,
        peer: &Arc<str>,
        socket: Socket,
        listening: Option<Listening>,
    ) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        let admitted = state.meter.borrow_mut().admit_flow(now);
        if let Err(limit) = admitted {
            self.count_over_quota(tunnel, peer, limit);
            return self.dismiss(&socket, listening.as_ref(), ResetReason::Limit);
        }
        let (protocol, source) = (open.protocol, open.source);
        let Ok(id) = state.session.open_flow(open, now) else {
            state.flows_failed += 1;
            return self.dismiss(&socket, listening.as_ref(), ResetReason::Limit);
        };
        let (seat, story) = (Seat::from(&state.meter), Story::new(id, protocol, source));
        let (at, peer, end) = ((tunnel, id), Arc::clone(peer), End::Own(socket));
        let mut association = Association::new(at, peer, end, seat, now, story);
        association.listening = listening;
        self.insert_own(association);
    }

    /// Joins an association to the internal peer behind a contact point.
    pub(super) fn associate_contact(&mut self, tunnel: Slot, id: FlowId, open: &Open) {
        let now = self.now;
        let Some((peer, service, seat)) = self.admit_caller(tunnel, id, open) else { return };
        let socket = match associated(&service.target) {
            Ok(socket) => socket,
            Err(reason) => return self.refuse(tunnel, id, reason),
        };
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        state.session.accept_flow(id);
        let story = Story::new(id, open.protocol, open.source);
        let (at, end) = ((tunnel, id), End::Own(socket));
        let mut association = Association::new(at, peer, end, seat, now, story);
        let header = service.proxy.map(|proxy| proxy_header(proxy, open.protocol, open.source));
        association.header = header.map(Slice::from);
        self.insert_own(association);
    }

    /// Adds an association that has its socket: what that brings is taken.
    fn insert_own(&mut self, association: Association) {
        let tunnel = association.tunnel;
        if let Some(socket) = association.own_socket() {
            // Without it the socket works, only less well.
            socket.set_gro().ok();
        }
        let slot = self.insert_association(association);
        self.arm_messages(Purpose::AssociationReceive, slot);
        self.schedule_send(tunnel);
    }

    /// The control plane's judgement of an association.
    pub(super) fn answer_association(&mut self, slot: Slot, answer: Answer) {
        let Some(association) = self.associations.get(slot) else { return };
        if !matches!(association.end, End::Judged(_)) {
            return;
        }
        match answer {
            Answer::Refuse(reason) => self.fail_association(slot, reason),
            Answer::Dial(target) => match associated(&target) {
                Ok(socket) => self.accept_association(slot, socket),
                Err(reason) => self.fail_association(slot, reason),
            },
            Answer::Join(socket) => self.accept_association(slot, Socket::from(socket)),
        }
    }

    fn accept_association(&mut self, slot: Slot, socket: Socket) {
        let Some(association) = self.associations.get(slot) else { return };
        let (tunnel, id) = (association.tunnel, association.id);
        if let Some(state) = self.tunnels.get_mut(tunnel) {
            state.judged -= 1;
            state.session.accept_flow(id);
        }
        self.start_association(slot, socket);
        self.schedule_send(tunnel);
    }

    fn fail_association(&mut self, slot: Slot, reason: ResetReason) {
        let tunnel = self.associations.get(slot).map(|association| association.tunnel);
        if let Some(state) = tunnel.and_then(|tunnel| self.tunnels.get_mut(tunnel)) {
            state.flows_failed += 1;
        }
        self.end_association(slot, Some(reason));
    }
}

/// A socket for datagrams to go to `target` and come from there.
fn associated(target: &Target) -> Result<Socket, ResetReason> {
    target.associate().map_err(|error| {
        tracing::debug!(%target, %error, "no socket for datagrams to go there");
        ResetReason::ConnectFailed
    })
}
