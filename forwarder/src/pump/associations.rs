//! Associations: flows of datagrams. Each has a socket of its own at the end that dials, so that the
//! peer there tells callers apart; at a UDP contact point they share the contact point's socket, told
//! apart by source.
//!
//! Deliberately absent: back-pressure. A datagram that cannot go on is dropped, and counted.

use std::io;
use std::sync::Arc;

use adit_proto::datagram;
use adit_proto::frame::ResetReason;
use adit_proto::id::{FlowId, Time};
use adit_proto::limits::{
    ASSOCIATION_IDLE, ASSOCIATION_UNANSWERED, ASSOCIATION_WAITING_BYTES_MAX,
    ASSOCIATION_WAITING_MAX,
};
use adit_ring::{Envelope, Message, Slice, SliceList, Socket};
use nix::errno::Errno;

use super::Pump;
use super::inlets::Caller;
use super::measures::{Arrivals, Gauge};
use super::meter::Seat;
use super::slots::{Purpose, Slot};
use super::story::Story;
use crate::distributor::{Batch, Gathered};
use crate::handoff::{Event, Limit, Listening, Way};

/// One association at this end.
#[derive(Debug)]
pub(super) struct Association {
    pub(super) tunnel: Slot,
    pub(super) id: FlowId,
    /// The peer's name, for logs.
    pub(super) peer: Arc<str>,
    pub(super) end: End,
    /// Who waits to hear that the far end is there.
    pub(super) listening: Option<Listening>,
    /// Goes in front of each datagram.
    pub(super) header: Option<Slice>,
    /// What its times count to.
    pub(super) gauge: Gauge,
    /// When what was given to the socket came, by sends.
    arrivals: Arrivals,
    batch: Batch,
    is_to_send: bool,
    /// The way out takes no gathered datagrams.
    sends_singly: bool,
    /// When a datagram last went either way.
    heard_at: Time,
    /// Something went to this end's peer …
    is_reached: bool,
    /// … and came back from it afterwards, or came from a peer that we dialled.
    is_answered: bool,
    /// Its place among those that share its meter.
    seat: Seat,
    story: Story,
}

/// What an association is joined to at this end.
#[derive(Debug)]
pub(super) enum End {
    /// The control plane judges where it leads; what came meanwhile, and the size of its datagrams.
    Judged(Vec<(usize, Slice)>),
    /// A connected socket of its own.
    Own(Socket),
    /// One of those who call a contact point.
    Caller(Caller),
}

impl Association {
    pub(super) fn new(
        (tunnel, id): (Slot, FlowId),
        peer: Arc<str>,
        end: End,
        seat: Seat,
        now: Time,
        story: Story,
    ) -> Self {
        Self {
            tunnel,
            id,
            peer,
            end,
            listening: None,
            header: None,
            gauge: Gauge::default(),
            arrivals: Arrivals::default(),
            batch: Batch::default(),
            is_to_send: false,
            sends_singly: false,
            heard_at: now,
            is_reached: false,
            is_answered: false,
            seat,
            story,
        }
    }

    /// The socket that is its alone.
    pub(super) fn own_socket(&self) -> Option<&Socket> {
        match &self.end {
            End::Own(socket) => Some(socket),
            End::Judged(_) | End::Caller(_) => None,
        }
    }

    /// Whether its peer has yet to prove that it is there.
    pub(super) fn is_newcomer(&self) -> bool {
        !self.is_answered
    }

    fn is_idle(&self, now: Time) -> bool {
        let limit = if self.is_answered { ASSOCIATION_IDLE } else { ASSOCIATION_UNANSWERED };
        now.since(self.heard_at) >= limit
    }

    /// Its peer at this end has sent something.
    fn handle_heard(&mut self, now: Time) {
        self.heard_at = now;
        self.is_answered |= self.is_reached || matches!(self.end, End::Own(_));
    }

    /// Whether its meter lets so many bytes go on.
    fn admits_bytes(&self, bytes: usize, now: Time) -> bool {
        self.seat.meter().borrow_mut().admits_bytes(bytes, now)
    }

    fn handle_reached(&mut self, now: Time) {
        self.heard_at = now;
        self.is_reached = true;
    }
}

