//! One end of a datagram path: what it seals, opens, and does to prove itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use aws_lc_rs::error::Unspecified;
use serde::{Deserialize, Serialize};

use super::challenge::{Challenge, is_same};
use super::keys::{Opening, Sealing};
use super::liveness::Liveness;
use super::packet::{self, Own, PACKET_HEADER, PACKET_OWN, PACKET_TRAILER, PacketError, PathError};
use super::search::Search;
use super::window::Window;
use crate::frame::{Frame, PathOffer};
use crate::id::{Side, Time};
use crate::limits::{
    FRAME_HEADER, PATH_ANSWERS_MAX, PATH_FORGED_MAX, PATH_GENERATION_BITS, PATH_PACKET_MAX,
    PATH_SILENCE_MAX,
};

/// What a path has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// Packets sealed.
    pub sent: u64,
    /// Authentic packets.
    pub received: u64,
    /// Packets that did not authenticate.
    pub forged: u64,
    /// Packets seen before, or too old to tell.
    pub replayed: u64,
    /// Packets too short, or authentic without being frames that belong into one.
    pub malformed: u64,
    /// Packets with another path's id.
    pub other_id: u64,
    /// How often the path was closed: datagrams fall back to the TCP carrier.
    pub falls_back: u64,
    /// How often it opened, the first time included.
    pub returns: u64,
    /// The size of its packets at present.
    pub mtu: usize,
}

impl PathCounters {
    fn count(&mut self, error: PacketError) {
        let counter = match error {
            PacketError::Forged => &mut self.forged,
            PacketError::Replayed(_) => &mut self.replayed,
            PacketError::OtherId(_) => &mut self.other_id,
            PacketError::TooShort(_) | PacketError::Malformed(_) | PacketError::Unexpected(_) => {
                &mut self.malformed
            }
        };
        *counter += 1;
    }
}

/// What of a path one process leaves to another, so that no packet number comes twice under one key,
/// either way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PathSnapshot {
    counter: u64,
    heard_up_to: u64,
    remote: Option<SocketAddr>,
}

/// An authentic packet.
struct Opened {
    content: Range<usize>,
    own: Own,
    is_newest: bool,
}

/// A `PONG` that waits to be sent.
#[derive(Clone, Copy, Debug)]
struct Answer {
    number: u64,
    to: SocketAddr,
}

/// One end of a datagram path.
#[derive(Debug)]
pub struct Path {
    side: Side,
    id: u32,
    /// The next packet's number.
    counter: u64,
    sealing: Sealing,
    opening: Opening,
    window: Window,
    /// Where datagrams go, once the path is open. The relay's was proven at least once.
    remote: Option<SocketAddr>,
    /// An address that the relay has heard and that is to prove itself.
    challenge: Option<Challenge>,
    answers: VecDeque<Answer>,
    liveness: Liveness,
    search: Search,
    /// When the remote was last heard.
    heard: Time,
    counters: PathCounters,
}

impl Path {
    /// One end of the path that `offer` describes. The forwarder's `remote` is the relay's address;
    /// the relay has none until it is spoken to.
    pub fn new(side: Side, offer: &PathOffer, remote: Option<SocketAddr>, now: Time) -> Self {
        Self::with_generation_bits(side, offer, remote, now, PATH_GENERATION_BITS)
    }

