//! Flows' sockets: bytes in, slices out, and how each direction ends.

use std::io;
use std::sync::Arc;

use adit_proto::frame::{Open, ResetReason};
use adit_proto::id::FlowId;
use adit_proto::limits::{
    FLOW_RECEIVE_SLOTS, FLOW_SEND_PIECES, FLOW_SLOTS_LOW, FLUSH_MAX, PAYLOAD_MAX,
    SESSION_HELD_WHEN_LOW,
};
use adit_ring::{Received, SendHow, Slice, SliceList, Socket, Target};

use super::Pump;
use super::carriers::{CarrierSocket, is_cancelled, is_dry};
use super::measures::{Arrivals, Gauge};
use super::meter::Seat;
use super::slots::{Purpose, Slot};
use super::story::Story;
use super::timers::Timer;
use super::upgrade::Standing;
use crate::collector;
use crate::distributor::Outlet;
use crate::handoff::{Listening, Way};

/// One flow's socket.
#[derive(Debug)]
pub(super) struct FlowSocket {
    pub(super) tunnel: Slot,
    pub(super) id: FlowId,
    /// None until it is known where the flow leads.
    pub(super) socket: Option<Socket>,
    /// The peer's name, for logs.
    pub(super) peer: Arc<str>,
    pub(super) outlet: Outlet,
    pub(super) state: State,
    /// What its times count to.
    pub(super) gauge: Gauge,
    /// When what waits in the outlet came.
    arrivals: Arrivals,
    is_receiving: bool,
    /// It waits for slots to come back.
    is_dry: bool,
    /// The socket has sent its last byte.
    pub(super) has_ended: bool,
    is_to_send: bool,
    /// It waits for its bytes to be paid for.
    pub(super) is_unpaid: bool,
    /// Its place among those that share its meter.
    pub(super) seat: Seat,
    pub(super) story: Story,
}

/// How far a flow's socket has come.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// The control plane judges where it leads.
    Judged(Open),
    /// It is being connected, once it is known where to; its peer is then told this first.
    Connecting(Option<Target>, Vec<u8>),
    /// It is connected, and its peer waits to hear that the far end is, too.
    Announced(Listening),
    Connected,
}

impl State {
    fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

impl FlowSocket {
    pub(super) fn new(
        (tunnel, id): (Slot, FlowId),
        peer: Arc<str>,
        socket: Option<Socket>,
        state: State,
        seat: Seat,
        story: Story,
    ) -> Self {
        // What comes before the socket is connected waits, like for one that is full.
        let outlet = if state.is_connected() { Outlet::default() } else { Outlet::blocked() };
        Self {
            tunnel,
            id,
            socket,
            peer,
            outlet,
            state,
            gauge: Gauge::default(),
            arrivals: Arrivals::default(),
            is_receiving: false,
            is_dry: false,
            has_ended: false,
            is_to_send: false,
            is_unpaid: false,
            seat,
            story,
        }
    }

    /// Whether it has yet to come to its socket.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Judged(_) | State::Connecting(..))
    }

    pub(super) fn copy_out(&mut self) {
        self.outlet.copy_out();
    }
}

