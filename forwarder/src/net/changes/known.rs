//! Which of the kernel's messages tell of something new.
//!
//! The kernel repeats itself: each router advertisement renews the lifetimes of addresses that
//! stay, a daemon beside us sets its routes again, and a link has a message for every detail of
//! it. So what is there is remembered, and compared with. Where memory ends, a repetition counts as
//! a change: one too many costs a probe of the tunnel, one too few a tunnel that hangs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::message::{Address, Message, messages};

/// Links, and addresses, that are remembered.
const KNOWN_MAX: usize = 4_096;
/// Routes that are. A gateway may have a million of them, those that are repeated are few.
const ROUTES_MAX: usize = 64;

/// What there is, as far as the kernel has told.
#[derive(Debug, Default)]
pub(super) struct Known {
    is_up_by_link: BTreeMap<u32, bool>,
    flags_by_address: BTreeMap<(u32, Vec<IpAddr>), AddressFlags>,
    /// Those that came since something else changed. The kernel drops routes without a word when
    /// their link goes down, so no older one is known to be there still.
    routes: Vec<RouteMessage>,
}

impl Known {
    /// Whether `datagram` tells of a change.
    pub(super) fn handle_datagram(&mut self, datagram: &[u8]) -> bool {
        let mut has_changed = false;
        for message in messages(datagram) {
            has_changed |= self.handle(message);
        }
        has_changed
    }

    /// Remembers what `message` tells; says whether it is a change.
    pub(super) fn handle(&mut self, message: Message) -> bool {
        let has_changed = match message {
            Message::Link { index, is_up } => self.set_link(index, is_up),
            Message::NoLink { index } => self.is_up_by_link.remove(&index) == Some(true),
            Message::Address(address) => self.set_address(address),
            Message::NoAddress(Address { link, addresses, .. }) => {
                self.flags_by_address.remove(&(link, addresses));
                true
            }
            Message::Route(route) => return self.set_route(route),
            Message::NoRoute | Message::Unreadable => true,
            Message::Other | Message::End => false,
        };
        if has_changed {
            self.routes.clear();
        }
        has_changed
    }

    fn set_link(&mut self, index: u32, is_up: bool) -> bool {
        if self.is_up_by_link.len() >= KNOWN_MAX {
            self.is_up_by_link.clear();
        }
        // A link that comes into being is news when it is up.
        self.is_up_by_link.insert(index, is_up).unwrap_or_default() != is_up
    }

    fn set_address(&mut self, Address { link, addresses, flags }: Address) -> bool {
        if self.flags_by_address.len() >= KNOWN_MAX {
            self.flags_by_address.clear();
        }
        self.flags_by_address.insert((link, addresses), flags) != Some(flags)
    }

    fn set_route(&mut self, route: RouteMessage) -> bool {
        let same = self.routes.iter_mut().find(|known| is_in_place_of(known, &route));
        if let Some(known) = same {
            let has_changed = *known != route;
            *known = route;
            return has_changed;
        }
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.push(route);
        true
    }
}

/// Whether the kernel keeps one of the two at most.
fn is_in_place_of(one: &RouteMessage, other: &RouteMessage) -> bool {
    let key = |route: &RouteMessage| {
        let is_key = |attribute: &&RouteAttribute| {
            matches!(attribute, RouteAttribute::Destination(_) | RouteAttribute::Priority(_))
        };
        route.attributes.iter().filter(is_key).cloned().collect::<Vec<_>>()
    };
    let (header, others) = (&one.header, &other.header);
    header.address_family == others.address_family
        && header.destination_prefix_length == others.destination_prefix_length
        && header.tos == others.tos
        && key(one) == key(other)
}
