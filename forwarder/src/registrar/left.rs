//! The registrar as one process leaves it to another: to the relay nothing has happened, so what is
//! registered stays registered, under the same ids.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_proto::id::ContactId;
use serde::{Deserialize, Serialize};

use super::Registrar;
use super::entry::{Entry, Stage, Tenure};
use super::settling::Settling;
use crate::config::{Peer, Sha256, Token};
use crate::handoff::{SessionKey, Target};

/// One peer, and how far it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerLeft {
    id: ContactId,
    peer: Peer,
    target: Option<TargetLeft>,
    stage: StageLeft,
    /// Nothing of one of the configuration.
    lease: Option<LeaseLeft>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum TargetLeft {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum StageLeft {
    /// It is begun anew.
    Waiting,
    /// The answer is on its way.
    Asked,
    Registered(String),
    Down(String),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct LeaseLeft {
    left: Duration,
    by: Option<Sha256>,
}

impl From<&Target> for TargetLeft {
    fn from(target: &Target) -> Self {
        match target {
            Target::Tcp(address) => Self::Tcp(*address),
            Target::Udp(address) => Self::Udp(*address),
            Target::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl From<TargetLeft> for Target {
    fn from(left: TargetLeft) -> Self {
        match left {
            TargetLeft::Tcp(address) => Self::Tcp(address),
            TargetLeft::Udp(address) => Self::Udp(address),
            TargetLeft::Unix(path) => Self::Unix(path),
        }
    }
}

impl From<&Stage> for StageLeft {
    fn from(stage: &Stage) -> Self {
        match stage {
            Stage::Waiting | Stage::Resolving | Stage::Refused { .. } => Self::Waiting,
            Stage::Asked => Self::Asked,
            Stage::Registered { contact } => Self::Registered(contact.clone()),
            Stage::Down { reason } => Self::Down(reason.clone()),
        }
    }
}

impl From<StageLeft> for Stage {
    fn from(left: StageLeft) -> Self {
        match left {
            StageLeft::Waiting => Self::Waiting,
            StageLeft::Asked => Self::Asked,
            StageLeft::Registered(contact) => Self::Registered { contact },
            StageLeft::Down(reason) => Self::Down { reason },
        }
    }
}

impl Registrar {
    /// The peers, for the process that takes over.
    pub fn leave(&self, now: Instant) -> Vec<PeerLeft> {
        let left = |(id, entry): (ContactId, &Entry)| PeerLeft {
            id,
            peer: entry.peer.clone(),
            target: entry.target.as_ref().map(TargetLeft::from),
            stage: StageLeft::from(&entry.stage),
            lease: match entry.tenure {
                Tenure::Configured => None,
                Tenure::Leased { until, by } => {
                    Some(LeaseLeft { left: until.saturating_duration_since(now), by })
                }
            },
        };
        self.table.iter().map(left).collect()
    }

    /// Goes on with the peers of another process, in the session that it had, if it had one; then takes
    /// `peers` and `tokens` as those of a new configuration.
    pub fn take_over(
        left: Vec<PeerLeft>,
        session: Option<SessionKey>,
        (peers, tokens): (Vec<Peer>, &[Token]),
        now: Instant,
    ) -> Self {
        let mut registrar = Self { session, ..Self::default() };
        for PeerLeft { id, peer, target, stage, lease } in left {
            let tenure = lease.map_or(Tenure::Configured, |LeaseLeft { left, by }| {
                Tenure::Leased { until: now + left, by }
            });
            let mut entry = Entry::new(peer, tenure, now);
            entry.target = target.map(Target::from);
            entry.begin(Stage::from(stage));
            registrar.table.insert_at(id, entry);
        }
        let ids = registrar.table.ids();
        for id in &ids {
            registrar.go_on(*id);
        }
        registrar.handle_tokens(tokens);
        registrar.handle_peers(peers, now);
        registrar.settling = session.map(|_| Settling::new(ids, now));
        registrar.table.renew_sources();
        registrar.settle();
        registrar
    }

    /// The pump is to know where the peer is; one that had not been asked for yet is.
    fn go_on(&mut self, id: ContactId) {
        let Some(entry) = self.table.get(id) else { return };
        let called = match &entry.stage {
            Stage::Registered { contact } => {
                contact.parse().ok().filter(|_| entry.peer.proxy.is_some())
            }
            Stage::Asked => None,
            Stage::Down { .. } => return,
            Stage::Waiting | Stage::Resolving | Stage::Refused { .. } => return self.ask(id),
        };
        self.serve(id, called);
    }
}
