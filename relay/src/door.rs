//! How many strangers may be in the doorway at once: handshakes under way, in all and from one
//! source prefix, so that before it is known a peer costs a bounded amount.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use adit_proto::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_PREFIX_MAX};

/// Who is counted together: a /24 of IPv4, a /56 of IPv6, which is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 7]),
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

/// Handshakes under way.
#[derive(Debug, Default)]
pub(crate) struct Door {
    under_way: usize,
    by_prefix: BTreeMap<Prefix, usize>,
}

/// The doorway is full, for everybody or for this prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{HANDSHAKES_MAX} handshakes are under way")]
    Everywhere,
    #[error("{HANDSHAKES_PER_PREFIX_MAX} handshakes from the same network are under way")]
    FromThere,
}

impl Door {
    /// Handshakes under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Lets a caller in, until the ticket is dropped.
    pub(crate) fn enter(door: &Rc<RefCell<Self>>, caller: IpAddr) -> Result<Ticket, Full> {
        let prefix = Prefix::from(caller);
        let mut inner = door.borrow_mut();
        if inner.under_way >= HANDSHAKES_MAX {
            return Err(Full::Everywhere);
        }
        let from_there = inner.by_prefix.get(&prefix).copied().unwrap_or(0);
        if from_there >= HANDSHAKES_PER_PREFIX_MAX {
            return Err(Full::FromThere);
        }
        inner.under_way += 1;
        inner.by_prefix.insert(prefix, from_there + 1);
        Ok(Ticket { door: Rc::clone(door), prefix })
    }

    fn leave(&mut self, prefix: Prefix) {
        self.under_way -= 1;
        if let Some(count) = self.by_prefix.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.by_prefix.remove(&prefix);
            }
        }
    }
}

/// One handshake's place.
#[derive(Debug)]
pub(crate) struct Ticket {
    door: Rc<RefCell<Door>>,
    prefix: Prefix,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.door.borrow_mut().leave(self.prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(door: &Rc<RefCell<Door>>, caller: &str, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| Door::enter(door, caller.parse().unwrap()).unwrap()).collect()
    }

    fn refusal(door: &Rc<RefCell<Door>>, caller: &str) -> Option<Full> {
        Door::enter(door, caller.parse().unwrap()).err()
    }

    /// One network that fills its share keeps nobody else out.
    #[test]
    fn a_prefix_has_its_own_bound() {
        let door = Rc::default();
        let mut tickets = fill(&door, "198.51.100.1", HANDSHAKES_PER_PREFIX_MAX);
        for neighbour in ["198.51.100.1", "198.51.100.254", "::ffff:198.51.100.9"] {
            assert_eq!(refusal(&door, neighbour), Some(Full::FromThere), "{neighbour}");
        }
        for other in ["198.51.101.1", "2001:db8::1"] {
            assert_eq!(refusal(&door, other), None, "{other}");
        }
        tickets.pop();
        assert_eq!(refusal(&door, "198.51.100.7"), None);
    }

    /// An IPv6 customer has one share, however many addresses it uses.
    #[test]
    fn an_ipv6_site_is_one_prefix() {
        let door = Rc::default();
        let _tickets = fill(&door, "2001:db8:0:ff00::1", HANDSHAKES_PER_PREFIX_MAX);
        assert_eq!(refusal(&door, "2001:db8:0:ffff:1::2"), Some(Full::FromThere));
        assert_eq!(refusal(&door, "2001:db8:0:fe00::1"), None);
    }

    /// All prefixes together have a bound too, and leave nothing behind.
    #[test]
    fn all_prefixes_together_are_bounded() {
        let door: Rc<RefCell<Door>> = Rc::default();
        let mut tickets = Vec::new();
        for network in 0..HANDSHAKES_MAX.div_ceil(HANDSHAKES_PER_PREFIX_MAX) {
            let count = HANDSHAKES_PER_PREFIX_MAX.min(HANDSHAKES_MAX - tickets.len());
            tickets.extend(fill(&door, &format!("10.0.{network}.1"), count));
        }
        assert_eq!(refusal(&door, "192.0.2.1"), Some(Full::Everywhere));
        drop(tickets);
        assert_eq!(door.borrow().under_way(), 0);
        assert!(door.borrow().by_prefix.is_empty());
    }
}
