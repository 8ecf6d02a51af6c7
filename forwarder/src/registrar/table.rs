//! The registrar's table: its entries, found by id, by name, by port, and by when they are due.
//! Whatever is asked of it takes logarithmic time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use adit_proto::id::ContactId;

use super::entry::Entry;
use crate::config::Contact;

/// Entries and the ways to them.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<ContactId, Entry>,
    ids_by_name: BTreeMap<String, ContactId>,
    ids_by_port: BTreeMap<u16, ContactId>,
    /// One for each entry that waits for a moment: the first such moment.
    due: BTreeSet<(Instant, ContactId)>,
    /// How many registered peers have an address.
    counts_by_address: BTreeMap<IpAddr, usize>,
    /// Whether that has changed since it was last asked for.
    have_addresses_changed: bool,
    last_id: u32,
}

impl Table {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, id: ContactId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn id_by_name(&self, name: &str) -> Option<ContactId> {
        self.ids_by_name.get(name).copied()
    }

    /// Who has a contact point. Private ones are known by the peer's name.
    pub(super) fn id_by_contact(&self, name: &str, contact: Contact) -> Option<ContactId> {
        match contact {
            Contact::Public(port) => self.ids_by_port.get(&port).copied(),
            Contact::Private => self.id_by_name(name),
        }
    }

    /// All of them, by name.
    pub(super) fn ids(&self) -> Vec<ContactId> {
        self.ids_by_name.values().copied().collect()
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ContactId, &Entry)> {
        self.ids_by_name.values().filter_map(|id| Some((*id, self.entries.get(id)?)))
    }

    /// Takes an entry in, whose name and contact point are free, under an id of its own.
    pub(super) fn insert(&mut self, entry: Entry) -> ContactId {
        let id = self.next_id();
        self.ids_by_name.insert(entry.peer.name.clone(), id);
        if let Contact::Public(port) = entry.peer.contact {
            self.ids_by_port.insert(port, id);
        }
        let due = entry.poll_timeout();
        self.due.extend(due.map(|at| (at, id)));
        self.count_address(None, entry.registered_address());
        self.entries.insert(id, entry);
        id
    }

    /// Ids come again only after all the others, so that a late answer cannot find a new tenant.
    fn next_id(&mut self) -> ContactId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = ContactId(self.last_id);
            if !self.entries.contains_key(&id) {
                return id;
            }
        }
    }

    /// Changes an entry; every change of its timers goes through here.
    pub(super) fn update<R>(
        &mut self,
        id: ContactId,
        change: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        let entry = self.entries.get_mut(&id)?;
        let (before, address_before) = (entry.poll_timeout(), entry.registered_address());
        let changed = change(entry);
        let (after, address_after) = (entry.poll_timeout(), entry.registered_address());
        if before != after {
            before.into_iter().for_each(|at| _ = self.due.remove(&(at, id)));
            self.due.extend(after.map(|at| (at, id)));
        }
        self.count_address(address_before, address_after);
        Some(changed)
    }

    fn count_address(&mut self, before: Option<IpAddr>, after: Option<IpAddr>) {
        if before == after {
            return;
        }
        if let Some(address) = after {
            let count = self.counts_by_address.entry(address).or_default();
            *count += 1;
            self.have_addresses_changed |= *count == 1;
        }
        if let Some(address) = before
            && let Some(count) = self.counts_by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.counts_by_address.remove(&address);
                self.have_addresses_changed = true;
            }
        }
    }

    /// The addresses of all peers that are registered, if that has changed since the last time.
    pub(super) fn poll_addresses(&mut self) -> Option<impl Iterator<Item = IpAddr>> {
        let has_changed = std::mem::take(&mut self.have_addresses_changed);
        has_changed.then(|| self.counts_by_address.keys().copied())
    }

    pub(super) fn remove(&mut self, id: ContactId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.ids_by_name.remove(&entry.peer.name);
        if let Contact::Public(port) = entry.peer.contact {
            self.ids_by_port.remove(&port);
        }
        entry.poll_timeout().into_iter().for_each(|at| _ = self.due.remove(&(at, id)));
        self.count_address(entry.registered_address(), None);
        Some(entry)
    }

    /// When the next entry is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The entries that are due. Whoever asks is to change their timers.
    pub(super) fn due(&self, now: Instant) -> Vec<ContactId> {
        self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// Whether nothing is left of what there was.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self { entries, ids_by_name, ids_by_port, due, counts_by_address, .. } = self;
        let ids = ids_by_name.is_empty() && ids_by_port.is_empty();
        entries.is_empty() && ids && due.is_empty() && counts_by_address.is_empty()
    }
}