    /// The same with keys that last for `2^generation_bits` packets, for tests.
    #[doc(hidden)]
    pub fn with_generation_bits(
        side: Side,
        offer: &PathOffer,
        remote: Option<SocketAddr>,
        now: Time,
        generation_bits: u32,
    ) -> Self {
        Self {
            side,
            id: offer.id,
            counter: 0,
            sealing: Sealing::new(side, offer, generation_bits),
            opening: Opening::new(side, offer, generation_bits),
            window: Window::new(),
            remote,
            challenge: None,
            answers: VecDeque::new(),
            liveness: Liveness::new(),
            search: Search::new(now),
            heard: now,
            counters: PathCounters::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> PathSnapshot {
        let (counter, heard_up_to) = (self.counter, self.window.end());
        PathSnapshot { counter, heard_up_to, remote: self.remote }
    }

    /// The path as it was left. It is closed until a probe is answered, and of what was on its way
    /// nothing is taken: whether it has come before is not known any more.
    pub(crate) fn restore(side: Side, offer: &PathOffer, left: &PathSnapshot, now: Time) -> Self {
        let mut path = Self::new(side, offer, left.remote, now);
        path.counter = left.counter;
        path.window = Window::beginning_at(left.heard_up_to);
        path.opening.skip_to(left.heard_up_to);
        path
    }

    /// Whether the path has proven itself: datagrams may go on it.
    pub fn is_open(&self) -> bool {
        self.remote.is_some() && self.liveness.is_open()
    }

    /// Where datagrams go, while the path is open.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote.filter(|_| self.liveness.is_open())
    }

    /// How many bytes of frames one packet holds at present.
    pub fn content_max(&self) -> usize {
        self.search.size() - PACKET_HEADER - PACKET_TRAILER
    }

    /// What the path has done so far.
    pub fn counters(&self) -> PathCounters {
        PathCounters { mtu: self.search.size(), ..self.counters }
    }

    /// Whether there are flows that would use the path: it is probed more often while closed.
    pub fn set_wanted(&mut self, wanted: bool) {
        self.liveness.set_wanted(wanted);
    }

    /// Seals a packet in place: `PACKET_HEADER` bytes of room, the content, `PACKET_TRAILER` bytes
    /// of room. Packets may be lost and reordered after that, never sealed twice.
    pub fn seal(&mut self, packet: &mut [u8]) -> Result<(), PathError> {
        let len = packet.len();
        let Some((header, rest)) = packet.split_first_chunk_mut::<PACKET_HEADER>() else {
            return Err(PathError::Length(len));
        };
        let Some((content, trailer)) = rest.split_last_chunk_mut::<PACKET_TRAILER>() else {
            return Err(PathError::Length(len));
        };
        if len > PATH_PACKET_MAX {
            return Err(PathError::Length(len));
        }
        let next = self.counter.checked_add(1).ok_or(PathError::Exhausted)?;
        *header = packet::header(self.id, self.counter);
        let tag = self
            .sealing
            .seal(self.counter, *header, content)
            .map_err(|Unspecified| PathError::Cipher)?;
        trailer.copy_from_slice(tag.as_ref());
        self.counter = next;
        self.counters.sent += 1;
        Ok(())
    }

    /// Opens a packet in place and says where its frames lie. The path's own are among them, and
    /// taken already. After an error the memory may be spoilt.
    ///
    /// A packet from another address moves nothing: the address is challenged with `random`, and
    /// only its answer makes datagrams go there.
    pub fn handle_packet(
        &mut self,
        packet: &mut [u8],
        from: SocketAddr,
        random: u64,
        now: Time,
    ) -> Result<Range<usize>, PacketError> {
        let opened = self.open(packet).inspect_err(|error| self.counters.count(*error))?;
        let Opened { content, own, is_newest } = opened;
        if self.side == Side::Forwarder || self.remote.is_some_and(|remote| is_same(remote, from)) {
            self.handle_remote_heard(is_newest, now);
        } else {
            let known = self.challenge.as_mut().filter(|known| is_same(known.address, from));
            match known {
                Some(known) => known.handle_heard(packet.len()),
                None if is_newest => {
                    self.challenge = Some(Challenge::new(from, packet.len(), random, now));
                }
                // A late packet from where the other end was.
                None => {}
            }
        }
        if self.side == Side::Forwarder && own.has_datagrams {
            // Should the NAT give it another address, only what it sends tells the relay.
            self.liveness.handle_busy();
        }
        if let Some(number) = own.pong {
            self.handle_pong(number, from, now);
        }
        if let Some(number) = own.ping {
            self.answer(number, from);
        }
        Ok(content)
    }

    fn open(&mut self, packet: &mut [u8]) -> Result<Opened, PacketError> {
        let len = packet.len();
        let Some((header, sealed)) = packet.split_first_chunk_mut::<PACKET_HEADER>() else {
            return Err(PacketError::TooShort(len));
        };
        let Some(content_len) = sealed.len().checked_sub(PACKET_TRAILER) else {
            return Err(PacketError::TooShort(len));
        };
        let (id, counter) = packet::parse_header(*header);
        if id != self.id {
            return Err(PacketError::OtherId(id));
        }
        if !self.window.is_fresh(counter) {
            return Err(PacketError::Replayed(counter));
        }
        if self.counters.forged >= PATH_FORGED_MAX {
            return Err(PacketError::Forged);
        }
        let opened = self.opening.open(counter, *header, sealed);
        opened.map_err(|Unspecified| PacketError::Forged)?;
        let is_newest = self.window.insert(counter);
        self.counters.received += 1;
        let own = packet::parse_own(&sealed[..content_len])?;
        Ok(Opened { content: PACKET_HEADER..PACKET_HEADER + content_len, own, is_newest })
    }

    /// An authentic packet came from the remote. To the forwarder all do: it knows where the relay
    /// is, whatever a packet's source.
    fn handle_remote_heard(&mut self, is_newest: bool, now: Time) {
        self.heard = now;
        self.liveness.handle_heard();
        if is_newest {
            self.challenge = None;
        }
    }

    fn handle_pong(&mut self, number: u64, from: SocketAddr, now: Time) {
        let was_open = self.is_open();
        let answered = |challenge: &mut Challenge| challenge.is_answered_by(number, from);
        if let Some(proven) = self.challenge.take_if(answered) {
            self.remote = Some(proven.address);
            self.heard = now;
            self.liveness.handle_proven(now);
            self.search = Search::new(now);
        } else if !self.liveness.handle_pong(number, now) {
            self.search.handle_pong(number, now);
        }
        self.counters.returns += u64::from(self.is_open() && !was_open);
    }

    fn answer(&mut self, number: u64, from: SocketAddr) {
        let to = if self.side == Side::Forwarder { self.remote } else { Some(from) };
        let Some(to) = to else {
            return;
        };
        if self.answers.len() >= PATH_ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(Answer { number, to });
    }

    /// Datagrams were sent: the path is probed while that goes on.
    pub fn handle_sent(&mut self, _now: Time) {
        self.liveness.handle_busy();
    }

    /// A send failed, or ICMP says that nobody is there. Anybody may say so: the path is closed
    /// until one probe is answered. A packet that was too long for the line is no such failure.
    pub fn handle_unreachable(&mut self, now: Time) {
        if self.liveness.handle_unreachable() {
            self.handle_lost(now);
        }
    }

    fn handle_lost(&mut self, now: Time) {
        self.counters.falls_back += 1;
        self.search = Search::new(now);
    }

    /// When [`Path::handle_timeout`] and [`Path::poll_own`] are due.
    pub fn poll_timeout(&self) -> Time {
        let challenge = self.challenge.as_ref().map(Challenge::poll_timeout);
        let probe = self.remote.map(|_| self.liveness.poll_timeout());
        let search = self.is_open().then(|| self.search.poll_timeout());
        [challenge, probe, search].into_iter().flatten().min().unwrap_or(Time(u64::MAX))
    }

    /// Looks whether a probe is due, or was missed too often.
    pub fn handle_timeout(&mut self, now: Time) {
        let is_silent = now.since(self.heard) > PATH_SILENCE_MAX;
        if self.side == Side::Relay && is_silent && !self.is_open() {
            // It may be somebody else's address by now.
            self.remote = None;
        }
        if self.remote.is_some() && self.liveness.handle_timeout(now) {
            self.handle_lost(now);
        }
    }

    /// The path's own next packet, if one is due: an answer, a challenge, a probe. Appends it to
    /// `out`, sealed, and says where it goes.
    pub fn poll_own(&mut self, random: u64, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        self.handle_timeout(now);
        let start = out.len();
        let to = self.poll_answer(now, out).or_else(|| self.poll_probe(random, now, out));
        to.filter(|_| match self.seal(&mut out[start..]) {
            Ok(()) => true,
            // Out of packet numbers: the path dies of its unanswered probes.
            Err(_) => {
                out.truncate(start);
                false
            }
        })
    }

    /// An answer, or a challenge, or both at once.
    fn poll_answer(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        while let Some(Answer { number, to }) = self.answers.pop_front() {
            let pong = Frame::Pong(number);
            if self.remote.is_some_and(|remote| is_same(remote, to)) {
                packet::append(&[pong], 0, out);
                return Some(to);
            }
            let Some(challenge) = self.challenge.as_mut() else { continue };
            if !is_same(challenge.address, to) || !challenge.allows(PACKET_OWN) {
                continue;
            }
            let start = out.len();
            if let Some(number) = challenge.poll_ping(PACKET_OWN + FRAME_HEADER + 8, now) {
                packet::append(&[pong, Frame::Ping(number)], challenge.packet_max(), out);
            } else {
                packet::append(&[pong], 0, out);
            }
            challenge.handle_sent(out.len() - start);
            return Some(to);
        }
        let challenge = self.challenge.as_mut()?;
        let number = challenge.poll_ping(PACKET_OWN, now)?;
        let start = out.len();
        packet::append(&[Frame::Ping(number)], challenge.packet_max(), out);
        challenge.handle_sent(out.len() - start);
        Some(challenge.address)
    }

    /// A probe: of the path, or of a greater packet size.
    fn poll_probe(&mut self, random: u64, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let remote = self.remote?;
        let size = if self.liveness.poll_ping(random, now) {
            self.search.size()
        } else if self.liveness.is_open() {
            self.search.poll_ping(random, self.liveness.patience(), now)?
        } else {
            return None;
        };
        packet::append(&[Frame::Ping(random)], size, out);
        Some(remote)
    }
}
