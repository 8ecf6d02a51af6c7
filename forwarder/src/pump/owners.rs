//! Who owns sessions: at the relay the keys of forwarders and external peers, with what each may
//! have and has used up.

use std::collections::VecDeque;

use adit_proto::id::{SessionId, Time};

use super::meter::SharedMeter;
use super::slots::Slot;

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
    /// Lets go of a session; whether the owner may be forgotten with it.
    pub(super) fn handle_end(&mut self, tunnel: Slot, now: Time) -> bool {
        self.tunnels.retain(|at| *at != tunnel);
        let is_superseded = self.superseded.is_some_and(|(_, until)| now < until);
        self.tunnels.is_empty() && !is_superseded && !self.meter.borrow().is_in_debt(now)
    }
}
