//! How a flow comes to its socket: one that came in, one that is dialled, or one that the control
//! plane gives.
//!
//! ```text
//!                  a connection came in ───────────────────────┐
//!                                  somebody listens            ▼
//!   from the control plane: Open ──▶ Announced ──ACCEPT──▶ Connected
//!                                                              ▲
//!   OPEN to a contact point ─────▶ Connecting ─────────────────┤
//!                                      ▲ Dial                  │
//!   OPEN to a name or an address ──▶ Judged ──Join─────────────┘
//! ```

use std::io;
use std::sync::Arc;

use adit_proto::frame::{Destination, Open, Protocol, ResetReason};
use adit_proto::id::{FlowId, Time};
use adit_proto::limits::{ANNOUNCED_MAX, CONNECT_MAX, JUDGED_MAX};
use adit_ring::{Socket, Target};

use super::Pump;
use super::associations::{Association, End};
use super::carriers::is_called_back;
use super::flows::{FlowSocket, State};
use super::measures::Gauge;
use super::meter::{Queue, Seat};
use super::slots::{Purpose, Slot};
use super::story::Story;
use super::timers::Timer;
use crate::distributor::proxy_header;
use crate::handoff::{Answer, Event, Limit, Listening, Service, SessionKey};

impl Pump {
    /// Opens a flow for a connection that the control plane has.
    pub(super) fn open_for(
        &mut self,
        key: SessionKey,
        open: Open,
        peer: &Arc<str>,
        socket: Socket,
        listening: Option<Listening>,
    ) {
        if !open.to.is_valid() {
            // The other end would end the session for it.
            tracing::debug!(%peer, to = ?open.to, "turned away: no such place can be asked for");
            return self.dismiss(&socket, listening.as_ref(), ResetReason::ConnectFailed);
        }
        match self.tunnel_of(key) {
            Some((tunnel, _)) if open.protocol == Protocol::Udp => {
                self.open_association(tunnel, open, peer, socket, listening);
            }
            Some((tunnel, _)) => self.open_flow(tunnel, open, peer, socket, listening),
            None => self.dismiss(&socket, listening.as_ref(), ResetReason::Ending),
        }
    }

