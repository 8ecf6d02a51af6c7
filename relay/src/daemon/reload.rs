//! The configuration is read again: who is let in, and what else may change while the relay runs.

use std::collections::BTreeMap;

use adit::api::{Refusal, ReloadRequest, Reply, StatusCode};
use adit::config::{Admitted, RelayConfig, Reloaded};
use adit::exit::Failed;
use adit::invitation::UnixTime;
use adit::key::PublicKey;
use adit::logging;

use super::{Daemon, Input, policies};
use crate::policy::Policy;

impl From<ReloadRequest> for Input {
    fn from(ReloadRequest(reply): ReloadRequest) -> Self {
        Self::Reload(Some(reply))
    }
}

impl Daemon {
    /// Reads the file again, for whoever waits for `reply`; a file that is wrong changes nothing.
    pub(super) fn handle_reload(&mut self, reply: Option<Reply<Reloaded>>) -> Result<(), Failed> {
        if self.ending.is_some() {
            let text = "the relay is ending";
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
            reply.into_iter().for_each(|reply| reply.send(Err(refusal.clone())));
            return Ok(());
        }
        self.service.reloading();
        self.refusals.borrow().audit().reopen();
        let outcome = match RelayConfig::load(&self.file) {
            Ok(config) => Ok(self.put_in_force(config)?),
            Err(error) => Err(format!("nothing is changed: {error}")),
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

    fn put_in_force(&mut self, mut config: RelayConfig) -> Result<Reloaded, Failed> {
        if config.state != self.config.state {
            self.keep_enrolled(&mut config);
        }
        let reloaded = self.config.reload(&self.file, config);
        logging::follow(self.config.log_level);
        self.own.forget();
        let before = self.admit();
        self.revoke()?;
        self.renew(&before)?;
        self.judge_volumes(UnixTime::now())?;
        self.close_removed()?;
        Ok(reloaded)
    }

    /// Puts those who are enrolled now in the place of those of another state folder, which is not
    /// this process's; whom the file itself names is as it says there.
    fn keep_enrolled(&self, config: &mut RelayConfig) {
        config.admitted.retain(|admitted| !admitted.is_enrolled);
        let in_file = config.admitted.clone();
        let is_same =
            |one: &Admitted, other: &Admitted| one.name == other.name || one.key == other.key;
        let is_kept = |enrolled: &&Admitted| {
            enrolled.is_enrolled && !in_file.iter().any(|admitted| is_same(admitted, enrolled))
        };
        config.admitted.extend(self.config.admitted.iter().filter(is_kept).cloned());
    }

    /// Lets in whom the configuration names, and nobody else, from now on; returns the policies
    /// of before.
    pub(super) fn admit(&mut self) -> BTreeMap<PublicKey, Policy> {
        let before = std::mem::replace(&mut self.policies, policies(&self.config.admitted));
        self.admission.set(self.policies.keys().copied().collect());
        before
    }
}
