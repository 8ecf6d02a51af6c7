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

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::handoff::Asked;
use watchdog::Watchdog;

/// Where the service manager listens, if there is one.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// How long it may take to take a word, before the word is dropped: the loop has other things to do than
/// to wait for a service manager that is stuck itself.
const SAY_MAX: Duration = Duration::from_millis(200);
/// How often it is told another status line, at the most.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The service manager, as a daemon's loop sees it.
#[derive(Debug)]
pub struct ServiceManager {
    /// The way to it, if there is one.
    channel: Option<Channel>,
    watchdog: Option<Watchdog>,
    /// The status line that it has, and since when.
    told: Option<(String, Instant)>,
    /// The one that it is to have.
    wanted: Option<String>,
}

impl ServiceManager {
    /// The one of the environment, for a daemon with so many pumps.
    pub fn from_environment(pumps: usize, now: Instant) -> Self {
        let channel = Channel::from_environment();
        let interval = sd_notify::watchdog_enabled().filter(|_| channel.is_some());
        let watchdog = interval.map(|interval| Watchdog::new(interval, pumps, now));
        Self { channel, watchdog, told: None, wanted: None }
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        if let Some(channel) = &self.channel {
            channel.say(states);
        }
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// The daemon is this process from now on, whichever was started; the manager has to let it say so
    /// (`NotifyAccess=all`).
    pub fn taken_over(&self) {
        self.say(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
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
        if self.channel.is_some() {
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

/// Tells the service manager, if there is one, that another process is the daemon from now on.
pub(crate) fn tell_main_process(pid: u32) {
    if let Some(channel) = Channel::from_environment() {
        channel.say(&[NotifyState::MainPid(pid)]);
    }
}

/// Where the service manager listens, and the socket by which it is told. That is opened once: a daemon
/// that has no descriptor left must still feed its watchdog.
#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Channel {
    /// That to the service manager of the environment, if there is one.
    fn from_environment() -> Option<Self> {
        let address = address()?;
        let opened = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(SAY_MAX))?;
            Ok(socket)
        });
        opened.map(|socket| Self { socket, address }).inspect_err(complain).ok()
    }

    /// As the library would, which would wait for ever.
    fn say(&self, states: &[NotifyState<'_>]) {
        let words: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            complain(&error);
        }
    }
}

fn complain(error: &io::Error) {
    tracing::warn!("the service manager behind {SOCKET_VARIABLE} hears nothing: {error}");
}

/// Where the service manager of the environment listens, if there is one.
fn address() -> Option<SocketAddr> {
    let name = std::env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty())?;
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => SocketAddr::from_pathname(&name).ok(),
    }
}
