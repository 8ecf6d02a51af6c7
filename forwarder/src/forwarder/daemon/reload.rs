//! The configuration is read again: what has changed in it, and may change while the daemon runs, does.

use std::path::Path;
use std::time::Instant;

use super::{Daemon, Input, Role};
use crate::api::{Refusal, ReloadRequest, Reply, StatusCode};
use crate::config::{ForwarderConfig, Reloaded};
use crate::exit::Failed;
use crate::gateway::Gateway;
use crate::handoff::{Command, GoawayReason};
use crate::logging;

impl From<ReloadRequest> for Input {
    fn from(ReloadRequest(reply): ReloadRequest) -> Self {
        Self::Reload(Some(reply))
    }
}

impl Daemon {
    /// Reads the file again, for whoever waits for `reply`; a file that is wrong changes nothing.
    pub(super) fn handle_reload(
        &mut self,
        reply: Option<Reply<Reloaded>>,
        now: Instant,
    ) -> Result<(), Failed> {
        let Role::Contact(file) = &self.role else { return Ok(()) };
        let file = file.clone();
        if self.ending.is_some() {
            let text = "the forwarder is ending";
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
            reply.into_iter().for_each(|reply| reply.send(Err(refusal.clone())));
            return Ok(());
        }
        self.service.reloading();
        self.audit.reopen();
        let outcome = match self.read_again(&file) {
            Ok((config, gateway)) => Ok(self.put_in_force(&file, config, gateway, now)?),
            Err(text) => Err(format!("nothing is changed: {text}")),
        };
        self.service.ready();
        match &outcome {
            Ok(reloaded) => tracing::info!(file = %reloaded.file, "reloaded: {reloaded}"),
            Err(text) => tracing::error!("{text}"),
        }
        if let Some(reply) = reply {
            let refusal = |text| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text);
            reply.send(outcome.map_err(refusal));
        }
        Ok(())
    }

    /// All that can go wrong comes here, before anything is changed. The gateway is there if the
    /// relay's keys have changed.
    fn read_again(&self, file: &Path) -> Result<(ForwarderConfig, Option<Gateway>), String> {
        let config = ForwarderConfig::load(file).map_err(|error| error.to_string())?;
        let keys = config.relay_keys;
        let gateway = (keys != self.config.relay_keys)
            .then(|| self.gateway.with_relay_keys(&self.key, keys))
            .transpose();
        Ok((config, gateway.map_err(|error| error.to_string())?))
    }

    fn put_in_force(
        &mut self,
        file: &Path,
        config: ForwarderConfig,
        gateway: Option<Gateway>,
        now: Instant,
    ) -> Result<Reloaded, Failed> {
        let reloaded = self.config.reload(file, config);
        logging::follow(self.config.log_level);
        self.registrar.handle_tokens(&self.config.tokens);
        self.registrar.handle_peers(self.config.peers.clone(), now);
        if let Some(gateway) = gateway {
            self.gateway = gateway.into();
            self.leave_strangers()?;
            // As after a change of the network: what was waited for may be there now.
            self.tunnel.handle_network_change(now);
        }
        Ok(reloaded)
    }

    /// Ends a session whose other end has a key that is the relay's no more.
    fn leave_strangers(&mut self) -> Result<(), Failed> {
        let has_stranger = self.tunnel.has_stranger(|key| self.config.relay_keys.contain(key));
        let Some(session) = self.tunnel.session().filter(|_| has_stranger) else { return Ok(()) };
        tracing::warn!(relay = %self.name, "its key is not in relay_key any more: its flows end");
        let (reason, why) = (GoawayReason::Ending, "another relay_key is configured".to_owned());
        self.tell(Command::Close { session, reason, why })
    }
}
