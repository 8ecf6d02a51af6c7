//! What the peers behind both ends do, and what the sessions make of it.

use std::net::{Ipv4Addr, SocketAddr};

use adit_proto::frame::{ControlFrame, Destination, Open, Protocol, ResetReason};
use adit_proto::id::{ContactId, FlowId, Side};
use adit_proto::session::{Event, OpenError};

use crate::end::Socket;
use crate::oracle::{Outcome, index};
use crate::world::{Task, World};

impl World {
    /// Somebody does something, somewhere.
    pub(crate) fn act(&mut self) -> Outcome {
        if !self.plan.is_faulty {
            return Ok(());
        }
        let pause = self.random.micros(500, self.plan.act_pause);
        self.later(pause, Task::Act);
        if self.now < self.lull_until {
            return Ok(());
        }
        let side = self.draw_side();
        match self.random.below(125) {
            100.. => self.act_on_datagrams(side)?,
            0..15 => self.open(side)?,
            15..60 => self.write(side),
            60..70 => self.end_writing(side),
            70..74 => self.reset(side),
            74..82 => self.stall(side, true)?,
            82..94 => self.stall(side, false)?,
            _ => self.control(side),
        }
        self.turn(side)
    }

    pub(crate) fn draw_side(&mut self) -> Side {
        if self.random.chance(50) { Side::Forwarder } else { Side::Relay }
    }

    fn open(&mut self, side: Side) -> Outcome {
        let clock = self.clock(side);
        let is_full = self.ends[index(side)].sockets.len() >= self.plan.flows_max;
        let Some(session) = &mut self.ends[index(side)].session else { return Ok(()) };
        if is_full {
            return Ok(());
        }
        // The flow's number travels as the address of its peer.
        let flow = self.oracle.opened();
        let source = SocketAddr::from((Ipv4Addr::from_bits(flow), 1));
        let contact = ContactId(flow % 3);
        match session.open_flow(
            Open { contact, source, protocol: Protocol::Tcp, to: Destination::Contact },
            clock,
        ) {
            Ok(id) => {
                let is_eager = self.random.chance(50);
                self.add(side, id, flow, is_eager);
                if is_eager {
                    self.write_to(side, id);
                }
                Ok(())
            }
            Err(OpenError::NotUp) if !session.is_up() => {
                self.oracle.never_opened(flow);
                Ok(())
            }
            Err(error) => Err(format!("the {side:?} cannot open a flow: {error}")),
        }
    }

    /// A new flow, and `bytes` for it.
    pub(crate) fn write_new(&mut self, side: Side, bytes: u64) -> Outcome {
        self.open(side)?;
        let id = self.draw_socket(side).ok_or("there is no flow to write to")?;
        let end = self.end(side);
        if let Some(socket) = end.sockets.get_mut(&id) {
            socket.written += bytes;
            end.ready.insert(id);
        }
        self.turn(side)
    }

    /// Every peer writes no more.
    pub(crate) fn end_all(&mut self) -> Outcome {
        for side in [Side::Forwarder, Side::Relay] {
            self.end_datagrams(side);
            let end = self.end(side);
            for (id, socket) in &mut end.sockets {
                socket.ends = true;
                end.ready.insert(*id);
            }
            self.turn(side)?;
        }
        Ok(())
    }

    fn add(&mut self, side: Side, id: FlowId, flow: u32, is_connected: bool) {
        self.note("flow", [flow.into(), id.0.into()]);
        let mut socket = Socket::new(flow, is_connected);
        socket.reads_beyond = self.random.chance(20);
        let end = self.end(side);
        end.sockets.insert(id, socket);
        end.flows.insert(id, flow);
    }

