//! Flows' sockets: bytes in, slices out, and how each direction ends.

use std::io;
use std::sync::Arc;

use adit_proto::frame::{Open, ResetReason};
use adit_proto::id::FlowId;
use adit_proto::limits::{
    CONNECT_MAX, FLOW_RECEIVE_SLOTS, FLOW_SLOTS_LOW, FLUSH_MAX, PAYLOAD_MAX, SESSION_HELD_WHEN_LOW,
};
use adit_ring::{Received, SendHow, Slice, SliceList, Socket};

use super::Pump;
use super::carriers::{CarrierSocket, is_dry};
use super::contacts::Contact;
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use crate::collector;
use crate::distributor::Outlet;

/// One flow's socket.
#[derive(Debug)]
pub(super) struct FlowSocket {
    tunnel: Slot,
    id: FlowId,
    socket: Socket,
    /// The internal peer's name, for logs.
    peer: Arc<str>,
    outlet: Outlet,
    state: State,
    is_receiving: bool,
    /// It waits for slots to come back.
    is_dry: bool,
    /// The socket has sent its last byte.
    has_ended: bool,
    is_to_send: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Connected,
}

impl FlowSocket {
    pub(super) fn copy_out(&mut self) {
        self.outlet.copy_out();
    }
}

impl Pump {
    /// An external peer has come: opens a flow for its connection.
    pub(super) fn open_flow(&mut self, tunnel: Slot, open: Open, peer: &Arc<str>, socket: Socket) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        socket.set_nodelay().ok();
        match state.session.open_flow(open, now) {
            Ok(id) => {
                let slot = self.insert_flow(tunnel, id, Arc::clone(peer), socket, State::Connected);
                self.arm_flow(slot);
                self.schedule_send(tunnel);
            }
            Err(error) => {
                state.flows_failed += 1;
                tracing::debug!(%peer, %error, "external peer turned away");
                socket.set_reset_on_close().ok();
            }
        }
    }

    /// The other end has opened a flow: connects to the internal peer.
    pub(super) fn dial(&mut self, tunnel: Slot, id: FlowId, open: &Open) {
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        let Some(Contact::Serve { peer, target }) = state.contacts.get(&open.contact) else {
            state.flows_failed += 1;
            return state.session.handle_reset(id, ResetReason::NoContact);
        };
        let (peer, target) = (Arc::clone(peer), *target);
        match Socket::tcp_for(&target) {
            Ok(socket) => {
                socket.set_nodelay().ok();
                let slot = self.insert_flow(tunnel, id, peer, socket.clone(), State::Connecting);
                self.ring.connect(&socket, target, slot.token(Purpose::FlowConnect));
                self.timers.set(self.now + CONNECT_MAX, Timer::Connect(slot));
            }
            Err(error) => {
                state.flows_failed += 1;
                state.session.handle_reset(id, ResetReason::Limit);
                tracing::warn!(%peer, %target, %error, "no socket for the internal peer");
            }
        }
    }

    fn insert_flow(
        &mut self,
        tunnel: Slot,
        id: FlowId,
        peer: Arc<str>,
        socket: Socket,
        state: State,
    ) -> Slot {
        // Should this process be killed, its flows are cut short, and are not to look finished.
        socket.set_reset_on_close().ok();
        // What comes before the socket is connected waits, like for one that is full.
        let outlet = match state {
            State::Connecting => Outlet::blocked(),
            State::Connected => Outlet::default(),
        };
        let slot = self.flows.insert(FlowSocket {
            tunnel,
            id,
            socket,
            peer,
            outlet,
            state,
            is_receiving: false,
            is_dry: false,
            has_ended: false,
            is_to_send: false,
        });
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.flows.insert(id, slot);
        }
        slot
    }

    pub(super) fn handle_connected(&mut self, slot: Slot, result: io::Result<()>) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if let Err(error) = result {
            let reason = match error.kind() {
                io::ErrorKind::ConnectionRefused => ResetReason::ConnectRefused,
                _ => ResetReason::ConnectFailed,
            };
            return self.fail_connect(slot, reason, &error);
        }
        flow.state = State::Connected;
        flow.outlet.is_blocked = false;
        self.flows_blocked.remove(&slot);
        let (tunnel, id) = (flow.tunnel, flow.id);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.session.accept_flow(id);
        }
        self.schedule_send(tunnel);
        self.schedule_flow(slot);
        self.arm_flow(slot);
    }

    pub(super) fn handle_connect_timeout(&mut self, slot: Slot) {
        if self.flows.get(slot).is_some_and(|flow| flow.state == State::Connecting) {
            self.fail_connect(slot, ResetReason::ConnectFailed, &io::ErrorKind::TimedOut.into());
        }
    }

    fn fail_connect(&mut self, slot: Slot, reason: ResetReason, error: &io::Error) {
        let Some(flow) = self.flows.get(slot) else { return };
        tracing::warn!(peer = %flow.peer, %error, "internal peer not connected: flow reset");
        if let Some(tunnel) = self.tunnels.get_mut(flow.tunnel) {
            tunnel.flows_failed += 1;
        }
        self.fail_flow(slot, reason);
    }

    /// The flow's socket is of no more use: tells the other end.
    fn fail_flow(&mut self, slot: Slot, reason: ResetReason) {
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
        if flow.is_receiving || flow.has_ended || flow.state == State::Connecting {
            return;
        }
        let Some(tunnel) = self.tunnels.get_mut(flow.tunnel) else { return };
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
        if record_max < PAYLOAD_MAX {
            let bytes = room.min(record_max);
            return self.ring.recv_few(&flow.socket, self.groups.flows, bytes, token);
        }
        match (room / PAYLOAD_MAX).min(FLOW_RECEIVE_SLOTS) {
            0 => self.ring.recv_few(&flow.socket, self.groups.flows, room, token),
            slots => self.ring.recv(&flow.socket, self.groups.flows, slots, token),
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
            Err(_) => return self.fail_flow(slot, ResetReason::Peer),
        };
        let (tunnel_slot, id) = (flow.tunnel, flow.id);
        let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) else { return };
        let mut is_end = true;
        for buffer in received {
            is_end = false;
            tunnel.session.handle_input(id, collector::chunk(buffer));
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
        flow.outlet.push(slice);
        if flow.outlet.is_blocked {
            self.flows_blocked.insert(slot);
        }
        self.schedule_flow(slot);
    }

    fn schedule_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if !std::mem::replace(&mut flow.is_to_send, true) {
            self.flows_to_send.push(slot);
        }
    }

    /// Gives the flow's socket what waits for it, and shuts it down after the last byte.
    pub(super) fn send_flow(&mut self, slot: Slot) {
        let mut slices = self.take_slices();
        let Some(flow) = self.flows.get_mut(slot) else { return self.keep_slices(slices) };
        flow.is_to_send = false;
        if flow.state == State::Connected && flow.outlet.poll_send(&mut slices) {
            let token = slot.token(Purpose::FlowSend);
            return self.ring.send(&flow.socket, slices, SendHow::Now, token);
        }
        if flow.state == State::Connected && flow.outlet.poll_shutdown() {
            // It fails only when the socket is gone, which its receive will say.
            flow.socket.shutdown_write().ok();
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
            Err(_) => return self.fail_flow(slot, ResetReason::Peer),
        };
        flow.outlet.handle_sent(taken, &mut slices);
        let is_blocked = flow.outlet.is_blocked;
        if is_blocked {
            self.flows_blocked.insert(slot);
            self.ring.poll_writable(&flow.socket, slot.token(Purpose::FlowWritable));
        }
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
        let Some(slot) = self.slot_of(tunnel, id) else { return };
        if let Some(flow) = self.flows.get(slot) {
            tracing::debug!(peer = %flow.peer, flow = id.0, ?reason, "flow reset by the other end");
        }
        self.drop_flow(slot, true);
    }

    fn slot_of(&self, tunnel: Slot, id: FlowId) -> Option<Slot> {
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
        let Some(flow) = self.flows.remove(slot) else { return };
        self.flows_blocked.remove(&slot);
        if let Some(tunnel) = self.tunnels.get_mut(flow.tunnel)
            && tunnel.flows.get(&flow.id) == Some(&slot)
        {
            tunnel.flows.remove(&flow.id);
            tunnel.session.handle_taken(flow.id, flow.outlet.bytes(), now);
        }
        if !is_reset {
            flow.socket.set_orderly_close().ok();
        }
        self.ring.cancel(&flow.socket);
        self.schedule_send(flow.tunnel);
    }
}
