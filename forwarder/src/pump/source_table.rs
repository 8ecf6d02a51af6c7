//! Who is heard at a UDP contact point: its associations by source, within bounds.
//!
//! A source address costs nothing to forge, so a crowd of them must neither take memory without
//! bound nor push out those that are really there. An association is *answered* when its source has
//! sent something after a reply went to it: one that forges its address does not see replies. When
//! the table is full the oldest association that is not answered makes room.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_proto::limits::{ASSOCIATIONS_PER_CONTACT_MAX, ASSOCIATIONS_PER_PREFIX_MAX};

use super::slots::Slot;

/// The associations of one contact point.
#[derive(Debug, Default)]
pub(super) struct SourceTable {
    associations_by_source: HashMap<SocketAddr, Slot>,
    counts_by_prefix: HashMap<IpAddr, usize>,
    /// In the order in which they came; those that are gone or answered are passed over.
    newcomers: VecDeque<Slot>,
}

/// Where there is room for one more source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It may come.
    Free,
    /// It may come when this one goes.
    InPlaceOf(Slot),
    /// Nowhere.
    Full,
}

impl SourceTable {
    /// The source's association.
    pub(super) fn get(&self, source: &SocketAddr) -> Option<Slot> {
        self.associations_by_source.get(source).copied()
    }

    /// Whether another source may come.
    pub(super) fn room(&mut self, source: &SocketAddr, is_newcomer: impl Fn(Slot) -> bool) -> Room {
        let count = self.counts_by_prefix.get(&prefix(source.ip())).copied().unwrap_or_default();
        if count >= ASSOCIATIONS_PER_PREFIX_MAX {
            return Room::Full;
        }
        if self.associations_by_source.len() < ASSOCIATIONS_PER_CONTACT_MAX {
            return Room::Free;
        }
        while let Some(oldest) = self.newcomers.pop_front() {
            if is_newcomer(oldest) {
                return Room::InPlaceOf(oldest);
            }
        }
        Room::Full
    }

    /// Adds an association that is new.
    pub(super) fn insert(
        &mut self,
        source: SocketAddr,
        slot: Slot,
        is_newcomer: impl Fn(Slot) -> bool,
    ) {
        self.associations_by_source.insert(source, slot);
        *self.counts_by_prefix.entry(prefix(source.ip())).or_default() += 1;
        if self.newcomers.len() >= 2 * ASSOCIATIONS_PER_CONTACT_MAX {
            self.newcomers.retain(|slot| is_newcomer(*slot));
        }
        self.newcomers.push_back(slot);
    }

    /// Forgets a source.
    pub(super) fn remove(&mut self, source: &SocketAddr) {
        if self.associations_by_source.remove(source).is_none() {
            return;
        }
        let prefix = prefix(source.ip());
        if let Some(count) = self.counts_by_prefix.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.counts_by_prefix.remove(&prefix);
            }
        }
    }

    /// Everybody who is heard.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.associations_by_source.values().copied().collect();
        slots.sort_unstable();
        slots
    }
}

/// A /24 of IPv4, a /56 of IPv6: what one customer of a provider may have.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::slots::Slots;

    fn source(n: u32, port: u16) -> SocketAddr {
        // One address in each /24.
        SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + (n << 8)), port))
    }

    /// However many sources come, the table holds no more than its bound, and those that have
    /// proven to be there stay.
    #[test]
    fn a_crowd_of_sources_pushes_out_no_answered_one() {
        let (mut table, mut slots) = (SourceTable::default(), Slots::default());
        for n in 0..100_000_u32 {
            let source = source(n % 60_000, 1_000 + u16::try_from(n / 60_000).unwrap());
            let room = table.room(&source, |slot| slots.get(slot).is_some_and(|(_, new)| *new));
            if let Room::InPlaceOf(oldest) = room {
                let (gone, _) = slots.remove(oldest).unwrap();
                table.remove(&gone);
            }
            assert_ne!(room, Room::Full);
            let slot = slots.insert((source, n >= 100));
            table.insert(source, slot, |slot| slots.get(slot).is_some_and(|(_, new)| *new));
            assert!(table.associations_by_source.len() <= ASSOCIATIONS_PER_CONTACT_MAX);
            assert!(table.newcomers.len() <= 2 * ASSOCIATIONS_PER_CONTACT_MAX + 1);
        }
        assert!((0..100).all(|n| table.get(&source(n, 1_000)).is_some()));
    }

    /// One customer's addresses take no more than their part.
    #[test]
    fn one_prefix_has_its_bound() {
        let (mut table, mut slots) = (SourceTable::default(), Slots::default());
        for n in 0..ASSOCIATIONS_PER_PREFIX_MAX {
            let source = source(1, u16::try_from(n).unwrap());
            table.insert(source, slots.insert(()), |_| true);
        }
        assert_eq!(table.room(&source(1, 60_000), |_| true), Room::Full);
        assert_eq!(table.room(&source(2, 60_000), |_| true), Room::Free);
        table.remove(&source(1, 0));
        assert_eq!(table.room(&source(1, 60_000), |_| true), Room::Free);
    }
}
