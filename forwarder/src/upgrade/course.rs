//! The course of an upgrade at the daemon that is left.
//!
//! ```text
//!          asked                ready               still             packed            taken over
//!  (none) ──────▶ Starting ──────────▶ Freezing ──────────▶ Packing ──────────▶ Passing ──────────▶ end
//!     ▲               │                    │                   │                    │
//!     └───────────────┴── failed ──────────┴───────────────────┴────────────────────┘
//! ```
//!
//! A state machine but for the threads that wait for the other process.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{PACK_MAX, Parcel, Successor};
use crate::api::{Refusal, Reply};
use crate::net::{self, Signal};

/// How long the answer to whoever asked for an upgrade may take on its way through the API's thread.
const FAREWELL: Duration = Duration::from_millis(200);

/// The process that a namespace of processes ends with.
const FIRST: u32 = 1;

/// Something that brings an upgrade on its way.
#[derive(Debug)]
pub enum UpgradeStep {
    /// Somebody asks for it: by the file of another program than this one's, and to be told what
    /// comes of it.
    Asked(Option<PathBuf>, Option<Reply<Upgraded>>),
    /// The new process is ready.
    Started(Result<Successor, String>),
    /// A pump stands still.
    Quiet,
    /// The pump with this number has packed what it has.
    Packed(usize, Result<Parcel, String>),
    /// The new process has taken over.
    Passed(Result<Successor, String>),
}

/// What a daemon takes in turn, unless an upgrade lets it wait.
pub trait Holdable: From<UpgradeStep> + Send + 'static {
    /// When it has to wait.
    fn waits(&self) -> Wait;
}

/// When an input has to wait until it is known who goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Never: the upgrade itself goes on by it.
    Never,
    /// When nothing may change any more: what the daemon has is being packed, or passed on.
    WhenHeld,
    /// During all of an upgrade: a wish, of which the other process would not hear but by this signal.
    Always(Option<Signal>),
}

/// What has come of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The number of the process that has taken over.
    pub pid: u32,
}

/// What the daemon is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Let all pumps stand still.
    Freeze,
    /// Let all pumps pack, and handle nothing but their answers from now on.
    Pack,
    /// Pack what the daemon itself has, and [`Upgrade::pass`] it on.
    Pass,
    /// Let all pumps go on.
    Thaw,
    /// [`Upgrade::leave`] everything to the process with this number.
    Leave(u32),
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    None,
    Starting,
    Freezing {
        successor: Successor,
        quiet: usize,
        until: Instant,
    },
    Packing {
        successor: Successor,
        parcels: Vec<Option<Parcel>>,
        until: Instant,
    },
    Passing,
}

/// How far an upgrade has come, if one is under way, and what waits for its end.
#[derive(Debug)]
pub struct Upgrade<I> {
    pumps: usize,
    inbox: mpsc::Sender<I>,
    stage: Stage,
    reply: Option<Reply<Upgraded>>,
    held: Vec<I>,
}

impl<I: Holdable> Upgrade<I> {
    /// None is under way. The daemon has so many pumps, and takes its inputs from the other end of
    /// `inbox`.
    pub fn new(pumps: usize, inbox: mpsc::Sender<I>) -> Self {
        Self { pumps, inbox, stage: Stage::None, reply: None, held: Vec::new() }
    }

    /// Whether it is not known yet who goes on.
    fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    /// Whether pumps stand still, or are about to.
    pub fn is_still(&self) -> bool {
        !matches!(self.stage, Stage::None | Stage::Starting)
    }

