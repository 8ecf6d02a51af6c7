//! Who sends next: deficit round robin over peers, then over a peer's flows, new and sparse ones
//! first (the idea of FQ-CoDel, RFC 8290 §4).

use std::collections::{BTreeMap, VecDeque};

use crate::id::{ContactId, FlowId};
use crate::limits::CONTENT_MAX;

/// What a key may send per round: one full record.
const QUANTUM: i64 = CONTENT_MAX as i64;

/// Deficit round robin over keys of one kind.
///
/// A key that becomes active stands among the new ones and is served before the old; once it has
/// used its quantum, or has nothing more, it goes behind the old ones. A key that is found idle
/// among the old is forgotten.
#[derive(Debug)]
struct Rounds<K> {
    new: VecDeque<K>,
    old: VecDeque<K>,
    deficits: BTreeMap<K, i64>,
}

impl<K> Default for Rounds<K> {
    fn default() -> Self {
        Self { new: VecDeque::new(), old: VecDeque::new(), deficits: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Rounds<K> {
    fn activate(&mut self, key: K) {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.deficits.entry(key) {
            vacant.insert(QUANTUM);
            self.new.push_back(key);
        }
    }

    /// The key whose turn it is; it stays first until it is charged enough, or idle.
    fn next(&mut self) -> Option<K> {
        loop {
            let key = self.new.front().or(self.old.front()).copied()?;
            let deficit = self.deficits.entry(key).or_insert(QUANTUM);
            if *deficit > 0 {
                return Some(key);
            }
            *deficit += QUANTUM;
            self.pop();
            self.old.push_back(key);
        }
    }

    fn charge(&mut self, key: K, bytes: usize) {
        if let Some(deficit) = self.deficits.get_mut(&key) {
            *deficit -= i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }

    /// The key that [`Rounds::next`] just returned has nothing to send.
    fn idle(&mut self) {
        let was_new = !self.new.is_empty();
        let Some(key) = self.pop() else { return };
        if was_new && !self.old.is_empty() {
            self.old.push_back(key);
        } else {
            self.deficits.remove(&key);
        }
    }

    fn pop(&mut self) -> Option<K> {
        self.new.pop_front().or_else(|| self.old.pop_front())
    }
}

/// The order of the flows that have something to send.
#[derive(Debug, Default)]
pub struct Schedule {
    peers: Rounds<ContactId>,
    flows_by_peer: BTreeMap<ContactId, Rounds<FlowId>>,
}

impl Schedule {
    /// `flow` has something to send.
    pub fn activate(&mut self, peer: ContactId, flow: FlowId) {
        self.flows_by_peer.entry(peer).or_default().activate(flow);
        self.peers.activate(peer);
    }

    /// The flow whose turn it is. It stays first until charged enough, or said to be idle.
    pub fn next_flow(&mut self) -> Option<(ContactId, FlowId)> {
        loop {
            let peer = self.peers.next()?;
            if let Some(flow) = self.flows_by_peer.get_mut(&peer).and_then(Rounds::next) {
                return Some((peer, flow));
            }
            self.flows_by_peer.remove(&peer);
            self.peers.idle();
        }
    }

    /// The flow that was returned last has sent `bytes`.
    pub fn charge(&mut self, (peer, flow): (ContactId, FlowId), bytes: usize) {
        self.peers.charge(peer, bytes);
        if let Some(flows) = self.flows_by_peer.get_mut(&peer) {
            flows.charge(flow, bytes);
        }
    }

    /// The flow that was returned last has nothing more to send.
    pub fn idle(&mut self, (peer, _): (ContactId, FlowId)) {
        if let Some(flows) = self.flows_by_peer.get_mut(&peer) {
            flows.idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ContactId = ContactId(1);
    const B: ContactId = ContactId(2);

    /// Serves `turns` records of `bytes` to flows that never run dry, and counts them.
    fn serve(schedule: &mut Schedule, turns: usize, bytes: usize) -> BTreeMap<FlowId, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..turns {
            let turn = schedule.next_flow().unwrap();
            schedule.charge(turn, bytes);
            *served.entry(turn.1).or_default() += 1;
        }
        served
    }

    /// A peer with a hundred flows gets no more than a peer with one.
    #[test]
    fn peers_share_evenly_whatever_their_number_of_flows() {
        let mut schedule = Schedule::default();
        (0..100).for_each(|n| schedule.activate(A, FlowId(n)));
        schedule.activate(B, FlowId(1000));
        let served = serve(&mut schedule, 1000, CONTENT_MAX);
        assert!((480..=520).contains(&served[&FlowId(1000)]), "{served:?}");
    }

    /// Flows of one peer share by bytes, not by records.
    #[test]
    fn flows_of_a_peer_share_by_bytes() {
        let mut schedule = Schedule::default();
        schedule.activate(A, FlowId(1));
        schedule.activate(A, FlowId(2));
        let mut bytes = [0_usize; 3];
        for _ in 0..2000 {
            let turn = schedule.next_flow().unwrap();
            let sent = if turn.1 == FlowId(1) { 1000 } else { CONTENT_MAX };
            schedule.charge(turn, sent);
            bytes[turn.1.0 as usize] += sent;
        }
        let ratio = bytes[1] as f64 / bytes[2] as f64;
        assert!((0.9..1.1).contains(&ratio), "{bytes:?}");
    }

    /// A flow that wakes up beside bulk flows is served next.
    #[test]
    fn a_sparse_flow_goes_ahead_of_bulk() {
        let mut schedule = Schedule::default();
        (0..10).for_each(|n| schedule.activate(A, FlowId(n)));
        serve(&mut schedule, 55, CONTENT_MAX);
        schedule.activate(B, FlowId(99));
        assert_eq!(schedule.next_flow(), Some((B, FlowId(99))));
    }

    /// Waking again and again does not let a flow take more than its share.
    #[test]
    fn a_flow_that_keeps_waking_starves_nobody() {
        let mut schedule = Schedule::default();
        schedule.activate(A, FlowId(1));
        let mut bulk = 0;
        for _ in 0..1000 {
            schedule.activate(A, FlowId(2));
            let turn = schedule.next_flow().unwrap();
            schedule.charge(turn, CONTENT_MAX);
            if turn.1 == FlowId(2) {
                schedule.idle(turn);
            } else {
                bulk += 1;
            }
        }
        assert!(bulk >= 300, "{bulk}");
    }

    /// Idle flows and peers are forgotten.
    #[test]
    fn nothing_is_kept_for_the_idle() {
        let mut schedule = Schedule::default();
        (0..10).for_each(|n| schedule.activate(ContactId(n), FlowId(n)));
        while let Some(turn) = schedule.next_flow() {
            schedule.idle(turn);
        }
        assert!(schedule.flows_by_peer.is_empty());
        assert!(schedule.peers.deficits.is_empty());
    }
}
