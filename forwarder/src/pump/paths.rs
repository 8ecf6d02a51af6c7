//! Datagram paths: the UDP sockets that packets come and go by. At the relay one socket serves all
//! sessions of the pump, told apart by the id in front of each packet; at the forwarder each session has
//! a connected one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use adit_proto::frame::{PathCipher, PathOffer};
use adit_proto::limits::{DATAGRAM_SOCKET_BYTES, PATH_SECRET};
use adit_proto::session;
use adit_ring::{Envelope, Memory, Message, Slice, SliceList, Socket, Target};
use nix::errno::Errno;

use super::Pump;
use super::echoes::Echoes;
use super::slots::{Purpose, Slot, Slots};
use crate::handoff;

/// Sends of one session in one turn: a flood of datagrams leaves the carrier its turn.
const SENDS_PER_TURN: usize = 64;

/// The sockets, and who is found by them.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) sockets: Slots<PathSocket>,
    /// At the relay: what new sessions are offered.
    offered: Option<Offered>,
    tunnels_by_id: HashMap<u32, Slot>,
    /// Probes that ask whether packets get here and back.
    pub(super) echoes: Echoes,
    /// Packets that name no session.
    pub(super) packets_unknown: u64,
}

#[derive(Clone, Copy, Debug)]
struct Offered {
    socket: Slot,
    port: u16,
    /// Which pump this is, and of how many: the kernel gives each pump the ids that it chose.
    pump: (u32, u32),
}

/// A socket, and whose it is.
#[derive(Debug)]
pub(super) struct PathSocket {
    socket: Socket,
    of: Of,
}

impl PathSocket {
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }
}

#[derive(Clone, Copy, Debug)]
enum Of {
    /// All sessions that were offered a path.
    All,
    /// One, and where the other end is.
    Tunnel(Slot, SocketAddr),
}

/// What belongs to one session's path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PathState {
    /// The offer that the session has.
    pub(super) id: Option<u32>,
    /// The address that the path was first opened to.
    remote: Option<SocketAddr>,
    socket: Option<Slot>,
    /// The address of ours that packets came to.
    local: Option<IpAddr>,
    /// The way out takes no gathered packets.
    sends_singly: bool,
}

impl PathState {
    /// The address that the path was first opened to.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Goes on with a path that another process has opened.
    pub(super) fn go_on(&mut self, id: u32, remote: Option<SocketAddr>) {
        *self = Self { id: Some(id), remote, ..Self::default() };
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("invariant: the system's random source works");
    bytes
}

/// The offer's cipher: what the relay's CPU does fast, and every forwarder can.
fn cipher() -> PathCipher {
    if crate::tls::cpu_has_aes() { PathCipher::Aes128Gcm } else { PathCipher::Chacha20Poly1305 }
}

/// Lets a socket carry packets. Without these it works, only less well.
fn prepare(socket: &Socket) {
    socket.set_gro().ok();
    socket.set_path_mtu_probing().ok();
    socket.set_buffers(DATAGRAM_SOCKET_BYTES, DATAGRAM_SOCKET_BYTES).ok();
}

impl Pump {
    /// From now on sessions that begin here are offered a path.
    pub(super) fn offer_paths(&mut self, path: handoff::PathSocket) {
        let handoff::PathSocket { socket, pump } = path;
        let Ok(port) = socket.local_addr().map(|address| address.port()) else { return };
        let socket = Socket::from(OwnedFd::from(socket));
        prepare(&socket);
        socket.set_packet_info().ok();
        if pump.1 > 1
            && let Err(error) = socket.steer(pump.1)
        {
            tracing::warn!(%error, "the kernel does not spread datagrams over the pumps: no datagram path is offered");
            return;
        }
        let socket = self.paths.sockets.insert(PathSocket { socket, of: Of::All });
        self.paths.offered = Some(Offered { socket, port, pump });
        self.arm_messages(Purpose::PathReceive, socket);
    }

    /// A path for a session that begins.
    pub(super) fn new_path(&self) -> Option<PathOffer> {
        let Offered { port, pump: (index, count), .. } = self.paths.offered?;
        let secret = random::<PATH_SECRET>();
        loop {
            let id = u32::from_be_bytes(random());
            let id = (id - id % count).saturating_add(index);
            if id % count == index && !self.paths.tunnels_by_id.contains_key(&id) {
                return Some(PathOffer { id, port, cipher: cipher(), secret });
            }
        }
    }

