//! What a pump leaves: each session with what belongs to it, and the sockets of its flows.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use adit_proto::frame::{Frame, Open};
use adit_proto::id::{FlowId, Time};
use adit_proto::session::SessionSnapshot;
use adit_ring::Target;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Standing;
use crate::handoff::{Event, Listening, Replies};
use crate::key::PublicKey;
use crate::pump::Pump;
use crate::pump::carriers::CarrierLeft;
use crate::pump::flows::{FlowSocket, State};
use crate::pump::meter::Queue;
use crate::pump::owners::Owner;
use crate::pump::sessions::{Drops, Tunnel};
use crate::pump::slots::Slot;
use crate::pump::story::Story;
use crate::upgrade::{Packer, Parcel};

/// A session and what belongs to it. The next socket is its carrier's, if it has one; its streams follow,
/// each as a [`FlowLeft`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TunnelLeft {
    pub(super) key: u64,
    pub(super) owner: PublicKey,
    pub(super) name: String,
    pub(super) session: SessionSnapshot,
    pub(super) has_path: bool,
    pub(super) path: Option<PathLeft>,
    pub(super) drops: Drops,
    pub(super) flows_failed: u64,
    pub(super) flows_forbidden: u64,
    pub(super) flows_over_quota: u64,
    pub(super) resumptions: u64,
    pub(super) is_draining: bool,
    pub(super) stalled_since: Option<Time>,
    pub(super) carrier: Option<CarrierLeft>,
    pub(super) flows: usize,
}

/// Where its datagram path leads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PathLeft {
    pub(super) id: u32,
    pub(super) remote: Option<SocketAddr>,
}

/// One stream at this end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FlowLeft {
    pub(super) id: FlowId,
    pub(super) peer: String,
    /// Its socket is the next one.
    pub(super) has_socket: bool,
    pub(super) state: StateLeft,
    /// What the socket has yet to take.
    pub(super) waiting: Bytes,
    pub(super) is_finishing: bool,
    pub(super) is_shut: bool,
    pub(super) has_ended: bool,
    /// Whose limits it counts to, where those are not its session's.
    pub(super) queue: Queue,
    pub(super) story: Story,
}

/// How far it has come to its socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StateLeft {
    /// It is to be judged again, by its `OPEN`.
    Judged(Bytes),
    /// It is dialled again, and told this first.
    Connecting(TargetLeft, Bytes),
    /// Its caller waits to hear that the far end is there.
    Announced(Replies),
    /// Bytes move.
    Connected,
    /// Whom it is for asks again.
    GivenUp,
}

/// Where it is dialled.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum TargetLeft {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<TargetLeft> for Target {
    fn from(left: TargetLeft) -> Self {
        match left {
            TargetLeft::Tcp(address) => Self::Tcp(address),
            TargetLeft::Unix(path) => Self::Unix(path),
        }
    }
}

impl StateLeft {
    fn of(state: &State, id: FlowId) -> Self {
        match state {
            State::Judged(open) => Self::Judged(encoded(id, open)),
            State::Connecting(Some(Target::Tcp(address)), first) => {
                Self::Connecting(TargetLeft::Tcp(*address), Bytes::copy_from_slice(first))
            }
            State::Connecting(Some(Target::Unix(path)), first) => {
                Self::Connecting(TargetLeft::Unix(path.clone()), Bytes::copy_from_slice(first))
            }
            State::Announced(Listening::Caller(replies)) => Self::Announced(replies.clone()),
            // Its caller is judged again, and so opens another.
            State::Announced(Listening::ControlPlane(_)) | State::Connecting(..) => Self::GivenUp,
            State::Connected => Self::Connected,
        }
    }
}

fn encoded(id: FlowId, open: &Open) -> Bytes {
    let mut bytes = Vec::new();
    Frame::Open(id, open.clone()).encode(&mut bytes);
    bytes.into()
}

impl Pump {
    /// Packs all that the pump has. It stays here as well, and still.
    pub(in crate::pump) fn pack(&mut self, pump: usize) {
        let packed = match self.standing {
            Standing::Still => {
                // Somebody may have been told to go since.
                self.let_go_of_ending();
                self.try_pack().map_err(|error| error.to_string())
            }
            _ => Err("it does not stand still".to_owned()),
        };
        if packed.is_ok() {
            self.standing = Standing::Packed;
        }
        self.emit(Event::Packed { pump, packed });
    }

    fn try_pack(&self) -> io::Result<Parcel> {
        let mut packer = Packer::new()?;
        let alive = |tunnel: &&Tunnel| tunnel.session.is_up();
        // In the order in which they began.
        let slots = self.tunnels_by_key.values();
        let tunnels: Vec<&Tunnel> =
            slots.filter_map(|slot| self.tunnels.get(*slot)).filter(alive).collect();
        packer.put(&tunnels.len())?;
        for tunnel in tunnels {
            self.pack_tunnel(tunnel, &mut packer)?;
        }
        let orphans = self.flows.iter().filter(|(_, flow)| flow.tunnel == Slot::NOWHERE);
        let orphans: Vec<&FlowSocket> = orphans.map(|(_, flow)| flow).collect();
        packer.put(&orphans.len())?;
        orphans.into_iter().try_for_each(|flow| pack_flow(flow, &mut packer))?;
        let superseded = |(key, owner): (&PublicKey, &Owner)| Some((*key, owner.superseded?));
        packer.put(&self.owners.iter().filter_map(superseded).collect::<Vec<_>>())?;
        packer.finish()
    }

    fn pack_tunnel(&self, tunnel: &Tunnel, packer: &mut Packer) -> io::Result<()> {
        let session = tunnel.session.snapshot().map_err(io::Error::other)?;
        let carrier = tunnel.carrier.and_then(|carrier| self.carriers.get(carrier)?.leave());
        let (carrier, socket) = carrier.unzip();
        let path = tunnel.path.id.map(|id| PathLeft { id, remote: tunnel.path.remote() });
        packer.put(&TunnelLeft {
            key: tunnel.key.0,
            owner: tunnel.owner(),
            name: tunnel.name.to_string(),
            session,
            has_path: tunnel.has_path,
            path,
            drops: tunnel.drops,
            flows_failed: tunnel.flows_failed,
            flows_forbidden: tunnel.flows_forbidden,
            flows_over_quota: tunnel.flows_over_quota,
            resumptions: tunnel.resumptions,
            is_draining: tunnel.is_draining,
            stalled_since: tunnel.stalled_since,
            carrier,
            flows: tunnel.flows.len(),
        })?;
        socket.map_or(Ok(()), |socket| packer.put_socket(socket))?;
        let flows = tunnel.flows.values().filter_map(|slot| self.flows.get(*slot));
        flows.into_iter().try_for_each(|flow| pack_flow(flow, packer))
    }
}

fn pack_flow(flow: &FlowSocket, packer: &mut Packer) -> io::Result<()> {
    let state = StateLeft::of(&flow.state, flow.id);
    // One that is dialled again has another.
    let is_passed = matches!(state, StateLeft::Connected | StateLeft::Announced(_));
    let socket = flow.socket.as_ref().filter(|_| is_passed);
    packer.put(&FlowLeft {
        id: flow.id,
        peer: flow.peer.to_string(),
        has_socket: socket.is_some(),
        state,
        waiting: flow.outlet.left().into(),
        is_finishing: flow.outlet.is_finishing(),
        is_shut: flow.outlet.is_shut(),
        has_ended: flow.has_ended,
        queue: flow.seat.queue(),
        story: flow.story.clone(),
    })?;
    socket.map_or(Ok(()), |socket| packer.put_socket(socket))
}