    fn draw_socket(&mut self, side: Side) -> Option<FlowId> {
        let ids: Vec<FlowId> = self.end(side).sockets.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn write(&mut self, side: Side) {
        if let Some(id) = self.draw_socket(side) {
            self.write_to(side, id);
        }
    }

    fn write_to(&mut self, side: Side, id: FlowId) {
        let bytes = self.random.size(self.plan.burst).min(self.plan.bytes_left);
        let end = &mut self.ends[index(side)];
        let Some(socket) = end.sockets.get_mut(&id).filter(|socket| !socket.ends) else { return };
        self.plan.bytes_left -= bytes;
        socket.written += bytes as u64;
        end.ready.insert(id);
    }

    fn end_writing(&mut self, side: Side) {
        let Some(id) = self.draw_socket(side) else { return };
        let end = self.end(side);
        if let Some(socket) = end.sockets.get_mut(&id) {
            socket.ends = true;
            end.ready.insert(id);
        }
    }

    fn reset(&mut self, side: Side) {
        if !self.random.chance(self.plan.resets) {
            return;
        }
        if let Some(id) = self.draw_socket(side) {
            self.reset_socket(side, id, ResetReason::Peer);
        }
    }

    fn reset_socket(&mut self, side: Side, id: FlowId, reason: ResetReason) {
        let end = &mut self.ends[index(side)];
        let clock = end.clock(self.now);
        let Some(session) = &mut end.session else { return };
        let Some(socket) = end.sockets.remove(&id) else { return };
        self.oracle.reset_by_party(socket.flow, side, reason);
        session.handle_reset(id, reason);
        session.handle_taken(id, socket.untaken, clock);
    }

    /// A peer stops reading, or goes on.
    fn stall(&mut self, side: Side, is_stalled: bool) -> Outcome {
        let Some(id) = self.draw_socket(side) else { return Ok(()) };
        self.set_stalled(side, id, is_stalled)
    }

    pub(crate) fn set_stalled(&mut self, side: Side, id: FlowId, is_stalled: bool) -> Outcome {
        let Some(socket) = self.end(side).sockets.get_mut(&id) else { return Ok(()) };
        socket.is_stalled = is_stalled;
        let flow = socket.flow;
        self.take(side, id, flow)
    }

    fn control(&mut self, side: Side) {
        let Some(session) = &mut self.ends[index(side)].session else { return };
        // What is said before `WELCOME` counts for no session.
        if session.is_up() {
            let number = self.oracle.control_sent(session.id(), side);
            session.handle_control(ControlFrame::Unregister(ContactId(number)));
        }
    }

    /// The peer takes some of what waits for it, and more later.
    pub(crate) fn take(&mut self, side: Side, id: FlowId, flow: u32) -> Outcome {
        let end = &mut self.ends[index(side)];
        let clock = end.clock(self.now);
        let Some(session) = &mut end.session else { return Ok(()) };
        let Some(socket) = end.sockets.get_mut(&id) else { return Ok(()) };
        let may_take = socket.is_connected && !socket.is_stalled && socket.untaken > 0;
        if socket.flow != flow || !may_take {
            return Ok(());
        }
        let all = socket.untaken;
        let len = if self.random.chance(70) { all } else { self.random.between(1, all) };
        socket.untaken -= len;
        session.handle_taken(id, len, clock);
        if len < all {
            self.take_later(side, id, flow);
        }
        self.turn(side)
    }

    fn take_later(&mut self, side: Side, id: FlowId, flow: u32) {
        let delay = self.random.micros(10, 100_000);
        self.later(delay, Task::Take(side, id, flow));
    }

    /// The connect to a flow's peer is done, well or not.
    pub(crate) fn connect(&mut self, side: Side, id: FlowId, flow: u32) -> Outcome {
        let fails = self.random.chance(self.plan.resets / 3);
        let end = &mut self.ends[index(side)];
        if end.datagram_flows.get(&id) == Some(&flow) {
            if fails {
                self.reset_datagrams(side, id, ResetReason::ConnectRefused);
            } else if let Some(session) = &mut end.session {
                session.accept_flow(id);
            }
            return self.turn(side);
        }
        let Some(socket) = end.sockets.get_mut(&id).filter(|s| s.flow == flow) else {
            return Ok(());
        };
        socket.is_connected = true;
        end.ready.insert(id);
        if fails {
            self.reset_socket(side, id, ResetReason::ConnectRefused);
        } else if let Some(session) = &mut end.session {
            session.accept_flow(id);
        }
        self.take(side, id, flow)?;
        self.turn(side)
    }

    pub(crate) fn handle_events(
        &mut self,
        side: Side,
        content: &[u8],
        events: Vec<Event>,
    ) -> Outcome {
        for event in events {
            match event {
                Event::Data(id, range) => {
                    let flow = self.flow(side, id)?;
                    self.oracle.delivered(flow, side, &content[range.clone()])?;
                    self.deliver(side, id, flow, range.len())?;
                }
                Event::Opened(id, open) => self.opened(side, id, &open)?,
                Event::Accepted(id) => {
                    let end = self.end(side);
                    if let Some(socket) = end.sockets.get_mut(&id) {
                        socket.is_connected = true;
                        end.ready.insert(id);
                    }
                }
                Event::Finished(id) => {
                    let flow = self.flow(side, id)?;
                    self.oracle.finished(flow, side)?;
                    if let Some(socket) = self.end(side).sockets.get_mut(&id) {
                        socket.is_finished = true;
                    }
                }
                Event::Reset(id, reason) => self.reset_heard(side, id, reason)?,
                Event::Control(frame) => self.control_heard(side, &frame)?,
                Event::Datagrams { flow, segment, range } => {
                    self.deliver_datagrams(side, flow, segment.into(), &content[range])?;
                }
                Event::Joined(id, datagram) => {
                    self.oracle.count("a datagram came in parts");
                    self.deliver_datagrams(side, id, 0, &datagram)?;
                }
            }
        }
        Ok(())
    }

    fn flow(&mut self, side: Side, id: FlowId) -> Outcome<u32> {
        let flow = self.end(side).flows.get(&id).copied();
        flow.ok_or_else(|| format!("{id:?} at the {side:?} was never opened"))
    }

    fn deliver(&mut self, side: Side, id: FlowId, flow: u32, len: usize) -> Outcome {
        let end = &mut self.ends[index(side)];
        let Some(socket) = end.sockets.get_mut(&id) else {
            return Err(format!("{id:?} at the {side:?} has data and no socket"));
        };
        socket.untaken += len;
        if socket.is_connected && !socket.is_stalled {
            self.take_later(side, id, flow);
        }
        Ok(())
    }

    fn opened(&mut self, side: Side, id: FlowId, open: &Open) -> Outcome {
        let SocketAddr::V4(source) = open.source else {
            return Err(format!("a wrong source: {open:?}"));
        };
        let flow = source.ip().to_bits();
        if self.end(side).flows.contains_key(&id) {
            return Err(format!("{id:?} was opened twice at the {side:?}"));
        }
        match open.protocol {
            Protocol::Tcp => self.add(side, id, flow, false),
            Protocol::Udp => self.add_datagrams(side, id, flow),
        }
        let delay = self.random.micros(10, 300_000);
        self.later(delay, Task::Connect(side, id, flow));
        Ok(())
    }

    fn reset_heard(&mut self, side: Side, id: FlowId, reason: ResetReason) -> Outcome {
        let flow = self.flow(side, id)?;
        self.oracle.reset_heard(flow, side, reason)?;
        let clock = self.clock(side);
        let end = self.end(side);
        end.datagram_flows.remove(&id);
        if let (Some(socket), Some(session)) = (end.sockets.remove(&id), &mut end.session) {
            session.handle_taken(id, socket.untaken, clock);
        }
        Ok(())
    }

    fn control_heard(&mut self, side: Side, frame: &ControlFrame) -> Outcome {
        let id = self.end(side).session.as_ref().map(|session| session.id());
        match (frame, id) {
            (ControlFrame::Unregister(ContactId(number)), Some(id)) => {
                self.oracle.control_heard(id, side, *number)
            }
            _ => Err(format!("{frame:?} at the {side:?}")),
        }
    }
}