    /// Whether nothing may change any more: what the daemon has is being packed, or passed on.
    pub fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Packing { .. } | Stage::Passing)
    }

    /// Returns an input that may be handled now, and keeps any other.
    pub fn admit(&mut self, input: I) -> Option<I> {
        let waits = input.waits();
        let has_to_wait = match waits {
            Wait::Never => false,
            Wait::WhenHeld => self.is_held(),
            Wait::Always(_) => self.is_under_way(),
        };
        if !has_to_wait {
            return Some(input);
        }
        let is_kept = match waits {
            // Nobody hears that a signal was dropped, and one of each always fits.
            Wait::Always(Some(signal)) if !self.signals().contains(&signal) => true,
            // What does not fit is answered by being dropped.
            _ => self.held.len() < net::INBOX_MAX,
        };
        if is_kept {
            self.held.push(input);
        }
        None
    }

    /// The signals that had to wait.
    fn signals(&self) -> Vec<Signal> {
        let signal = |input: &I| match input.waits() {
            Wait::Always(signal) => signal,
            Wait::Never | Wait::WhenHeld => None,
        };
        self.held.iter().filter_map(signal).collect()
    }

    /// What had to wait, once this process goes on.
    pub fn release(&mut self) -> Vec<I> {
        std::mem::take(&mut self.held)
    }

    /// Takes a step; returns what is to be done.
    pub fn handle_step(&mut self, step: UpgradeStep, now: Instant) -> Option<Deed> {
        match step {
            UpgradeStep::Asked(program, reply) => {
                self.begin(program, reply);
                None
            }
            UpgradeStep::Started(Ok(successor)) => {
                net::pause_accepting();
                self.stage = Stage::Freezing { successor, quiet: 0, until: now + PACK_MAX };
                Some(Deed::Freeze)
            }
            UpgradeStep::Quiet => self.handle_quiet(),
            UpgradeStep::Packed(pump, packed) => self.handle_packed(pump, packed),
            UpgradeStep::Passed(Ok(successor)) => match successor.let_go() {
                Ok(pid) => {
                    tracing::info!(pid, "another process has taken over");
                    self.answer(Ok(Upgraded { pid }));
                    Some(Deed::Leave(pid))
                }
                Err(why) => self.fail(&why),
            },
            UpgradeStep::Started(Err(why)) | UpgradeStep::Passed(Err(why)) => self.fail(&why),
        }
    }

    fn begin(&mut self, program: Option<PathBuf>, reply: Option<Reply<Upgraded>>) {
        if let Some(why) = self.obstacle() {
            tracing::warn!("no upgrade: {why}");
            return refuse(reply, why);
        }
        tracing::info!("an upgrade begins");
        self.reply = reply;
        self.stage = Stage::Starting;
        let pumps = self.pumps;
        let start = move || UpgradeStep::Started(Successor::start(program.as_deref(), pumps));
        self.beside(start);
    }

    /// Why nobody may take over now.
    fn obstacle(&self) -> Option<&'static str> {
        if self.is_under_way() {
            return Some("an upgrade is under way already");
        }
        // The kernel ends all others with it, whoever has taken over included.
        let is_first = std::process::id() == FIRST;
        is_first.then_some(
            "this is the first process of its container, which ends with it: replace the container",
        )
    }

    /// Lets a thread of its own wait for the other process.
    fn beside(&mut self, wait: impl FnOnce() -> UpgradeStep + Send + 'static) {
        let inbox = self.inbox.clone();
        let spawned = thread::Builder::new().name("upgrade".into()).spawn(move || {
            // The loop has ended: the successor is killed by being dropped.
            inbox.blocking_send(I::from(wait())).ok();
        });
        if let Err(error) = spawned {
            self.fail(&error.to_string());
        }
    }

    fn handle_quiet(&mut self) -> Option<Deed> {
        let Stage::Freezing { quiet, .. } = &mut self.stage else { return None };
        *quiet += 1;
        if *quiet < self.pumps {
            return None;
        }
        let Stage::Freezing { successor, until, .. } = std::mem::take(&mut self.stage) else {
            return None;
        };
        let parcels = (0..self.pumps).map(|_| None).collect();
        self.stage = Stage::Packing { successor, parcels, until };
        Some(Deed::Pack)
    }

    fn handle_packed(&mut self, pump: usize, packed: Result<Parcel, String>) -> Option<Deed> {
        let Stage::Packing { parcels, .. } = &mut self.stage else { return None };
        match packed {
            Err(why) => return self.fail(&format!("a pump cannot be packed: {why}")),
            Ok(parcel) => {
                if let Some(place) = parcels.get_mut(pump) {
                    *place = Some(parcel);
                }
            }
        }
        parcels.iter().all(Option::is_some).then_some(Deed::Pass)
    }

    /// Passes all on, first what the daemon itself has.
    pub fn pass(&mut self, own: std::io::Result<Parcel>) -> Option<Deed> {
        let Stage::Packing { successor, parcels, .. } = std::mem::take(&mut self.stage) else {
            return None;
        };
        let own = match own {
            Ok(own) => own,
            Err(error) => {
                drop(successor);
                self.stage = Stage::Passing;
                return self.fail(&format!("what the daemon has cannot be packed: {error}"));
            }
        };
        self.stage = Stage::Passing;
        let parcels: Vec<Parcel> =
            std::iter::once(own).chain(parcels.into_iter().flatten()).collect();
        self.beside(move || UpgradeStep::Passed(successor.hand_over(&parcels)));
        // The thread that was to wait may not have been had.
        matches!(self.stage, Stage::None).then_some(Deed::Thaw)
    }

    /// When [`Upgrade::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Freezing { until, .. } | Stage::Packing { until, .. } => Some(*until),
            Stage::None | Stage::Starting | Stage::Passing => None,
        }
    }

    /// Gives an upgrade up for which the pumps take too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Deed> {
        let is_over = self.poll_timeout().is_some_and(|until| until <= now);
        is_over.then(|| self.fail("a pump did not stand still in time")).flatten()
    }

    /// The new process is killed, and this one goes on.
    fn fail(&mut self, why: &str) -> Option<Deed> {
        self.stage = Stage::None;
        tracing::error!("no upgrade, this process goes on: {why}");
        let text = format!("{why}; the running daemon goes on");
        self.answer(Err(Refusal::new(StatusCode::BAD_GATEWAY, text)));
        net::resume_accepting();
        Some(Deed::Thaw)
    }

    /// Ends this process, once whoever asked has its answer, without closing anything in order: all of
    /// it is the `heir`'s. That is told the signals that came too late to be heeded here; whoever waits
    /// for an answer hears that there is none, and asks the heir.
    pub fn leave(&mut self, heir: u32) -> ! {
        let signals = self.signals();
        drop(self.release());
        if let Ok(heir) = i32::try_from(heir) {
            for signal in signals {
                // It may have ended, too.
                kill(Pid::from_raw(heir), signal.kind()).ok();
            }
        }
        thread::sleep(FAREWELL);
        std::process::exit(0)
    }

    fn answer(&mut self, answer: Result<Upgraded, Refusal>) {
        if let Some(reply) = self.reply.take() {
            reply.send(answer);
        }
    }
}

