//! The addresses of the peers that are registered at the moment: those who may reach out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sources::Sources;

/// How many registered peers each address has.
#[derive(Debug, Default)]
pub(super) struct Inside {
    counts: BTreeMap<IpAddr, usize>,
    has_changed: bool,
}

impl Inside {
    pub(super) fn enter(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        let count = self.counts.entry(address).or_default();
        *count += 1;
        self.has_changed |= *count == 1;
    }

    pub(super) fn leave(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        let Some(count) = self.counts.get_mut(&address) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&address);
            self.has_changed = true;
        }
    }

    /// Takes that nobody knows them any more.
    pub(super) fn renew(&mut self) {
        self.has_changed = true;
    }

    /// Takes that this host's addresses may be others now.
    pub(super) fn handle_network_change(&mut self) {
        self.has_changed |= self.is_here();
    }

    /// Whether one of the peers is on this host.
    fn is_here(&self) -> bool {
        self.counts.keys().any(IpAddr::is_loopback)
    }

    /// Who may reach out from now on, if that has changed; `own` says which addresses this host has.
    pub(super) fn poll_sources(
        &mut self,
        own: impl FnOnce() -> BTreeSet<IpAddr>,
    ) -> Option<Sources> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let mut addresses: BTreeSet<_> = self.counts.keys().copied().collect();
        // A peer on this host connects from whichever of the host's addresses it dials.
        if self.is_here() {
            addresses.extend(own());
            addresses.extend([Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)]);
        }
        Some(Sources::only(addresses))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
