//! One internal peer in the registrar, and how far it has come.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::health::Health;
use super::leases::Registered;
use crate::api::{Refusal, Reply};
use crate::audit;
use crate::config::{Peer, Sha256};
use crate::handoff::Target;
use crate::logging::rounded;
use crate::status::PeerStatus;

/// Waits between attempts of one peer. The jitter doubles them at most.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(1);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(15);

const ALMOST_1_S: Duration = Duration::from_nanos(999_999_999);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    /// Its address as it was resolved last.
    pub(super) target: Option<Target>,
    pub(super) stage: Stage,
    pub(super) tenure: Tenure,
    pub(super) health: Option<Health>,
    retries: ExponentialBackoff,
    retry_at: Option<Instant>,
    /// Set while nobody has been told what came of the first attempt.
    pub(super) pending: Option<Pending>,
}

/// How long a peer is to be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenure {
    /// As long as it is in the configuration.
    Configured,
    /// Until its lease ends, or the token by which it was registered.
    Leased { until: Instant, by: Option<Sha256> },
}

impl Tenure {
    pub(super) fn renew(&mut self, new_until: Instant) {
        if let Self::Leased { until, .. } = self {
            *until = new_until;
        }
    }
}

/// Those who wait for an answer. As many as the API has connections, at the most.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) replies: Vec<Reply<Registered>>,
    pub(super) until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Resolving,
    Asked,
    Registered { contact: String },
    Refused { reason: String },
    Down { reason: String },
}

impl Entry {
    pub(super) fn new(peer: Peer, tenure: Tenure, now: Instant) -> Self {
        let health = peer.health.map(|every| Health::new(every, now));
        let (stage, retries) = (Stage::Waiting, retries());
        let (target, retry_at, pending) = (None, None, None);
        Self { peer, target, stage, tenure, health, retries, retry_at, pending }
    }

    /// Takes that a new attempt begins, or that there is nothing to attempt.
    pub(super) fn begin(&mut self, stage: Stage) {
        self.stage = stage;
        self.retry_at = None;
    }

    /// Takes that the next refusal is the first one again.
    pub(super) fn forget_refusals(&mut self) {
        self.retries = retries();
        self.retry_at = None;
    }

    /// Takes that there is no contact point for now; `retry_from` says that asking again can help.
    pub(super) fn refuse(&mut self, reason: String, retry_from: Option<Instant>) {
        let wait = self.retries.next().unwrap_or(RETRY_MAX);
        self.retry_at = retry_from.map(|now| now + wait);
        let again_in = self.retry_at.map(|_| tracing::field::debug(rounded(wait)));
        let (name, contact) = (&self.peer.name, self.peer.contact);
        tracing::warn!(peer = %name, %contact, again_in, "refused: {reason}");
        self.stage = Stage::Refused { reason };
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.stage, Stage::Down { .. })
    }

    /// From where the peer itself connects, while it is registered: listeners inside are open to it.
    /// A unix socket is on this host.
    pub(super) fn inside(&self) -> Option<IpAddr> {
        match (&self.stage, self.target.as_ref()?) {
            (Stage::Registered { .. }, Target::Tcp(address) | Target::Udp(address)) => {
                Some(address.ip().to_canonical())
            }
            (Stage::Registered { .. }, Target::Unix(_)) => Some(Ipv4Addr::LOCALHOST.into()),
            _ => None,
        }
    }

    pub(super) fn lease_until(&self) -> Option<Instant> {
        match self.tenure {
            Tenure::Configured => None,
            Tenure::Leased { until, .. } => Some(until),
        }
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The first moment at which something is to be done.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let check = self.health.as_ref().and_then(Health::poll_timeout);
        let pending = self.pending.as_ref().map(|pending| pending.until);
        [self.retry_at, self.lease_until(), pending, check].into_iter().flatten().min()
    }

    /// Answers those who wait, if anybody does.
    pub(super) fn answer(&mut self, answer: &Result<Registered, Refusal>) {
        let replies = self.pending.take().map_or(Vec::new(), |pending| pending.replies);
        replies.into_iter().for_each(|reply| reply.send(answer.clone()));
    }

    /// For the audit log: what has happened to which peer, and who wanted it.
    pub(super) fn record(&self, event: audit::Event) -> audit::Entry {
        let by = match self.tenure {
            Tenure::Configured => "configuration",
            Tenure::Leased { by: None, .. } => "socket",
            Tenure::Leased { by: Some(_), .. } => "token",
        };
        let Peer { name, address, contact, .. } = &self.peer;
        let entry = audit::Entry::new(event).with("peer", name).with("address", address);
        entry.with("contact", contact).with("by", by)
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        let asked_for = || self.peer.contact.to_string();
        let (state, contact, reason) = match &self.stage {
            Stage::Waiting => ("waiting", asked_for(), None),
            Stage::Resolving | Stage::Asked => ("asked", asked_for(), None),
            Stage::Registered { contact } => ("registered", contact.clone(), None),
            Stage::Refused { reason } => ("refused", asked_for(), Some(reason.clone())),
            Stage::Down { reason } => ("down", asked_for(), Some(reason.clone())),
        };
        // A lease that has not ended has a second left.
        let left = |until: Instant| (until.saturating_duration_since(now) + ALMOST_1_S).as_secs();
        PeerStatus {
            name: self.peer.name.clone(),
            address: self.peer.address.to_string(),
            contact,
            state: state.to_owned(),
            registered: matches!(self.stage, Stage::Registered { .. }),
            reason,
            lease_s: self.lease_until().map(left),
            health: self.health.as_ref().map(|health| health.status().to_owned()),
        }
    }
}

fn retries() -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(RETRY_MIN).with_max_delay(RETRY_MAX);
    waits.with_jitter().without_max_times().build()
}