/// Tells whoever asked for an upgrade why there is none.
pub fn refuse(reply: Option<Reply<Upgraded>>, why: &str) {
    if let Some(reply) = reply {
        reply.send(Err(Refusal::new(StatusCode::CONFLICT, why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Waiting(Wait);

    impl From<UpgradeStep> for Waiting {
        fn from(_: UpgradeStep) -> Self {
            Self(Wait::Never)
        }
    }

    impl Holdable for Waiting {
        fn waits(&self) -> Wait {
            self.0
        }
    }

    /// An input waits while it has to, and for as long as there is room; what had to wait comes in order.
    #[test]
    fn inputs_wait_while_they_have_to() {
        let reload = Wait::Always(Some(Signal::Reload));
        let waits = [Wait::Never, Wait::WhenHeld, Wait::Always(None), reload];
        let mut upgrade = Upgrade::new(1, mpsc::channel(1).0);
        for (stage, admitted) in [(Stage::None, 4), (Stage::Starting, 2), (Stage::Passing, 1)] {
            upgrade.stage = stage;
            let now = waits.iter().filter_map(|wait| upgrade.admit(Waiting(*wait)));
            let now: Vec<_> = now.map(|input| input.0).collect();
            assert_eq!(now, waits[..admitted]);
            let later: Vec<_> = upgrade.release().into_iter().map(|input| input.0).collect();
            assert_eq!(later, waits[admitted..]);
        }
        for _ in 0..=net::INBOX_MAX {
            assert!(upgrade.admit(Waiting(Wait::WhenHeld)).is_none());
        }
        assert_eq!(upgrade.release().len(), net::INBOX_MAX);
    }

    /// A signal waits however many other inputs do, and is told to the heir; of each one more than fits is
    /// kept. The controls: other wishes are told to nobody, and do not fit.
    #[test]
    fn signals_wait_for_the_heir_when_nothing_else_fits() {
        let signals = [Signal::Terminate, Signal::Reload];
        let mut upgrade = Upgrade::new(1, mpsc::channel(1).0);
        upgrade.stage = Stage::Starting;
        for _ in 0..net::INBOX_MAX {
            upgrade.admit(Waiting(Wait::Always(None)));
        }
        assert!(upgrade.signals().is_empty());
        for signal in signals.into_iter().cycle().take(5) {
            assert!(upgrade.admit(Waiting(Wait::Always(Some(signal)))).is_none());
            assert!(upgrade.admit(Waiting(Wait::Always(None))).is_none());
        }
        assert_eq!(upgrade.signals(), signals);
        assert_eq!(upgrade.release().len(), net::INBOX_MAX + signals.len());
        // While there is room, all of them are: the second end is at once.
        for _ in 0..2 {
            upgrade.admit(Waiting(Wait::Always(Some(Signal::Terminate))));
        }
        assert_eq!(upgrade.signals().len(), 2);
    }
}
