//! The datagram path of a session: a way of its own, beside whatever carries the session.
//!
//! The relay offers it in every `WELCOME`; the forwarder opens it. It has one set of keys for the
//! session's life, outlives TCP carriers, and when it fails itself, datagrams go with the streams.

use std::net::SocketAddr;

use super::datagrams::{Room, Stage};
use super::{Event, Session};
use crate::datagram::{PACKET_HEADER, PACKET_TRAILER, PacketError, Path};
use crate::frame::{Frame, Frames, PathOffer};
use crate::id::{Side, Time};
use crate::limits::{PACKETS_BYTES_MAX, PACKETS_MAX};

/// Packets to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// Where they go.
    pub to: SocketAddr,
    /// The size of each but the last, which may be shorter.
    pub segment: usize,
}

impl<B> Session<B> {
    /// The relay offers the path: every `WELCOME` from now on says it. A session has one offer:
    /// the first stays.
    pub fn offer_path(&mut self, offer: PathOffer) {
        self.datagrams.offer.get_or_insert(offer);
    }

    /// What the relay offers: at a forwarder, once `WELCOME` has come.
    pub fn path_offer(&self) -> Option<&PathOffer> {
        self.datagrams.offer.as_ref()
    }

    /// The forwarder has a socket for the path that was offered, to the relay at `remote`. Once
    /// the session has its path, another call changes nothing: a packet number must never come
    /// again under the same keys.
    pub fn open_path(&mut self, remote: SocketAddr, now: Time) {
        self.begin_path(Some(remote), now);
    }

    /// The path, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.datagrams.path.as_ref()
    }

    /// The path, if there is one.
    pub fn path_mut(&mut self) -> Option<&mut Path> {
        self.datagrams.path.as_mut()
    }

    fn begin_path(&mut self, remote: Option<SocketAddr>, now: Time) {
        if self.datagrams.path.is_some() {
            return;
        }
        if let Some(offer) = &self.datagrams.offer {
            self.datagrams.path = Some(Path::new(self.side, offer, remote, now));
            self.datagrams.tell_wanted();
        }
    }

    /// The relay waits for the forwarder's first packet as soon as the offer is made.
    pub(super) fn make_path(&mut self, now: Time) {
        if self.side == Side::Relay {
            self.begin_path(None, now);
        }
    }

    /// What a greeting says of the path.
    pub(super) fn offered_path(&self) -> Option<PathOffer> {
        self.datagrams.offer.clone().filter(|_| self.side == Side::Relay)
    }

    /// Takes a packet that came on the path from `from`, opens it in place, and appends what it
    /// means to `events`, whose ranges are within the packet. `random` is a fresh random number.
    ///
    /// # Errors
    /// When it is no packet of this session, or not to be taken: that concerns the packet alone.
    pub fn handle_packet(
        &mut self,
        packet: &mut [u8],
        from: SocketAddr,
        random: u64,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Result<(), PacketError> {
        let Some(path) = self.datagrams.path.as_mut() else {
            let id = packet.first_chunk().copied().map_or(0, u32::from_be_bytes);
            return Err(PacketError::OtherId(id));
        };
        let range = path.handle_packet(packet, from, random, now)?;
        let start = range.start;
        let mut frames = Frames::new(packet.get(range).unwrap_or_default());
        while let Some(frame) = frames.next() {
            // The path has seen to the rest.
            let Ok(Frame::Datagram(id, datagram)) = frame else { continue };
            if self.flows.contains_key(&id) {
                self.datagrams.counters.dropped_unknown += 1;
                continue;
            }
            let end = start + frames.offset();
            self.datagrams.handle_datagram(id, datagram, end, now, events);
        }
        Ok(())
    }

    /// Fills `out` with what the path is to send next: equal packets, of which the last may be
    /// shorter. `None` when there is nothing. `random` is a fresh random number.
    pub fn poll_packets(&mut self, random: u64, now: Time, out: &mut Vec<u8>) -> Option<Packets> {
        out.clear();
        self.datagrams.promote();
        let path = self.datagrams.path.as_mut()?;
        if let Some(to) = path.poll_own(random, now, out) {
            return Some(Packets { to, segment: out.len() });
        }
        let to = path.remote().filter(|_| path.is_open())?;
        let before = self.datagrams.counters.sent;
        let segment = self.fill_packets(now, out)?;
        self.datagrams.counters.sent_on_path += self.datagrams.counters.sent - before;
        if let Some(path) = self.path_mut() {
            path.handle_sent(now);
        }
        Some(Packets { to, segment })
    }

    /// Packs datagrams and seals the packets; returns their size. A packet that is shorter than
    /// the first ends the batch, and none is longer.
    fn fill_packets(&mut self, now: Time, out: &mut Vec<u8>) -> Option<usize> {
        let full = self.path()?.content_max();
        let mut content_max = full;
        for number in 0..PACKETS_MAX {
            let start = out.len();
            let end = start + PACKET_HEADER + content_max;
            if end + PACKET_TRAILER > PACKETS_BYTES_MAX {
                break;
            }
            out.resize(start + PACKET_HEADER, 0);
            self.datagrams.encode(Stage::Accepted, Room { end, full }, now, out);
            let content = out.len() - start - PACKET_HEADER;
            out.resize(out.len() + PACKET_TRAILER, 0);
            let is_sealed = content > 0 && self.seal_packet(out.get_mut(start..)?, now);
            if !is_sealed {
                out.truncate(start);
                break;
            }
            if number == 0 {
                content_max = content;
            } else if content < content_max {
                break;
            }
        }
        (!out.is_empty()).then_some(PACKET_HEADER + content_max + PACKET_TRAILER)
    }

    /// A path whose keys may seal no more is of no use; datagrams go with the streams again.
    fn seal_packet(&mut self, packet: &mut [u8], now: Time) -> bool {
        let Some(path) = self.path_mut() else { return false };
        let is_sealed = path.seal(packet).is_ok();
        if !is_sealed {
            path.handle_unreachable(now);
        }
        is_sealed
    }
}
