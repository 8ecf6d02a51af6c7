//! Taking over what another process's pump has left. Nothing is touched yet: should this process fail,
//! the other one goes on.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use adit_proto::frame::{Frame, Frames, Open, ResetReason};
use adit_proto::id::{SessionId, Side, Time};
use adit_proto::limits::FLUSH_MAX;
use adit_proto::session::Session;
use adit_ring::Socket;

use super::Standing;
use super::pack::{FlowLeft, PathLeft, StateLeft, TunnelLeft};
use crate::distributor::Outlet;
use crate::handoff::{Down, Event, Listening, SessionKey};
use crate::key::PublicKey;
use crate::pump::Pump;
use crate::pump::carriers::{CarrierLeft, CarrierSocket};
use crate::pump::flows::{FlowSocket, State};
use crate::pump::meter::{Queue, Seat, SharedMeter};
use crate::pump::sessions::Tunnel;
use crate::pump::slots::Slot;
use crate::pump::timers::Timer;
use crate::upgrade::{Parcel, Unpacker};

impl Pump {
    /// Takes over what was left to this pump, and stands still until it may go on.
    pub(in crate::pump) fn restore(&mut self, parcel: Parcel, keeps_carriers: bool) {
        let restored = match self.standing {
            Standing::Still => {
                self.try_restore(parcel, keeps_carriers).map_err(|error| error.to_string())
            }
            _ => Err("the pump does not stand still".to_owned()),
        };
        if restored.is_ok() {
            self.standing = Standing::Packed;
        }
        self.emit(Event::Restored(restored));
    }

    fn try_restore(&mut self, parcel: Parcel, keeps_carriers: bool) -> io::Result<()> {
        let mut unpacker = parcel.unpack()?;
        let tunnels: usize = unpacker.take()?;
        for _ in 0..tunnels {
            self.restore_tunnel(&mut unpacker, keeps_carriers)?;
        }
        let orphans: usize = unpacker.take()?;
        for _ in 0..orphans {
            let left: FlowLeft = unpacker.take()?;
            let socket = left.has_socket.then(|| unpacker.take_socket()).transpose()?;
            let flow = self.restore_flow(left, socket.map(Socket::from), Slot::NOWHERE)?;
            if let Some(flow) = flow {
                let slot = self.flows.insert(flow);
                self.timers.set(self.now + FLUSH_MAX, Timer::Flush(slot));
            }
        }
        for (key, superseded) in unpacker.take::<Vec<(PublicKey, (SessionId, Time))>>()? {
            self.owners.entry(key).or_default().superseded = Some(superseded);
        }
        Ok(())
    }

    fn restore_tunnel(&mut self, unpacker: &mut Unpacker, keeps_carrier: bool) -> io::Result<()> {
        let left: TunnelLeft = unpacker.take()?;
        let key = SessionKey(left.key);
        let session = Session::restore(left.session, self.now).map_err(io::Error::other)?;
        let side = session.side();
        let meter = match side {
            Side::Relay => Rc::clone(&self.owners.entry(left.owner).or_default().meter),
            Side::Forwarder => SharedMeter::default(),
        };
        let mut tunnel = Tunnel::new(key, left.owner, Arc::from(left.name), session, meter);
        tunnel.has_path = left.has_path;
        tunnel.drops = left.drops;
        tunnel.flows_failed = left.flows_failed;
        tunnel.flows_forbidden = left.flows_forbidden;
        tunnel.flows_over_quota = left.flows_over_quota;
        tunnel.resumptions = left.resumptions;
        tunnel.is_draining = left.is_draining;
        tunnel.stalled_since = left.stalled_since.or(Some(self.now));
        let slot = self.tunnels.insert(tunnel);
        self.tunnels_by_key.insert(key, slot);
        if side == Side::Relay {
            self.owners.entry(left.owner).or_default().tunnels.push_back(slot);
        }
        self.restore_path(slot, side, left.path);
        let socket = left.carrier.as_ref().map(|_| unpacker.take_socket()).transpose()?;
        match left.carrier.zip(socket.map(Socket::from)) {
            Some((_, socket)) if !keeps_carrier => {
                self.carriers_left.push(socket);
                self.restore_carrier(slot, None);
            }
            carrier => self.restore_carrier(slot, carrier),
        }
        for _ in 0..left.flows {
            let left: FlowLeft = unpacker.take()?;
            let socket = left.has_socket.then(|| unpacker.take_socket()).transpose()?;
            self.restore_stream(left, socket.map(Socket::from), slot)?;
        }
        self.end_datagrams(slot);
        Ok(())
    }

