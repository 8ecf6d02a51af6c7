//! Who owns sessions: at the relay the keys of forwarders and external peers, with what each may
//! have and has used up.

use std::collections::VecDeque;

use adit_proto::frame::ResetReason;
use adit_proto::id::{SessionId, Time};

use super::Pump;
use super::meter::SharedMeter;
use super::slots::Slot;
use crate::handoff::{Event, Limit, Quota, SessionKey, Volume};
use crate::key::PublicKey;

/// The owner of a key.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// Its sessions, the oldest first.
    pub(super) tunnels: VecDeque<Slot>,
    /// What all of them together may use.
    pub(super) meter: SharedMeter,
    /// The session that was taken over last, and until when its forwarder is told so.
    pub(super) superseded: Option<(SessionId, Time)>,
}

impl Owner {
    /// Whether it may be forgotten.
    fn is_over(&self, now: Time) -> bool {
        let is_superseded = self.superseded.is_some_and(|(_, until)| now < until);
        self.tunnels.is_empty() && !is_superseded && !self.meter.borrow().is_in_debt(now)
    }
}

impl Pump {
    /// An owner's session is over: what it has moved is told.
    pub(super) fn end_owned(&mut self, key: PublicKey, tunnel: Slot) {
        let now = self.now;
        let Some(owner) = self.owners.get_mut(&key) else { return };
        owner.tunnels.retain(|at| *at != tunnel);
        let untold = owner.meter.borrow_mut().take_untold();
        if owner.is_over(now) {
            self.owners.remove(&key);
        }
        if let Some(bytes) = untold {
            self.emit(Event::Moved(vec![(key, bytes)]));
        }
    }

    /// Tells what all owners have moved that have a volume.
    pub(super) fn tell_moved(&mut self) {
        let now = self.now;
        let untold = |(key, owner): (&PublicKey, &Owner)| {
            Some((*key, owner.meter.borrow_mut().take_untold()?))
        };
        let moved: Vec<_> = self.owners.iter().filter_map(untold).collect();
        self.owners.retain(|_, owner| !owner.is_over(now));
        if !moved.is_empty() {
            self.emit(Event::Moved(moved));
        }
    }

    /// What the session's owner may use from now on; where nothing more may move, the session's flows
    /// are reset.
    pub(super) fn limit(&mut self, key: SessionKey, quota: Quota, volume: Volume) {
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        tunnel.meter.borrow_mut().handle_limit(quota, volume);
        if volume == Volume::Spent {
            self.cut_short(slot);
        }
        self.handle_paid(slot, None);
    }

    /// Resets all flows of a session, of streams and of datagrams.
    fn cut_short(&mut self, tunnel: Slot) {
        let (now, limit, reason) = (self.now, Limit::BytesPerMonth, ResetReason::Limit);
        let Some(state) = self.tunnels.get(tunnel) else { return };
        let flows: Vec<Slot> = state.flows.values().copied().collect();
        let mut associations: Vec<Slot> = state.associations.values().copied().collect();
        associations.sort_unstable();
        for slot in flows {
            let Some(flow) = self.flows.get(slot) else { continue };
            self.measures.count_limited(flow.gauge, limit, now);
            self.tell_refused(slot, reason);
            self.fail_flow(slot, reason);
        }
        for slot in associations {
            let Some(association) = self.associations.get(slot) else { continue };
            self.measures.count_limited(association.gauge, limit, now);
            self.end_association(slot, Some(reason));
        }
    }
}
