//! What the kernel's messages say, as far as it matters to a tunnel.

use std::iter::from_fn;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage,
};
use nix::libc;

/// Messages begin at multiples of so many bytes.
const ALIGNMENT: usize = 4;

/// One message.
#[derive(Debug)]
pub(super) enum Message {
    Link {
        index: u32,
        is_up: bool,
    },
    NoLink {
        index: u32,
    },
    Address(Address),
    NoAddress(Address),
    /// A route of the main table, without what changes by itself.
    Route(RouteMessage),
    NoRoute,
    /// Nothing that a tunnel could notice.
    Other,
    /// The end of a list.
    End,
    /// Newer than this program, or cut off.
    Unreadable,
}

/// An address of a link.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) link: u32,
    /// Its own, and the other end's where the link has two ends.
    pub(super) addresses: Vec<IpAddr>,
    /// Those on which it depends whether the address is used.
    pub(super) flags: AddressFlags,
}

/// The messages of one datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message> {
    from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let Ok(len) = NetlinkBuffer::new_checked(datagram).map(|header| header.length() as usize)
        else {
            datagram = &[];
            return Some(Message::Unreadable);
        };
        let message = datagram.get(..len).map_or(Message::Unreadable, parse);
        datagram = datagram.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
}

fn parse(bytes: &[u8]) -> Message {
    let buffer = NetlinkBuffer::new(bytes);
    // A link's header says it all; its attributes are many, and new ones come with every kernel.
    match buffer.message_type() {
        libc::RTM_NEWLINK => link(buffer.payload(), |index, is_up| Message::Link { index, is_up }),
        libc::RTM_DELLINK => link(buffer.payload(), |index, _| Message::NoLink { index }),
        _ => match NetlinkMessage::deserialize(bytes).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => address_or_route(message),
            Ok(NetlinkPayload::Done(_) | NetlinkPayload::Error(_)) => Message::End,
            Ok(_) => Message::Other,
            Err(_) => Message::Unreadable,
        },
    }
}

fn link(payload: &[u8], meaning: impl Fn(u32, bool) -> Message) -> Message {
    let Ok(header) = LinkHeader::parse(payload) else { return Message::Unreadable };
    let is_up = header.flags.contains(LinkFlags::Up | LinkFlags::Running);
    meaning(header.index, is_up)
}

fn address_or_route(message: RouteNetlinkMessage) -> Message {
    match message {
        RouteNetlinkMessage::NewAddress(message) => address(&message, Message::Address),
        RouteNetlinkMessage::DelAddress(message) => address(&message, Message::NoAddress),
        RouteNetlinkMessage::NewRoute(message) if matters(&message) => {
            Message::Route(without_lifetimes(message))
        }
        RouteNetlinkMessage::DelRoute(message) if matters(&message) => Message::NoRoute,
        _ => Message::Other,
    }
}

fn address(message: &AddressMessage, meaning: impl Fn(Address) -> Message) -> Message {
    let header = &message.header;
    let mut addresses = Vec::new();
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(address) | AddressAttribute::Local(address) => {
                addresses.push(*address);
            }
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    if addresses.iter().all(is_link_local) {
        return Message::Other;
    }
    // Others say how it came to be, and what may be made of it.
    let flags =
        flags & (AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated);
    meaning(Address { link: header.index, addresses, flags })
}

/// Every link that comes up gets one of these, and no relay is behind it.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn matters(route: &RouteMessage) -> bool {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let is_main =
        table.unwrap_or(route.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN);
    let is_cached = route.header.flags.contains(RouteFlags::Cloned);
    let is_local = |address: &Ipv6Addr| address.is_unicast_link_local() || address.is_multicast();
    let is_local = route.attributes.iter().any(|attribute| {
        matches!(attribute,
            RouteAttribute::Destination(RouteAddress::Inet6(to)) if is_local(to))
    });
    is_main && !is_cached && !is_local
}

fn without_lifetimes(mut route: RouteMessage) -> RouteMessage {
    route.attributes.retain(|attribute| {
        !matches!(attribute, RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_))
    });
    route
}