    /// A peer has come: opens a flow for its connection.
    pub(super) fn open_flow(
        &mut self,
        tunnel: Slot,
        open: Open,
        peer: &Arc<str>,
        socket: Socket,
        listening: Option<Listening>,
    ) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        socket.set_nodelay().ok();
        let admitted = state.meter.borrow_mut().admit_flow(now);
        if let Err(limit) = admitted {
            tracing::debug!(%peer, source = %open.source, limit = limit.name(), "turned away: a limit of the key");
            self.count_over_quota(tunnel, peer, limit);
            return self.dismiss(&socket, listening.as_ref(), ResetReason::Limit);
        }
        let (protocol, source) = (open.protocol, open.source);
        match state.session.open_flow(open, now) {
            Ok(id) => {
                let (seat, story) = (Seat::from(&state.meter), Story::new(id, protocol, source));
                let (at, peer) = ((tunnel, id), Arc::clone(peer));
                let state = listening.map_or(State::Connected, State::Announced);
                let flow = FlowSocket::new(at, peer, Some(socket), state, seat, story);
                let is_announced = matches!(flow.state, State::Announced(_));
                let slot = self.insert_flow(flow);
                if is_announced {
                    self.timers.set(now + ANNOUNCED_MAX, Timer::Announced(slot));
                }
                self.arm_flow(slot);
                self.schedule_send(tunnel);
            }
            Err(error) => {
                state.flows_failed += 1;
                tracing::debug!(%peer, %error, "turned away");
                self.dismiss(&socket, listening.as_ref(), ResetReason::Limit);
            }
        }
    }

    /// The other end has opened a flow.
    pub(super) fn handle_opened(&mut self, tunnel: Slot, id: FlowId, open: Open) {
        match open.to {
            Destination::Contact if open.protocol == Protocol::Udp => {
                self.associate_contact(tunnel, id, &open);
            }
            Destination::Contact => self.dial_contact(tunnel, id, &open),
            Destination::Name(_) | Destination::Address(_) => self.judge(tunnel, id, open),
        }
    }

    /// Lets the control plane say where the flow is to lead.
    fn judge(&mut self, tunnel: Slot, id: FlowId, open: Open) {
        let now = self.now;
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        if state.is_draining {
            return self.refuse(tunnel, id, ResetReason::Ending);
        }
        if state.judged >= JUDGED_MAX {
            state.flows_over_quota += 1;
            return self.refuse(tunnel, id, ResetReason::Limit);
        }
        let admitted = state.meter.borrow_mut().admit_flow(now);
        if let Err(limit) = admitted {
            let peer = Arc::clone(&state.name);
            self.count_over_quota(tunnel, &peer, limit);
            return self.refuse(tunnel, id, ResetReason::Limit);
        }
        state.judged += 1;
        let (session, peer, seat) = (state.key, Arc::clone(&state.name), Seat::from(&state.meter));
        let story = Story::new(id, open.protocol, open.source);
        if open.protocol == Protocol::Udp {
            let end = End::Judged(Vec::new());
            self.insert_association(Association::new((tunnel, id), peer, end, seat, now, story));
        } else {
            let judged = State::Judged(open.clone());
            let flow = FlowSocket::new((tunnel, id), peer, None, judged, seat, story);
            let slot = self.insert_flow(flow);
            self.expect_opening(slot);
        }
        self.emit_bounded(tunnel, Event::Opened { session, flow: id, open });
    }

    /// The control plane's judgement; the flow may have gone meanwhile.
    pub(super) fn answer(&mut self, key: SessionKey, id: FlowId, answer: Answer) {
        let Some((tunnel, _)) = self.tunnel_of(key) else { return };
        if let Some(slot) = self.association_of(tunnel, id) {
            return self.answer_association(slot, answer);
        }
        let Some(slot) = self.slot_of(tunnel, id) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if !matches!(flow.state, State::Judged(_)) {
            return;
        }
        flow.state = State::Connecting(None, Vec::new());
        if let Some(state) = self.tunnels.get_mut(tunnel) {
            state.judged -= 1;
        }
        match answer {
            Answer::Refuse(reason) => self.fail_opening(slot, reason),
            Answer::Dial(target) => self.connect(slot, &target, Vec::new()),
            Answer::Join(stream) => {
                let socket = Socket::from(stream);
                socket.set_nodelay().ok();
                socket.set_reset_on_close().ok();
                if let Some(flow) = self.flows.get_mut(slot) {
                    flow.socket = Some(socket);
                }
                self.handle_connected(slot, Ok(()));
            }
        }
    }

    /// Connects to the internal peer behind a contact point.
    fn dial_contact(&mut self, tunnel: Slot, id: FlowId, open: &Open) {
        let Some((peer, service, seat)) = self.admit_caller(tunnel, id, open) else { return };
        let story = Story::new(id, open.protocol, open.source);
        let header = service.proxy.map(|proxy| proxy_header(proxy, open.protocol, open.source));
        let connecting = State::Connecting(None, Vec::new());
        let flow = FlowSocket::new((tunnel, id), peer, None, connecting, seat, story);
        let slot = self.insert_flow(flow);
        self.expect_opening(slot);
        self.connect(slot, &service.target, header.unwrap_or_default());
    }

    /// Who serves the contact point that was called, if that is for this caller; refuses it otherwise.
    pub(super) fn admit_caller(
        &mut self,
        tunnel: Slot,
        id: FlowId,
        open: &Open,
    ) -> Option<(Arc<str>, Service, Seat)> {
        let now = self.now;
        let state = self.tunnels.get_mut(tunnel)?;
        let Some((peer, service, meter)) = state.served(open) else {
            self.refuse(tunnel, id, ResetReason::NoContact);
            return None;
        };
        if !service.sources.accepts(open.source.ip()) {
            state.flows_forbidden += 1;
            tracing::debug!(%peer, source = %open.source, "turned away: its address is not let in");
            self.refuse(tunnel, id, ResetReason::Forbidden);
            return None;
        }
        let admitted = meter.borrow_mut().admit_flow(now);
        if let Err(limit) = admitted {
            tracing::debug!(%peer, source = %open.source, limit = limit.name(), "turned away: a limit of the peer");
            self.count_over_quota(tunnel, &peer, limit);
            self.refuse(tunnel, id, ResetReason::Limit);
            return None;
        }
        Some((peer, service, Seat::new(&meter, Some(open.contact))))
    }

    /// A flow is turned away by a limit.
    pub(super) fn count_over_quota(&mut self, tunnel: Slot, peer: &Arc<str>, limit: Limit) {
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        state.flows_over_quota += 1;
        let gauge = self.measures.contact(&state.name, peer, self.now);
        self.measures.count_limited(gauge, limit, self.now);
    }

    /// Connects the flow's socket; `first` goes ahead of the flow's bytes.
    pub(super) fn connect(&mut self, slot: Slot, target: &Target, first: Vec<u8>) {
        if self.is_still() {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.state = State::Connecting(Some(target.clone()), first);
            }
            return;
        }
        let connecting = target.socket().and_then(|socket| {
            // Neither is known to a socket in the file system, nor missed there.
            socket.set_nodelay().ok();
            socket.set_reset_on_close().ok();
            self.ring.connect(&socket, target, slot.token(Purpose::FlowConnect))?;
            Ok(socket)
        });
        match connecting {
            Ok(socket) => {
                let Some(flow) = self.flows.get_mut(slot) else { return };
                flow.socket = Some(socket);
                flow.state = State::Connecting(Some(target.clone()), first);
            }
            Err(error) => {
                tracing::warn!(%target, %error, "no socket to dial with");
                self.fail_opening(slot, ResetReason::Limit);
            }
        }
    }

    pub(super) fn refuse(&mut self, tunnel: Slot, id: FlowId, reason: ResetReason) {
        if let Some(state) = self.tunnels.get_mut(tunnel) {
            state.flows_failed += 1;
            state.session.handle_reset(id, reason);
        }
        self.schedule_send(tunnel);
    }

    pub(super) fn insert_flow(&mut self, mut flow: FlowSocket) -> Slot {
        // Should this process be killed, its flows are cut short, and are not to look finished.
        if let Some(socket) = &flow.socket {
            socket.set_reset_on_close().ok();
        }
        let (tunnel, id) = (flow.tunnel, flow.id);
        flow.gauge = self.gauge(tunnel, id, &flow.peer);
        self.begin_story(tunnel, &flow.peer, flow.gauge, &mut flow.story);
        let slot = self.flows.insert(flow);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.flows.insert(id, slot);
        }
        slot
    }

    /// What the flow's times count to, at both of its ends here.
    pub(super) fn gauge(&mut self, tunnel: Slot, id: FlowId, peer: &Arc<str>) -> Gauge {
        let Some(state) = self.tunnels.get_mut(tunnel) else { return Gauge::default() };
        let gauge = self.measures.contact(&state.name, peer, self.now);
        state.session.tag_flow(id, gauge.0);
        gauge
    }

    /// The flow is counted, and told of; one that another process began was, there.
    pub(super) fn begin_story(
        &mut self,
        tunnel: Slot,
        peer: &str,
        gauge: Gauge,
        story: &mut Story,
    ) {
        let Some(state) = self.tunnels.get(tunnel).filter(|_| !story.has_begun()) else { return };
        self.measures.count_flow(gauge, self.now);
        self.teller.tell_begin(story, state.session.id(), peer, self.now);
    }

    /// The flow has [`CONNECT_MAX`] from now on to come to its socket.
    pub(super) fn expect_opening(&mut self, slot: Slot) {
        let is_awaited = |slot: Slot| self.flows.get(slot).is_some_and(FlowSocket::is_opening);
        self.openings.expect(slot, self.now + CONNECT_MAX, is_awaited);
    }

    /// Gives up what has not come to its socket in time.
    pub(super) fn give_up_openings(&mut self) {
        while let Some(slot) = self.openings.pop_due(self.now) {
            self.handle_connect_timeout(slot);
        }
    }

    /// Whoever waits to hear of the far end has waited long enough.
    pub(super) fn handle_announced_timeout(&mut self, slot: Slot) {
        if self.flows.get(slot).is_some_and(|flow| matches!(flow.state, State::Announced(_))) {
            self.tell_refused(slot, ResetReason::ConnectFailed);
            self.fail_flow(slot, ResetReason::Peer);
        }
    }

    pub(super) fn handle_connected(&mut self, slot: Slot, result: io::Result<()>) {
        if self.is_still() && result.as_ref().is_err_and(is_called_back) {
            return;
        }
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let first = match std::mem::replace(&mut flow.state, State::Connected) {
            State::Connecting(_, first) => first,
            _ => Vec::new(),
        };
        let told = match &flow.socket {
            Some(socket) if !first.is_empty() => result.and_then(|()| socket.send_now(&first)),
            _ => result,
        };
        if let Err(error) = told {
            let reason = match error.kind() {
                io::ErrorKind::ConnectionRefused => ResetReason::ConnectRefused,
                _ => ResetReason::ConnectFailed,
            };
            let name = flow.story.name();
            tracing::warn!(peer = %flow.peer, flow = %name, %error, "peer not connected: flow reset");
            return self.fail_opening(slot, reason);
        }
        let (tunnel, id) = (flow.tunnel, flow.id);
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.session.accept_flow(id);
        }
        self.start_flow(slot);
    }

    fn handle_connect_timeout(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get(slot) else { return };
        if flow.is_opening() {
            let name = flow.story.name();
            tracing::warn!(peer = %flow.peer, flow = %name, "peer not connected in time: flow reset");
            self.fail_opening(slot, ResetReason::ConnectFailed);
        }
    }

    fn fail_opening(&mut self, slot: Slot, reason: ResetReason) {
        let tunnel = self.flows.get(slot).map(|flow| flow.tunnel);
        if let Some(tunnel) = tunnel.and_then(|tunnel| self.tunnels.get_mut(tunnel)) {
            tunnel.flows_failed += 1;
        }
        self.fail_flow(slot, reason);
    }

    /// The far end is connected: whoever waits to hear it is told.
    pub(super) fn handle_flow_accepted(&mut self, tunnel: Slot, id: FlowId) {
        if let Some(slot) = self.association_of(tunnel, id) {
            return self.handle_association_accepted(slot);
        }
        let Some(slot) = self.slot_of(tunnel, id) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let (State::Announced(listening), Some(socket)) = (&flow.state, &flow.socket) else {
            return;
        };
        match listening {
            Listening::Caller(replies) if socket.send_now(&replies.accepted).is_err() => {
                return self.fail_flow(slot, ResetReason::Peer);
            }
            Listening::Caller(_) => {}
            Listening::ControlPlane(call) => {
                let event = Event::Heard { call: *call, heard: Ok(()) };
                self.unsent.push_back(event);
            }
        }
        flow.state = State::Connected;
        self.start_flow(slot);
    }

    /// The socket is connected: bytes may move.
    fn start_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.outlet.is_blocked = false;
        let tunnel = flow.tunnel;
        self.flows_blocked.remove(&slot);
        self.schedule_send(tunnel);
        self.schedule_flow(slot);
        self.arm_flow(slot);
    }

    /// Tells whoever waits to hear of the far end that there is none; whether a caller was told so.
    pub(super) fn tell_refused(&mut self, slot: Slot, reason: ResetReason) -> bool {
        let Some(flow) = self.flows.get_mut(slot) else { return false };
        if !matches!(flow.state, State::Announced(_)) {
            return false;
        }
        // Once: whatever else becomes of the flow is nothing that anybody waits for.
        let listening = std::mem::replace(&mut flow.state, State::Connected);
        match (listening, flow.socket.clone()) {
            (State::Announced(listening), Some(socket)) => {
                self.let_hear(&socket, &listening, reason)
            }
            _ => false,
        }
    }

    /// Lets whoever listens hear that there is no far end; whether that was the caller itself.
    fn let_hear(&mut self, socket: &Socket, listening: &Listening, reason: ResetReason) -> bool {
        match listening {
            Listening::Caller(replies) => socket.send_now(replies.refused(reason)).is_ok(),
            Listening::ControlPlane(call) => {
                self.emit(Event::Heard { call: *call, heard: Err(reason) });
                false
            }
        }
    }

    /// The flow goes on when what has moved is paid for.
    pub(super) fn wait_for_payment(&mut self, slot: Slot, due: Time) {
        let Some(waiting) = self.flows.get_mut(slot) else { return };
        let Some(state) = self.tunnels.get_mut(waiting.tunnel) else { return };
        if std::mem::replace(&mut waiting.is_unpaid, true) {
            return;
        }
        let (tunnel, queue) = (waiting.tunnel, waiting.seat.queue());
        self.measures.count_limited(waiting.gauge, Limit::BytesPerS, self.now);
        let unpaid = state.unpaid.entry(queue).or_default();
        let is_first = unpaid.is_empty();
        unpaid.push_back(slot);
        if is_first {
            self.timers.set(due, Timer::Quota(tunnel, queue));
        }
    }

    /// Of the flows that waited as many go on as can be paid for, those first that waited longest.
    pub(super) fn handle_paid(&mut self, tunnel: Slot, queue: Queue) {
        let Some(state) = self.tunnels.get_mut(tunnel) else { return };
        let Some(mut waiting) = state.unpaid.remove(&queue) else { return };
        // All that wait in one queue share one meter.
        let seat = waiting.iter().find_map(|slot| Some(&self.flows.get(*slot)?.seat));
        let Some(seat) = seat else { return };
        let (count, again) = seat.meter().borrow().affordable(self.now);
        let rest = waiting.split_off(count.min(waiting.len()));
        if !rest.is_empty() {
            state.unpaid.insert(queue, rest);
            self.timers.set(again, Timer::Quota(tunnel, queue));
        }
        for slot in waiting {
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            flow.is_unpaid = false;
            self.schedule_flow(slot);
            self.arm_flow(slot);
        }
    }

    /// Closes a connection that gets no flow, and says why to whoever listens.
    pub(super) fn dismiss(
        &mut self,
        socket: &Socket,
        listening: Option<&Listening>,
        reason: ResetReason,
    ) {
        match listening {
            // Whether a caller still hears it is its own affair.
            Some(listening) => _ = self.let_hear(socket, listening, reason),
            None => _ = socket.set_reset_on_close().ok(),
        }
    }
}