    /// The session that was offered a path is here.
    pub(super) fn keep_path(&mut self, at: Slot, id: u32) {
        let Some(offered) = self.paths.offered else { return };
        self.paths.tunnels_by_id.insert(id, at);
        if let Some(tunnel) = self.tunnels.get_mut(at) {
            tunnel.path =
                PathState { id: Some(id), socket: Some(offered.socket), ..PathState::default() };
        }
    }

    /// Lets go of what a session's path has.
    pub(super) fn drop_path(&mut self, path: PathState) {
        if let Some(id) = path.id {
            self.paths.tunnels_by_id.remove(&id);
        }
        if let Some(slot) = path.socket.filter(|slot| {
            self.paths.sockets.get(*slot).is_some_and(|path| matches!(path.of, Of::Tunnel(..)))
        }) {
            self.close_path_socket(slot);
        }
    }

    fn close_path_socket(&mut self, slot: Slot) {
        if let Some(path) = self.paths.sockets.remove(slot) {
            self.ring.cancel(&path.socket);
        }
    }

    /// At the forwarder: takes the path that the relay offers, by a new socket unless the one there
    /// works: this host may have another address by now.
    pub(super) fn take_path(&mut self, at: Slot, relay: Option<IpAddr>) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        let old = tunnel.path;
        let offer = tunnel.session.path_offer().filter(|_| tunnel.has_path);
        let Some((id, port)) = offer.map(|offer| (offer.id, offer.port)) else {
            tunnel.path = PathState::default();
            return self.drop_path(old);
        };
        let is_same = old.id == Some(id);
        let is_well = is_same && tunnel.session.path().is_some_and(|path| path.is_open());
        let Some(ip) = relay.or(old.remote.map(|remote| remote.ip())) else { return };
        let remote = SocketAddr::new(ip, port);
        // The old one stays until there is another: with no route at the moment it may yet work again.
        let socket = match Target::Udp(remote).associate() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%remote, %error, "no socket for the datagram path");
                return;
            }
        };
        let address = |socket: &Socket| socket.local_address().ok().map(|local| local.ip());
        let present = old.socket.and_then(|slot| self.paths.sockets.get(slot));
        if is_well && present.is_some_and(|path| address(&path.socket) == address(&socket)) {
            return;
        }
        self.drop_path(PathState { id: None, ..old });
        prepare(&socket);
        let slot = self.paths.sockets.insert(PathSocket { socket, of: Of::Tunnel(at, remote) });
        self.arm_messages(Purpose::PathReceive, slot);
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        // The same path has the same keys: it must go on counting where it is.
        let first = old.remote.filter(|_| is_same);
        if first.is_none() {
            tunnel.session.open_path(remote, now);
        }
        let remote = Some(first.unwrap_or(remote));
        tunnel.path =
            PathState { id: Some(id), remote, socket: Some(slot), ..PathState::default() };
        self.schedule_send(at);
    }

    /// Takes packets.
    pub(super) fn handle_packets(&mut self, slot: Slot, message: Message) {
        let Some(of) = self.paths.sockets.get(slot).map(|path| path.of) else { return };
        let Message { mut buffer, payload, source, local, segment, .. } = message;
        let segment = if segment == 0 { payload.len() } else { segment }.max(1);
        let (random, now) = (u64::from_be_bytes(random()), self.now);
        let (mut events, mut of_packet) = (Vec::new(), Vec::new());
        let mut last = None;
        for start in payload.clone().step_by(segment) {
            let end = (start + segment).min(payload.end);
            let packet = buffer.bytes_mut().get_mut(start..end).unwrap_or_default();
            let Some((at, from)) = self.whose(of, packet, source) else {
                let is_probe = source.is_some_and(|source| self.echo(slot, packet, source, local));
                self.paths.packets_unknown += u64::from(!is_probe);
                continue;
            };
            let Some(tunnel) = self.tunnels.get_mut(at) else { continue };
            if tunnel.session.handle_packet(packet, from, random, now, &mut of_packet).is_ok() {
                let remote = tunnel.session.path().and_then(|path| path.remote());
                // One that came round another way says nothing of the way back.
                if remote.is_none_or(|remote| remote == from) {
                    tunnel.path.local = local;
                }
                crate::collector::shift(&mut of_packet, start);
                events.extend(of_packet.drain(..).map(|event| (at, event)));
            }
            if last.replace(at) != Some(at) {
                self.schedule_send(at);
            }
        }
        let memory = Rc::new(Memory::from(buffer));
        for (at, event) in events {
            self.handle_session_event(at, event, &memory);
        }
    }

    /// Whose packet it is, and where it comes from.
    fn whose(
        &self,
        of: Of,
        packet: &[u8],
        source: Option<SocketAddr>,
    ) -> Option<(Slot, SocketAddr)> {
        match of {
            Of::Tunnel(at, remote) => {
                let first = self.tunnels.get(at)?.path.remote;
                Some((at, first.unwrap_or(remote)))
            }
            Of::All => {
                let id = u32::from_be_bytes(*packet.first_chunk()?);
                Some((*self.paths.tunnels_by_id.get(&id)?, source?))
            }
        }
    }

    /// Sends the session's packets; whether there may be more.
    pub(super) fn send_packets(&mut self, at: Slot) -> bool {
        if self.is_still() {
            return false;
        }
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return false };
        let Some(slot) = tunnel.path.socket else { return false };
        let Some(PathSocket { socket, of }) = self.paths.sockets.get(slot) else { return false };
        let from = tunnel.path.local;
        for _ in 0..SENDS_PER_TURN {
            // Asked at every turn of a session, whose streams have nothing to do with it.
            let session = &tunnel.session;
            let is_due = session.path().is_some_and(|path| path.poll_timeout() <= now);
            if !is_due && session.datagrams_queued() == 0 {
                return false;
            }
            let mut out = Vec::new();
            let random = u64::from_be_bytes(random());
            let Some(packets) = tunnel.session.poll_packets(random, now, &mut out) else {
                return false;
            };
            let mut departed = tunnel.in_flight.take_room();
            tunnel.session.take_departed(&mut departed);
            self.measures.record_queued(&departed, now);
            let session::Packets { to, segment } = packets;
            let whole = Slice::from(out);
            let each = if tunnel.path.sends_singly { segment.max(1) } else { whole.len().max(1) };
            let gathered = u16::try_from(segment).ok().filter(|_| each > segment);
            let sends = (0..whole.len()).step_by(each);
            tunnel.in_flight.handle_sends(sends.len(), departed);
            for start in sends {
                let envelope = match of {
                    Of::All => Envelope { to: Some(to), from, segment: gathered },
                    Of::Tunnel(..) => Envelope { to: None, from: None, segment: gathered },
                };
                let slices: SliceList = vec![whole.part(start..start + each)];
                self.ring.send_message(socket, envelope, slices, at.token(Purpose::PathSend));
            }
        }
        true
    }

    /// `at` is the session that sent.
    pub(super) fn handle_path_sent(&mut self, at: Slot, result: io::Result<usize>) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        let mut departed = tunnel.in_flight.handle_sent();
        let Err(error) = result else {
            self.measures.record_departed(&mut departed, now);
            return tunnel.in_flight.keep_room(departed);
        };
        let socket = tunnel.path.socket.and_then(|slot| self.paths.sockets.get(slot));
        let is_connected = socket.is_some_and(|path| matches!(path.of, Of::Tunnel(..)));
        match error.raw_os_error().map(Errno::from_raw) {
            // What a device without checksum offload says to gathered packets (udp(7)).
            Some(Errno::EIO | Errno::EINVAL) => tunnel.path.sends_singly = true,
            // Of the one place that this socket sends to.
            _ if is_connected => return self.handle_path_error(at, &error),
            // The relay's may concern an address that was only asked: that the path is lost shows.
            _ => {}
        }
        if let Some(tunnel) = self.tunnels.get_mut(at) {
            tunnel.drops.unsent += 1;
        }
    }

    /// A socket's error: at the forwarder it concerns the one session.
    pub(super) fn handle_path_receive_error(&mut self, slot: Slot, error: &io::Error) {
        if let Some(Of::Tunnel(at, _)) = self.paths.sockets.get(slot).map(|path| path.of) {
            self.handle_path_error(at, error);
        }
    }

    fn handle_path_error(&mut self, at: Slot, error: &io::Error) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        match error.raw_os_error().map(Errno::from_raw) {
            // A probe that was longer than the way takes, or a full socket: no sign of its end.
            Some(Errno::EMSGSIZE | Errno::EAGAIN | Errno::ENOBUFS | Errno::ECANCELED) => {
                tunnel.drops.unsent += 1;
            }
            _ => {
                if let Some(path) = tunnel.session.path_mut() {
                    path.handle_unreachable(now);
                    self.schedule_send(at);
                }
            }
        }
    }
}
