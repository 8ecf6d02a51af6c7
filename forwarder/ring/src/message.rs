//! Datagrams: where they come from and go to, and the control messages that say so (cmsg(3), ip(7),
//! ipv6(7), udp(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;

use nix::libc;
use socket2::SockAddr;

use crate::buffer::Buffer;

/// `struct io_uring_recvmsg_out` in front of each message.
const OUT: usize = 16;
/// Room for the source's address: `struct sockaddr_in6`.
pub(crate) const NAME: usize = 28;
/// Room for control messages: the size of gathered datagrams, and the address that they came to.
pub(crate) const CONTROL: usize = 128;
/// What a buffer of a group for messages holds in front of the datagrams.
pub const MESSAGE_ROOM: usize = OUT + NAME + CONTROL;

/// `struct cmsghdr`: length, level, type.
const HEADER: usize = 16;
/// Control messages are aligned like a `size_t`.
const ALIGN: usize = 8;
/// The most that one send's control messages take, in words: two headers, `in6_pktinfo`, a size.
pub(crate) const CONTROL_WORDS: usize = 8;

/// What a UDP socket brings: one datagram, or several of one source that the kernel has put together.
#[derive(Debug)]
pub struct Message {
    /// Holds the datagrams.
    pub buffer: Buffer,
    /// Where in it they are.
    pub payload: Range<usize>,
    /// Who sent them; nobody that can be named on some sockets.
    pub source: Option<SocketAddr>,
    /// The address that they came to, where the socket was told to say so.
    pub local: Option<IpAddr>,
    /// The size of each but the last, which may be shorter; 0 of a single one.
    pub segment: usize,
    /// The end is missing: the buffer was too short.
    pub is_cut: bool,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// To whom; nobody on a connected socket.
    pub to: Option<SocketAddr>,
    /// From which of our addresses; the kernel chooses without.
    pub from: Option<IpAddr>,
    /// The bytes are datagrams of this size, of which the last may be shorter (`UDP_SEGMENT`).
    pub segment: Option<u16>,
}

impl Envelope {
    /// The address as the kernel takes it on a socket of either family.
    pub(crate) fn name(&self, is_v6: bool) -> Option<SockAddr> {
        self.to.map(|to| match to {
            SocketAddr::V4(to) if is_v6 => {
                SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into()
            }
            to => to.into(),
        })
    }

    /// The control messages.
    pub(crate) fn control(&self, is_v6: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(segment) = self.segment {
            put(&mut out, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match (self.from, is_v6) {
            (Some(IpAddr::V4(from)), false) => {
                // struct in_pktinfo: interface, our address, the header's address.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                put(&mut out, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (Some(from), true) => {
                let from = match from {
                    IpAddr::V4(from) => from.to_ipv6_mapped(),
                    IpAddr::V6(from) => from,
                };
                // struct in6_pktinfo: our address, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                put(&mut out, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            (Some(IpAddr::V6(_)), false) | (None, _) => {}
        }
        out
    }
}

fn put(out: &mut Vec<u8>, level: i32, kind: i32, body: &[u8]) {
    out.extend_from_slice(&(HEADER + body.len()).to_ne_bytes());
    out.extend_from_slice(&level.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Reads what the kernel wrote into `buffer` for one multishot receive.
pub(crate) fn read(buffer: Buffer) -> Option<Message> {
    let filled = buffer.payload();
    let bytes = buffer.bytes().get(filled.clone())?;
    let word = |at: usize| {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*word))
    };
    // struct io_uring_recvmsg_out: name's length, control's length, payload's length, flags.
    let (name_len, control_len) = (word(0)? as usize, word(4)? as usize);
    let is_cut = word(12)? & libc::MSG_TRUNC.cast_unsigned() != 0;
    let name = bytes.get(OUT..OUT + name_len.min(NAME))?;
    let control = bytes.get(OUT + NAME..)?.get(..control_len.min(CONTROL))?;
    let (segment, local) = read_control(control);
    let source = read_name(name);
    let start = (filled.start + MESSAGE_ROOM).min(filled.end);
    let payload = start..filled.end;
    // One datagram that fills a segment is not several.
    let segment = if payload.len() > segment { segment } else { 0 };
    Some(Message { payload, source, local, segment, is_cut, buffer })
}

fn read_name(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(match IpAddr::V6(Ipv6Addr::from(ip)).to_canonical() {
                IpAddr::V4(ip) => (ip, port).into(),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// The size of gathered datagrams, and the address that they came to.
fn read_control(mut control: &[u8]) -> (usize, Option<IpAddr>) {
    let (mut segment, mut local) = (0, None);
    while let Some((header, _)) = control.split_first_chunk::<HEADER>() {
        let (len, kind) = header.split_at(8);
        let len = len.first_chunk().map_or(0, |len| usize::from_ne_bytes(*len));
        let (level, kind) = kind.split_at(4);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
        let Some(body) = control.get(HEADER..len) else { break };
        match (number(level), number(kind)) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                segment = usize::try_from(number(body)).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip: Option<[u8; 4]> = body.get(4..).and_then(|ip| ip.first_chunk().copied());
                local = ip.map(|ip| Ipv4Addr::from(ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip: Option<[u8; 16]> = body.first_chunk().copied();
                local = ip.map(|ip| IpAddr::V6(Ipv6Addr::from(ip)).to_canonical());
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    (segment, local)
}
