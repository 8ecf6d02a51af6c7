//! What concerns the one who calls by name with `adit connect`.

use std::time::Instant;

use super::{Daemon, Role};
use crate::exit::{Exit, Failed};

impl Daemon {
    /// Somebody who waits at standard input hears at once that there is no way.
    pub(super) fn give_up_if_called(
        &mut self,
        why: &dyn std::fmt::Display,
        now: Instant,
    ) -> Result<(), Failed> {
        let is_waiting = matches!(self.role, Role::Caller { stdio: Some(_) });
        if is_waiting && self.ending.is_none() {
            let message = format!("no tunnel to the relay {}: {why}", self.name);
            self.failure = Some(Failed::new(Exit::Unreachable, message));
            return self.close(now);
        }
        Ok(())
    }

    pub(super) fn handle_stdio_ended(
        &mut self,
        outcome: Result<(), String>,
        now: Instant,
    ) -> Result<(), Failed> {
        self.failure = outcome.err().map(|message| Failed::new(Exit::Failure, message));
        if self.ending.is_some() { Ok(()) } else { self.terminate(now) }
    }
}
