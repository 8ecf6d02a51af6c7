//! What a daemon tells the service manager that has started it (`sd_notify`), and the watchdog's
//! food: it is fed by the daemon's own loop, and only when every pump has answered since.
//!
//! ```text
//!  loop ── Pulse ──▶ pump 0 … n ── Pulse ──▶ loop ── WATCHDOG=1 ──▶ service manager
//! ```
//!
//! A pump that is stuck, or a loop that is, keeps the watchdog hungry: the service manager then kills
//! the daemon and starts it anew. Without a service manager nothing is said and nobody is asked.
//!
//! Deliberately absent: anything that the daemon does otherwise because of it.

mod watchdog;

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::handoff::Asked;
use watchdog::Watchdog;

/// Where the service manager listens, if there is one.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// How often it is told another status line, at the most.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The service manager, as a daemon's loop sees it.
#[derive(Debug)]
pub struct ServiceManager {
    /// Whether there is one.
    is_there: bool,
    watchdog: Option<Watchdog>,
    /// The status line that it has, and since when.
    told: Option<(String, Instant)>,
    /// The one that it is to have.
    wanted: Option<String>,
}

impl ServiceManager {
    /// The one of the environment, for a daemon with so many pumps.
    pub fn from_environment(pumps: usize, now: Instant) -> Self {
        let is_there = std::env::var_os(SOCKET_VARIABLE).is_some();
        let interval = sd_notify::watchdog_enabled().filter(|_| is_there);
        let watchdog = interval.map(|interval| Watchdog::new(interval, pumps, now));
        Self { is_there, watchdog, told: None, wanted: None }
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!("the service manager behind {SOCKET_VARIABLE} hears nothing: {error}");
        }
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// The daemon reads its file again; [`ServiceManager::ready`] is to follow.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(_) => self.say(&[NotifyState::Reloading]),
        }
    }

    /// The daemon is ending.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
    }

    /// Takes how the daemon is, in one line for people; `line` is called only if somebody reads it.
    pub fn set_status(&mut self, line: impl FnOnce() -> String) {
        if self.is_there {
            // One line in the manager's protocol, too.
            let line = line().replace('\n', "; ");
            let is_known = self.told.as_ref().is_some_and(|(told, _)| *told == line);
            self.wanted = (!is_known).then_some(line);
        }
    }

    /// When something is to be done next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let status = self.wanted.as_ref().and(self.told.as_ref());
        let status = status.map(|(_, at)| *at + STATUS_EVERY);
        let watchdog = self.watchdog.as_ref().map(Watchdog::poll_timeout);
        [status, watchdog].into_iter().flatten().min()
    }

    /// Does what is due; each pump named here is to be told [`Command::Pulse`](crate::handoff::Command::Pulse).
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Asked> {
        let is_due = self.told.as_ref().is_none_or(|(_, at)| *at + STATUS_EVERY <= now);
        if is_due && let Some(line) = self.wanted.take() {
            self.say(&[NotifyState::Status(&line)]);
            self.told = Some((line, now));
        }
        self.watchdog.as_mut().map(|watchdog| watchdog.handle_timeout(now)).unwrap_or_default()
    }

    /// Takes a pump's answer.
    pub fn handle_pulse(&mut self, asked: Asked, now: Instant) {
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.handle_pulse(asked, now)) {
            self.say(&[NotifyState::Watchdog]);
        }
    }
}
