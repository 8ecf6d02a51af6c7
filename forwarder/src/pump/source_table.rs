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

impl SourceTable {
    /// The source's association.
    pub(super) fn get(&self, source: &SocketAddr) -> Option<Slot> {
        self.associations_by_source.get(source).copied()
    }

    /// Whether the source's neighbours leave it room.
    pub(super) fn has_room_for(&self, source: &SocketAddr) -> bool {
        let count = self.counts_by_prefix.get(&prefix(source.ip()));
        count.is_none_or(|count| *count < ASSOCIATIONS_PER_PREFIX_MAX)
    }

    /// Whether another may come only when one goes.
    pub(super) fn is_full(&self) -> bool {
        self.associations_by_source.len() >= ASSOCIATIONS_PER_CONTACT_MAX
    }

    /// The one that is to go first, if any is: it counts as gone.
    pub(super) fn pop_oldest(&mut self, is_newcomer: impl Fn(Slot) -> bool) -> Option<Slot> {
        std::iter::from_fn(|| self.newcomers.pop_front()).find(|oldest| is_newcomer(*oldest))
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

    /// Those who are heard, of the sources that `are_meant`.
    pub(super) fn slots(&self, are_meant: impl Fn(&SocketAddr) -> bool) -> Vec<Slot> {
        let meant = self.associations_by_source.iter().filter(|(source, _)| are_meant(source));
        let mut slots: Vec<Slot> = meant.map(|(_, slot)| *slot).collect();
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
            assert!(table.has_room_for(&source));
            if table.is_full() {
                let is_new = |slot| slots.get(slot).is_some_and(|(_, new)| *new);
                let oldest = table.pop_oldest(is_new).unwrap();
                let (gone, _) = slots.remove(oldest).unwrap();
                table.remove(&gone);
            }
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
        assert!(!table.has_room_for(&source(1, 60_000)));
        assert!(table.has_room_for(&source(2, 60_000)));
        table.remove(&source(1, 0));
        assert!(table.has_room_for(&source(1, 60_000)));
    }
}
