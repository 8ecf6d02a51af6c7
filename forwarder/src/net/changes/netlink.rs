//! The kernel's side of rtnetlink: the groups that tell of changes, and what is there already.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{Message, messages};

/// The kernel puts no more than that into one datagram.
pub(super) const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
/// Room for what changes while the daemon is busy; what does not fit counts as one change.
const QUEUE_BYTES: usize = 256 * 1024;
/// The kernel answers at once, or something is wrong.
const ANSWER_MAX_S: i64 = 1;
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// A socket that is told of changes from now on. Only the kernel and the privileged can write to it.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let socket = open()?;
    setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.cast_unsigned()))?;
    Ok(socket)
}

/// Shows all links and addresses that there are to `learn`. Blocks for as long as the kernel takes
/// to list them, which is next to nothing.
pub(super) fn list(mut learn: impl FnMut(Message)) -> io::Result<()> {
    let socket = open()?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_MAX_S))?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let requests = [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
    ];
    for request in requests {
        send(socket.as_raw_fd(), &listing(request), MsgFlags::empty())?;
        let mut is_done = false;
        while !is_done {
            let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            is_done = len == 0;
            for message in messages(buffer.get(..len).unwrap_or_default()) {
                is_done |= matches!(message, Message::End);
                learn(message);
            }
        }
    }
    Ok(())
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkRoute;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

fn listing(request: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