    /// Where there is none to go on with, the one that the session had is lost.
    fn restore_carrier(&mut self, at: Slot, left: Option<(CarrierLeft, Socket)>) {
        let carrier = left.and_then(|(left, socket)| CarrierSocket::take_over(left, socket, at));
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        match carrier {
            Some(carrier) => tunnel.carrier = Some(self.carriers.insert(carrier)),
            None if tunnel.session.is_carried() => {
                tunnel.session.handle_carrier_lost(self.now);
                let why = Down::Lost("the connection was the old process's".into());
                let session = tunnel.key;
                self.emit(Event::Lost { session, why });
            }
            None => {}
        }
    }

    /// The relay's socket is here already; the forwarder opens another when it has a carrier.
    fn restore_path(&mut self, at: Slot, side: Side, left: Option<PathLeft>) {
        let Some(PathLeft { id, remote }) = left else { return };
        match side {
            Side::Relay => self.keep_path(at, id),
            Side::Forwarder => {
                if let Some(tunnel) = self.tunnels.get_mut(at) {
                    tunnel.path.go_on(id, remote);
                }
            }
        }
    }

    fn restore_stream(
        &mut self,
        left: FlowLeft,
        socket: Option<Socket>,
        at: Slot,
    ) -> io::Result<()> {
        let (id, is_given_up) = (left.id, matches!(left.state, StateLeft::GivenUp));
        let Some(flow) = self.restore_flow(left, socket, at)? else {
            if let Some(tunnel) = self.tunnels.get_mut(at).filter(|_| is_given_up) {
                tunnel.session.handle_reset(id, ResetReason::Ending);
            }
            return Ok(());
        };
        let open = match &flow.state {
            State::Judged(open) => Some(open.clone()),
            _ => None,
        };
        let is_opening = flow.is_opening();
        let slot = self.insert_flow(flow);
        if is_opening {
            self.expect_opening(slot);
        }
        if let (Some(open), Some(tunnel)) = (open, self.tunnels.get_mut(at)) {
            tunnel.judged += 1;
            let session = tunnel.key;
            self.emit(Event::Opened { session, flow: id, open });
        }
        Ok(())
    }

    /// What a flow is measured by: with its peer, whose contact point comes later, or its session's owner.
    fn restore_seat(&mut self, at: Slot, peer: &Arc<str>, queue: Queue) -> Seat {
        let Some(tunnel) = self.tunnels.get_mut(at) else {
            return Seat::new(&SharedMeter::default(), queue);
        };
        match queue {
            Some(_) => Seat::new(tunnel.meters_left.entry(Arc::clone(peer)).or_default(), queue),
            None => Seat::from(&tunnel.meter),
        }
    }

    fn restore_flow(
        &mut self,
        left: FlowLeft,
        socket: Option<Socket>,
        at: Slot,
    ) -> io::Result<Option<FlowSocket>> {
        let state = match left.state {
            StateLeft::Judged(open) => State::Judged(decoded(&open)?),
            StateLeft::Connecting(target, first) => {
                State::Connecting(Some(target.into()), first.to_vec())
            }
            StateLeft::Announced(replies) => State::Announced(Listening::Caller(replies)),
            StateLeft::Connected => State::Connected,
            StateLeft::GivenUp => return Ok(None),
        };
        let peer: Arc<str> = Arc::from(left.peer);
        let seat = self.restore_seat(at, &peer, left.queue);
        let mut flow = FlowSocket::new((at, left.id), peer, socket, state, seat, left.story);
        let is_connected = matches!(flow.state, State::Connected);
        flow.outlet = Outlet::restore(&left.waiting, left.is_finishing, left.is_shut, is_connected);
        flow.has_ended = left.has_ended;
        Ok(Some(flow))
    }

    /// Associations begin anew: whoever sends again is led to the same place by another one.
    fn end_datagrams(&mut self, at: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        for id in tunnel.session.datagram_flows() {
            tunnel.session.handle_reset(id, ResetReason::Ending);
        }
    }
}

fn decoded(open: &[u8]) -> io::Result<Open> {
    match Frames::new(open).next() {
        Some(Ok(Frame::Open(_, open))) => Ok(open),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a flow's OPEN cannot be read")),
    }
}
