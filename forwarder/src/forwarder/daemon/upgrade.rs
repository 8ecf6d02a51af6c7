//! Another process takes over from this one, or this one from another.

use std::time::Instant;

use adit_proto::id::SessionId;
use serde::{Deserialize, Serialize};

use super::{Daemon, Input, Role};
use crate::config::ForwarderConfig;
use crate::exit::{Exit, Failed};
use crate::forwarder::tunnel::DialledLeft;
use crate::gateway::Ended;
use crate::handoff::{Command, Event, EventReceiver, SessionKey};
use crate::key::PublicKey;
use crate::net::{self, Signal};
use crate::registrar::{PeerLeft, Registrar};
use crate::upgrade::{self, Deed, Holdable, Packer, Parcel, Predecessor, UpgradeStep, Wait};

/// What the forwarder's control plane leaves.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    way: Way,
    session: Option<(u64, SessionId)>,
    carrier: Option<DialledLeft>,
    last_session: u64,
    peers: Vec<PeerLeft>,
}

/// By what the carrier has come about: where that is another by now, it is dialled anew; so it may be where
/// another version shows the same in other words.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Way {
    key: PublicKey,
    /// As they are shown for debugging: all that is of interest is whether they are the same.
    relay: String,
    gateway: String,
}

impl From<UpgradeStep> for Input {
    fn from(step: UpgradeStep) -> Self {
        Self::Upgrade(step)
    }
}

impl Holdable for Input {
    fn waits(&self) -> Wait {
        match self {
            Self::Upgrade(_) | Self::Event(_) => Wait::Never,
            Self::Reload(None) => Wait::Always(Some(Signal::Reload)),
            Self::Reload(Some(_)) => Wait::Always(None),
            Self::Terminate => Wait::Always(Some(Signal::Terminate)),
            _ => Wait::WhenHeld,
        }
    }
}

impl Daemon {
    /// Brings an upgrade on its way.
    pub(super) fn handle_upgrade(&mut self, step: UpgradeStep, now: Instant) -> Result<(), Failed> {
        let is_possible = matches!(self.role, Role::Contact(_)) && self.ending.is_none();
        let deed = match step {
            UpgradeStep::Asked(_, reply) if !is_possible => {
                let text = "this process is ending, or no service: there is nothing to take over";
                upgrade::refuse(reply, text);
                None
            }
            step => self.upgrade.handle_step(step, now),
        };
        self.perform(deed, now)
    }

    /// Does what the upgrade wants done.
    pub(super) fn perform(&mut self, deed: Option<Deed>, now: Instant) -> Result<(), Failed> {
        match deed {
            None => Ok(()),
            Some(Deed::Freeze) => {
                if self.dialling.take().is_some() {
                    self.tunnel.handle_not_dialled(Ended::Failed, now);
                }
                self.tell(Command::Freeze)
            }
            Some(Deed::Pack) => self.tell(Command::Pack(0)),
            Some(Deed::Pass) => {
                let own = self.pack(now);
                let deed = self.upgrade.pass(own);
                self.perform(deed, now)
            }
            Some(Deed::Thaw) => {
                self.tell(Command::Thaw)?;
                self.upgrade.release().into_iter().try_for_each(|input| self.handle(input, now))
            }
            Some(Deed::Leave(heir)) => self.upgrade.leave(heir),
        }
    }

    fn way(&self) -> Way {
        let ForwarderConfig { relay, gateway, .. } = &self.config;
        let (relay, gateway) = (format!("{relay:?}"), format!("{gateway:?}"));
        Way { key: self.key.public(), relay, gateway }
    }

    fn pack(&self, now: Instant) -> std::io::Result<Parcel> {
        let mut packer = Packer::new()?;
        let session = self.tunnel.session().zip(self.tunnel.id());
        packer.put(&Left {
            way: self.way(),
            session: session.map(|(key, id)| (key.0, id)),
            carrier: self.tunnel.leave_carrier(now),
            last_session: self.tunnel.last_session(),
            peers: self.registrar.leave(now),
        })?;
        packer.finish()
    }

    /// Takes over from another process; nothing is touched before that says so.
    pub(in crate::forwarder) fn take_over(
        &mut self,
        predecessor: Predecessor,
        events: &EventReceiver,
    ) -> Result<(), Failed> {
        let pumps = std::slice::from_ref(&self.pump);
        upgrade::freeze(pumps, events)?;
        let (mut control, parcels) = predecessor.receive()?;
        let left = control.take::<Left>().map_err(|error| Failed::new(Exit::Failure, error));
        let restored = left.and_then(|left| {
            let is_known = |carrier: &DialledLeft| self.config.relay_keys.contain(&carrier.relay);
            let keeps_carrier = left.way == self.way() && left.carrier.iter().all(is_known);
            Ok((upgrade::restore(pumps, parcels, keeps_carrier, events)?, left))
        });
        let (early, left) = restored.map_err(|error| predecessor.refuse(error))?;
        predecessor.commit()?;
        self.service.taken_over();
        let now = Instant::now();
        let session = left.session.map(|(key, id)| (SessionKey(key), id));
        self.tunnel.take_over(session, left.last_session);
        if let Some(carrier) = left.carrier {
            self.tunnel.take_over_carrier(carrier, now);
        }
        let (peers, tokens) = (self.config.peers.clone(), self.config.tokens.as_slice());
        let key = session.map(|(key, _)| key);
        self.registrar = Registrar::take_over(left.peers, key, (peers, tokens), now);
        if let Some(session) = key {
            let commands = self.outward.handle_up(session, &self.inbox)?;
            commands.into_iter().try_for_each(|command| self.tell(command))?;
        }
        net::forget_inherited();
        net::resume_accepting();
        tracing::info!(session = key.map(|key| key.0), "taken over from another process");
        // The carrier may have brought callers meanwhile: the pump knows whom for before it reads them.
        self.act_all()?;
        self.tell(Command::Thaw)?;
        early.into_iter().try_for_each(|event| self.handle_early(event, now))
    }

    fn handle_early(&mut self, event: Event, now: Instant) -> Result<(), Failed> {
        self.handle(Input::Event(event), now)
    }
}