impl Pump {
    /// The flow's socket is of no more use: tells the other end.
    pub(super) fn fail_flow(&mut self, slot: Slot, reason: ResetReason) {
        let Some(flow) = self.flows.get(slot) else { return };
        let (tunnel, id) = (flow.tunnel, flow.id);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.session.handle_reset(id, reason);
        }
        self.drop_flow(slot, true);
        self.schedule_send(tunnel);
    }

    /// Arms a receive on the flow's socket, if it may be read.
    pub(super) fn arm_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let Some(socket) = flow.socket.as_ref().filter(|_| flow.state.is_connected()) else {
            return;
        };
        if flow.is_receiving || flow.has_ended || self.standing != Standing::Running {
            return;
        }
        let Some(tunnel) = self.tunnels.get_mut(flow.tunnel) else { return };
        let (due, counts_bytes) = {
            let meter = flow.seat.meter().borrow();
            (meter.bytes_due(self.now), meter.counts_bytes())
        };
        if let Some(due) = due {
            return self.wait_for_payment(slot, due);
        }
        let is_scarce = self.ring.pool(self.groups.flows).free() < FLOW_SLOTS_LOW;
        if is_scarce && tunnel.session.bytes_held() > SESSION_HELD_WHEN_LOW {
            // A session whose carrier is stuck leaves the last slots to the others.
            return self.retry_flow(slot);
        }
        let room = tunnel.session.room(flow.id);
        if room == 0 {
            // The other end may have to hear that the flow waits.
            let tunnel = flow.tunnel;
            return self.schedule_send(tunnel);
        }
        flow.is_receiving = true;
        let token = slot.token(Purpose::FlowReceive);
        let carrier = tunnel.carrier.and_then(|carrier| self.carriers.get(carrier));
        let record_max = carrier.map_or(PAYLOAD_MAX, CarrierSocket::record_max);
        if record_max < PAYLOAD_MAX || counts_bytes {
            let bytes = room.min(record_max);
            return self.ring.recv_few(socket, self.groups.flows, bytes, token);
        }
        match (room / PAYLOAD_MAX).min(FLOW_RECEIVE_SLOTS) {
            0 => self.ring.recv_few(socket, self.groups.flows, room, token),
            slots => self.ring.recv(socket, self.groups.flows, slots, token),
        }
    }

    /// Arms the flow again once slots have come back.
    fn retry_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if !std::mem::replace(&mut flow.is_dry, true) {
            self.flows_dry.push_back(slot);
        }
    }

    /// Slots have come back.
    pub(super) fn arm_dry_flow(&mut self, slot: Slot) {
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.is_dry = false;
        }
        self.arm_flow(slot);
    }

    pub(super) fn handle_flow_received(&mut self, slot: Slot, result: io::Result<Received>) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.is_receiving = false;
        let received = match result {
            Ok(received) => received,
            Err(error) if is_dry(&error) => return self.retry_flow(slot),
            Err(error) if is_cancelled(&error) => return,
            Err(_) => return self.fail_flow(slot, ResetReason::Peer),
        };
        let (tunnel_slot, id) = (flow.tunnel, flow.id);
        let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) else { return };
        let mut is_end = true;
        for buffer in received {
            is_end = false;
            let bytes = buffer.payload_len();
            flow.seat.meter().borrow_mut().charge_bytes(bytes, self.now);
            flow.story.handle_moved(Way::ToTunnel, bytes);
            self.measures.count_bytes(flow.gauge, Way::ToTunnel, bytes, self.now);
            tunnel.session.handle_input(id, collector::chunk(buffer, self.now));
        }
        if is_end {
            flow.has_ended = true;
            tunnel.session.handle_end(id);
            self.drop_if_over(slot);
        } else {
            self.arm_flow(slot);
        }
        self.schedule_send(tunnel_slot);
    }

    /// Arms the flows whose sockets may be read again.
    pub(super) fn wake_readable(&mut self, tunnel: Slot) {
        while let Some(state) = self.tunnels.get_mut(tunnel) {
            let Some(id) = state.session.poll_readable() else { return };
            if let Some(&slot) = state.flows.get(&id) {
                self.arm_flow(slot);
            }
        }
    }

    /// Bytes for a flow's socket.
    pub(super) fn distribute(&mut self, tunnel: Slot, id: FlowId, slice: Slice) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        let Some(&slot) = state.flows.get(&id) else {
            return state.session.handle_taken(id, slice.len(), now);
        };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        self.measures.handle_come(&mut flow.arrivals, slice.len(), now);
        flow.outlet.push(slice);
        if flow.outlet.is_blocked {
            self.flows_blocked.insert(slot);
        }
        self.schedule_flow(slot);
    }

    pub(super) fn schedule_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if !std::mem::replace(&mut flow.is_to_send, true) {
            self.flows_to_send.push(slot);
        }
    }

    /// Gives the flow's socket what waits for it, and shuts it down after the last byte.
    pub(super) fn send_flow(&mut self, slot: Slot) {
        let is_still = self.is_still();
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.is_to_send = false;
        if is_still {
            return;
        }
        // One that outlives its session has nobody to wake it when it is paid for.
        let is_metered = self.tunnels.get(flow.tunnel).is_some();
        let meter = is_metered.then(|| flow.seat.meter().borrow());
        let due = meter.as_ref().and_then(|meter| meter.bytes_due(self.now));
        let counts_bytes = meter.is_some_and(|meter| meter.counts_bytes());
        if let Some(due) = due {
            return self.wait_for_payment(slot, due);
        }
        let mut slices = self.take_slices();
        let Some(flow) = self.flows.get_mut(slot) else { return self.keep_slices(slices) };
        if let Some(socket) = flow.socket.as_ref().filter(|_| flow.state.is_connected()) {
            let pieces_max = if counts_bytes { 1 } else { FLOW_SEND_PIECES };
            if flow.outlet.poll_send(&mut slices, pieces_max) {
                let token = slot.token(Purpose::FlowSend);
                return self.ring.send(socket, slices, SendHow::Now, token);
            }
            if flow.outlet.poll_shutdown() {
                // It fails only when the socket is gone, which its receive will say.
                socket.shutdown_write().ok();
            }
        }
        self.keep_slices(slices);
        self.drop_if_over(slot);
    }

    pub(super) fn handle_flow_sent(
        &mut self,
        slot: Slot,
        result: io::Result<usize>,
        mut slices: SliceList,
    ) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if is_cancelled(&error) => 0,
            Err(_) => return self.fail_flow(slot, ResetReason::Peer),
        };
        flow.outlet.handle_sent(taken, &mut slices);
        self.measures.record_taken(flow.gauge, &mut flow.arrivals, taken, now);
        let is_blocked = flow.outlet.is_blocked;
        if let Some(socket) = flow.socket.as_ref().filter(|_| is_blocked) {
            self.flows_blocked.insert(slot);
            if self.standing == Standing::Running {
                self.ring.poll_writable(socket, slot.token(Purpose::FlowWritable));
            }
        }
        flow.story.handle_moved(Way::FromTunnel, taken);
        self.measures.count_bytes(flow.gauge, Way::FromTunnel, taken, now);
        flow.seat.meter().borrow_mut().charge_bytes(taken, now);
        let (tunnel_slot, id) = (flow.tunnel, flow.id);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) {
            tunnel.session.handle_taken(id, taken, now);
        }
        self.keep_slices(slices);
        self.schedule_flow(slot);
        self.schedule_send(tunnel_slot);
    }

    pub(super) fn handle_flow_writable(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.outlet.is_blocked = false;
        self.flows_blocked.remove(&slot);
        self.schedule_flow(slot);
    }

    /// The other end has sent its last byte.
    pub(super) fn finish_flow(&mut self, tunnel: Slot, id: FlowId) {
        let Some(slot) = self.slot_of(tunnel, id) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.outlet.finish();
        self.schedule_flow(slot);
    }

    /// The other end has reset the flow.
    pub(super) fn reset_flow(&mut self, tunnel: Slot, id: FlowId, reason: ResetReason) {
        if let Some(slot) = self.association_of(tunnel, id) {
            return self.reset_association(slot, reason);
        }
        let Some(slot) = self.slot_of(tunnel, id) else { return };
        let Some(flow) = self.flows.get(slot) else { return };
        let name = flow.story.name();
        tracing::debug!(peer = %flow.peer, flow = %name, ?reason, "flow reset by the other end");
        let is_told = self.tell_refused(slot, reason);
        self.drop_flow(slot, !is_told);
    }

    pub(super) fn slot_of(&self, tunnel: Slot, id: FlowId) -> Option<Slot> {
        self.tunnels.get(tunnel)?.flows.get(&id).copied()
    }

    /// Lets go of a flow whose session is over. One that both ends have ended may hand out what has
    /// come, for [`FLUSH_MAX`]; any other is reset.
    pub(super) fn outlive(&mut self, slot: Slot) {
        let only_flushes = |flow: &FlowSocket| flow.has_ended && flow.outlet.is_finishing();
        match self.flows.get_mut(slot) {
            Some(flow) if only_flushes(flow) => {
                // A session that begins in the same place may use the same id.
                flow.tunnel = Slot::NOWHERE;
                // Nobody is left to wake it when it is paid for.
                self.schedule_flow(slot);
                self.timers.set(self.now + FLUSH_MAX, Timer::Flush(slot));
            }
            _ => self.drop_flow(slot, true),
        }
    }

    fn drop_if_over(&mut self, slot: Slot) {
        if self.flows.get(slot).is_some_and(|flow| flow.has_ended && flow.outlet.is_shut()) {
            self.drop_flow(slot, false);
        }
    }

    /// Lets go of the flow's socket; it is closed when its last operation has completed.
    pub(super) fn drop_flow(&mut self, slot: Slot, is_reset: bool) {
        let now = self.now;
        self.tell_refused(slot, ResetReason::Ending);
        let Some(flow) = self.flows.remove(slot) else { return };
        self.flows_blocked.remove(&slot);
        flow.story.tell_end(&flow.peer, is_reset, now);
        if let Some(tunnel) = self.tunnels.get_mut(flow.tunnel)
            && tunnel.flows.get(&flow.id) == Some(&slot)
        {
            tunnel.flows.remove(&flow.id);
            tunnel.judged -= usize::from(matches!(flow.state, State::Judged(_)));
            tunnel.session.handle_taken(flow.id, flow.outlet.bytes(), now);
        }
        if let Some(socket) = &flow.socket {
            if !is_reset {
                socket.set_orderly_close().ok();
            }
            self.ring.cancel(socket);
        }
        self.schedule_send(flow.tunnel);
    }
}