impl Pump {
    pub(super) fn insert_association(&mut self, mut association: Association) -> Slot {
        let (tunnel, id) = (association.tunnel, association.id);
        association.gauge = self.gauge(tunnel, id, &association.peer);
        self.begin_story(tunnel, &association.peer, association.gauge, &mut association.story);
        let slot = self.associations.insert(association);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.associations.insert(id, slot);
        }
        self.expect_idle(slot);
        slot
    }

    fn expect_idle(&mut self, slot: Slot) {
        let is_there = |slot: Slot| self.associations.get(slot).is_some();
        self.idle.expect(slot, self.now + ASSOCIATION_UNANSWERED, is_there);
    }

    /// Ends what has been silent for too long.
    pub(super) fn end_idle(&mut self) {
        while let Some(slot) = self.idle.pop_due(self.now) {
            match self.associations.get(slot).map(|association| association.is_idle(self.now)) {
                Some(true) => self.end_association(slot, Some(ResetReason::Idle)),
                Some(false) => self.expect_idle(slot),
                None => {}
            }
        }
    }

    pub(super) fn association_of(&self, tunnel: Slot, id: FlowId) -> Option<Slot> {
        self.tunnels.get(tunnel)?.associations.get(&id).copied()
    }

    /// Lets go of an association; with a reason the other end is told.
    pub(super) fn end_association(&mut self, slot: Slot, reason: Option<ResetReason>) {
        let Some(association) = self.associations.remove(slot) else { return };
        association.story.tell_end(&association.peer, reason.is_some(), self.now);
        if let Some(tunnel) = self.tunnels.get_mut(association.tunnel)
            && tunnel.associations.get(&association.id) == Some(&slot)
        {
            tunnel.associations.remove(&association.id);
            tunnel.judged -= usize::from(matches!(association.end, End::Judged(_)));
            if let Some(reason) = reason {
                tunnel.session.handle_reset(association.id, reason);
            }
        }
        match &association.end {
            End::Own(socket) => self.ring.cancel(socket),
            End::Caller(caller) => self.forget_caller(caller),
            End::Judged(_) => {}
        }
        self.tell_listening(association.listening, Err(reason.unwrap_or(ResetReason::Ending)));
        self.schedule_send(association.tunnel);
    }

    /// The other end has ended the association.
    pub(super) fn reset_association(&mut self, slot: Slot, reason: ResetReason) {
        let Some(association) = self.associations.get_mut(slot) else { return };
        let name = association.story.name();
        tracing::debug!(peer = %association.peer, flow = %name, ?reason, "ended by the other end");
        let listening = association.listening.take();
        self.tell_listening(listening, Err(reason));
        self.flush_association(slot);
        self.end_association(slot, None);
    }

    /// The far end is there.
    pub(super) fn handle_association_accepted(&mut self, slot: Slot) {
        let Some(association) = self.associations.get_mut(slot) else { return };
        let (tunnel, listening) = (association.tunnel, association.listening.take());
        self.tell_listening(listening, Ok(()));
        self.schedule_send(tunnel);
    }

    fn tell_listening(&mut self, listening: Option<Listening>, heard: Result<(), ResetReason>) {
        if let Some(Listening::ControlPlane(call)) = listening {
            self.emit(Event::Heard { call, heard });
        }
    }

    /// Takes datagrams of the association's peer at this end.
    pub(super) fn collect(&mut self, slot: Slot, message: &Message) {
        let now = self.now;
        let Some(association) = self.associations.get_mut(slot) else { return };
        association.handle_heard(now);
        let (tunnel_slot, id) = (association.tunnel, association.id);
        let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) else { return };
        let bytes = message.buffer.bytes();
        let payload = bytes.get(message.payload.clone()).unwrap_or_default();
        let datagrams = datagram::count(message.segment, payload.len());
        if message.is_cut {
            tunnel.drops.cut += datagrams;
            return;
        }
        if !association.admits_bytes(payload.len(), now) {
            tunnel.drops.over_quota += datagrams;
            return self.measures.count_limited(association.gauge, Limit::BytesPerS, now);
        }
        association.story.handle_moved(Way::ToTunnel, payload.len());
        self.measures.count_bytes(association.gauge, Way::ToTunnel, payload.len(), now);
        tunnel.session.handle_datagrams(id, message.segment, payload, now);
        self.schedule_send(tunnel_slot);
    }

    /// Datagrams for the association's peer at this end: each of `segment` bytes, or a single one
    /// when that is 0.
    pub(super) fn hand_out(&mut self, tunnel: Slot, id: FlowId, segment: usize, slice: Slice) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        let Some(&slot) = state.associations.get(&id) else { return };
        let Some(association) = self.associations.get_mut(slot) else { return };
        let datagrams = datagram::count(segment, slice.len());
        if let End::Judged(waiting) = &mut association.end {
            let bytes: usize = waiting.iter().map(|(_, waiting)| waiting.len()).sum();
            let fits = bytes + slice.len() <= ASSOCIATION_WAITING_BYTES_MAX;
            if fits && waiting.len() < ASSOCIATION_WAITING_MAX {
                waiting.push((segment, slice.to_owned_copy()));
            } else {
                state.drops.unjudged += datagrams;
            }
            return;
        }
        if !association.admits_bytes(slice.len(), now) {
            state.drops.over_quota += datagrams;
            return self.measures.count_limited(association.gauge, Limit::BytesPerS, now);
        }
        association.story.handle_moved(Way::FromTunnel, slice.len());
        self.measures.count_bytes(association.gauge, Way::FromTunnel, slice.len(), now);
        association.handle_reached(now);
        if association.sends_singly || association.header.is_some() {
            return self.send_singly(slot, segment, &slice);
        }
        let Some(slice) = association.batch.push(segment, slice) else {
            return self.schedule_association(slot);
        };
        self.flush_association(slot);
        if let Some(association) = self.associations.get_mut(slot) {
            let rest = association.batch.push(segment, slice);
            debug_assert!(rest.is_none(), "invariant: an empty batch takes anything");
        }
        self.schedule_association(slot);
    }

    fn schedule_association(&mut self, slot: Slot) {
        let Some(association) = self.associations.get_mut(slot) else { return };
        if !std::mem::replace(&mut association.is_to_send, true) {
            self.associations_to_send.push(slot);
        }
    }

    /// Sends what was gathered.
    pub(super) fn flush_association(&mut self, slot: Slot) {
        let Some(association) = self.associations.get_mut(slot) else { return };
        association.is_to_send = false;
        if let Some(gathered) = association.batch.poll_send() {
            self.send_gathered(slot, gathered);
        }
    }

    fn send_singly(&mut self, slot: Slot, segment: usize, slice: &Slice) {
        let len = slice.len();
        let size = if segment == 0 { len.max(1) } else { segment };
        let mut start = 0;
        loop {
            let Some(association) = self.associations.get(slot) else { return };
            let mut slices: SliceList = association.header.iter().cloned().collect();
            slices.push(slice.part(start..(start + size).min(len)));
            self.send_gathered(slot, Gathered { slices, segment: None });
            start += size;
            if start >= len {
                return;
            }
        }
    }

    fn send_gathered(&mut self, slot: Slot, Gathered { slices, segment }: Gathered) {
        let now = self.now;
        let Some(association) = self.associations.get_mut(slot) else { return };
        let token = slot.token(Purpose::AssociationSend);
        match &association.end {
            End::Own(socket) => {
                let envelope = Envelope { to: None, from: None, segment };
                self.measures.handle_come(&mut association.arrivals, 1, now);
                self.ring.send_message(socket, envelope, slices, token);
            }
            End::Caller(caller) => {
                let Some(inlet) = self.inlets.get(caller.inlet) else { return };
                let envelope = Envelope { to: Some(caller.source), from: caller.local, segment };
                self.measures.handle_come(&mut association.arrivals, 1, now);
                self.ring.send_message(&inlet.socket, envelope, slices, token);
            }
            End::Judged(_) => {}
        }
    }

    pub(super) fn handle_association_sent(
        &mut self,
        slot: Slot,
        result: io::Result<usize>,
        slices: SliceList,
    ) {
        self.keep_slices(slices);
        let now = self.now;
        let Some(association) = self.associations.get_mut(slot) else { return };
        self.measures.record_taken(association.gauge, &mut association.arrivals, 1, now);
        let Err(error) = result else { return };
        // What a device without checksum offload says to gathered datagrams, and what it says when one of
        // them is longer than it takes whole (udp(7)).
        let is_ungathered = [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE];
        let errno = error.raw_os_error().map(Errno::from_raw);
        association.sends_singly |= errno.is_some_and(|errno| is_ungathered.contains(&errno));
        if let Some(tunnel) = self.tunnels.get_mut(association.tunnel) {
            tunnel.drops.unsent += 1;
        }
    }

    /// Joins an association to a connected socket: datagrams may move.
    pub(super) fn start_association(&mut self, slot: Slot, socket: Socket) {
        // Without these it works, only less well.
        socket.set_gro().ok();
        let Some(association) = self.associations.get_mut(slot) else { return };
        let waited = match std::mem::replace(&mut association.end, End::Own(socket)) {
            End::Judged(waited) => waited,
            End::Own(_) | End::Caller(_) => Vec::new(),
        };
        let (tunnel, id) = (association.tunnel, association.id);
        self.arm_messages(Purpose::AssociationReceive, slot);
        for (segment, slice) in waited {
            self.hand_out(tunnel, id, segment, slice);
        }
    }
}
