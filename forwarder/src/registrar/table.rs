//! The registrar's table: its entries, found by id, by name, by port, and by when they are due.
//! Whatever is asked of it takes logarithmic time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use adit_proto::id::ContactId;

use super::entry::Entry;
use super::inside::Inside;
use crate::config::{Contact, LISTENERS_MAX, Peer};
use crate::handoff::Protocol;
use crate::sources::Sources;

/// Ids of peers end here: those above are the listeners'.
const ID_MAX: u32 = 0x7fff_ffff;
const _: () = assert!(LISTENERS_MAX <= (u32::MAX - ID_MAX) as usize);

/// Entries and the ways to them.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<ContactId, Entry>,
    ids_by_name: BTreeMap<String, ContactId>,
    /// A port is one contact point for connections and another for datagrams.
    ids_by_port: BTreeMap<(Protocol, u16), ContactId>,
    /// One for each entry that waits for a moment: the first such moment.
    due: BTreeSet<(Instant, ContactId)>,
    /// Where those are that are registered at the moment.
    inside: Inside,
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

    /// Who has the contact point that `peer` asks for. Private ones are known by the peer's name.
    pub(super) fn id_by_contact(&self, peer: &Peer) -> Option<ContactId> {
        match peer.contact {
            Contact::Public(port) => self.ids_by_port.get(&(peer.protocol(), port)).copied(),
            Contact::Private => self.id_by_name(&peer.name),
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
        self.insert_at(id, entry);
        id
    }

    /// The same under an id that it has had before, of which there is no other.
    pub(super) fn insert_at(&mut self, id: ContactId, entry: Entry) {
        self.last_id = self.last_id.max(id.0);
        self.ids_by_name.insert(entry.peer.name.clone(), id);
        if let Contact::Public(port) = entry.peer.contact {
            self.ids_by_port.insert((entry.peer.protocol(), port), id);
        }
        let due = entry.poll_timeout();
        self.due.extend(due.map(|at| (at, id)));
        self.inside.enter(entry.inside());
        self.entries.insert(id, entry);
    }

    /// Ids come again only after all the others, so that a late answer cannot find a new tenant.
    fn next_id(&mut self) -> ContactId {
        loop {
            self.last_id = if self.last_id < ID_MAX { self.last_id + 1 } else { 1 };
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
        let (due, inside) = (entry.poll_timeout(), entry.inside());
        let changed = change(entry);
        let (due_now, inside_now) = (entry.poll_timeout(), entry.inside());
        if due != due_now {
            due.into_iter().for_each(|at| _ = self.due.remove(&(at, id)));
            self.due.extend(due_now.map(|at| (at, id)));
        }
        if inside != inside_now {
            self.inside.leave(inside);
            self.inside.enter(inside_now);
        }
        Some(changed)
    }

    pub(super) fn remove(&mut self, id: ContactId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.ids_by_name.remove(&entry.peer.name);
        if let Contact::Public(port) = entry.peer.contact {
            self.ids_by_port.remove(&(entry.peer.protocol(), port));
        }
        entry.poll_timeout().into_iter().for_each(|at| _ = self.due.remove(&(at, id)));
        self.inside.leave(entry.inside());
        Some(entry)
    }

    /// Takes that nobody knows them any more.
    pub(super) fn renew_sources(&mut self) {
        self.inside.renew();
    }

    /// Takes that this host's addresses may be others now.
    pub(super) fn handle_network_change(&mut self) {
        self.inside.handle_network_change();
    }

    /// The addresses of those that are registered, if they have changed since the last time.
    pub(super) fn poll_sources(
        &mut self,
        own: impl FnOnce() -> BTreeSet<IpAddr>,
    ) -> Option<Sources> {
        self.inside.poll_sources(own)
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
        let Self { entries, ids_by_name, ids_by_port, due, inside, last_id: _ } = self;
        entries.is_empty()
            && ids_by_name.is_empty()
            && ids_by_port.is_empty()
            && due.is_empty()
            && inside.is_empty()
    }
}
