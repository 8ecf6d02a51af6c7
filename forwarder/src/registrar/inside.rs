//! The addresses of the peers that are registered at the moment: those who may reach out.

use std::collections::BTreeMap;
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

    /// Who may reach out from now on, if that has changed.
    pub(super) fn poll_sources(&mut self) -> Option<Sources> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        // A peer on this host is known by any address of the host that it dials.
        let is_here = self.counts.keys().any(IpAddr::is_loopback);
        let here = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let here = here.into_iter().filter(|_| is_here);
        Some(Sources::only(self.counts.keys().copied().chain(here)))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
