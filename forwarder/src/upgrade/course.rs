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
use crate::net;

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
    /// It has taken over.
    Passed(Result<Successor, String>),
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
    /// End without touching anything.
    Leave,
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

/// How far an upgrade has come, if one is under way.
#[derive(Debug)]
pub struct Upgrade {
    pumps: usize,
    stage: Stage,
    reply: Option<Reply<Upgraded>>,
    /// Who has taken over.
    heir: Option<u32>,
}

impl Upgrade {
    /// None is under way. The daemon has so many pumps.
    pub fn new(pumps: usize) -> Self {
        Self { pumps, stage: Stage::None, reply: None, heir: None }
    }

    /// Whether it is not known yet who goes on. What a daemon is told meanwhile to do, the other process might
    /// never hear of.
    pub fn is_under_way(&self) -> bool {
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

    /// Takes a step; returns what is to be done.
    pub fn handle_step<I>(
        &mut self,
        step: UpgradeStep,
        inbox: &mpsc::Sender<I>,
        now: Instant,
    ) -> Option<Deed>
    where
        I: From<UpgradeStep> + Send + 'static,
    {
        match step {
            UpgradeStep::Asked(program, reply) => {
                self.begin(program, reply, inbox);
                None
            }
            UpgradeStep::Started(Ok(successor)) => {
                net::pause_accepting();
                self.stage = Stage::Freezing { successor, quiet: 0, until: now + PACK_MAX };
                Some(Deed::Freeze)
            }
            UpgradeStep::Passed(Ok(successor)) => match successor.let_go() {
                Ok(pid) => {
                    tracing::info!(pid, "another process has taken over");
                    self.heir = Some(pid);
                    self.answer(Ok(Upgraded { pid }));
                    Some(Deed::Leave)
                }
                Err(why) => self.fail(&why),
            },
            UpgradeStep::Started(Err(why)) | UpgradeStep::Passed(Err(why)) => self.fail(&why),
        }
    }

    fn begin<I>(
        &mut self,
        program: Option<PathBuf>,
        reply: Option<Reply<Upgraded>>,
        inbox: &mpsc::Sender<I>,
    ) where
        I: From<UpgradeStep> + Send + 'static,
    {
        if let Some(why) = self.obstacle() {
            tracing::warn!("no upgrade: {why}");
            reply.into_iter().for_each(|reply| {
                reply.send(Err(Refusal::new(StatusCode::CONFLICT, why)));
            });
            return;
        }
        tracing::info!("an upgrade begins");
        self.reply = reply;
        self.stage = Stage::Starting;
        let pumps = self.pumps;
        let start = move || UpgradeStep::Started(Successor::start(program.as_deref(), pumps));
        self.beside(start, inbox);
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
    fn beside<I>(
        &mut self,
        wait: impl FnOnce() -> UpgradeStep + Send + 'static,
        inbox: &mpsc::Sender<I>,
    ) where
        I: From<UpgradeStep> + Send + 'static,
    {
        let inbox = inbox.clone();
        let spawned = thread::Builder::new().name("upgrade".into()).spawn(move || {
            // The loop has ended: the successor is killed by being dropped.
            inbox.blocking_send(I::from(wait())).ok();
        });
        if let Err(error) = spawned {
            self.fail(&error.to_string());
        }
    }

    /// A pump stands still.
    pub fn handle_quiet(&mut self) -> Option<Deed> {
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

    /// A pump has packed what it has.
    pub fn handle_packed(&mut self, pump: usize, packed: Result<Parcel, String>) -> Option<Deed> {
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
    pub fn pass<I>(&mut self, own: std::io::Result<Parcel>, inbox: &mpsc::Sender<I>) -> Option<Deed>
    where
        I: From<UpgradeStep> + Send + 'static,
    {
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
        self.beside(move || UpgradeStep::Passed(successor.hand_over(&parcels)), inbox);
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
    /// it is another's. That is told the signals that came too late to be heeded here.
    pub fn leave(&self, signals: &[net::Signal]) -> ! {
        if let Some(heir) = self.heir.and_then(|pid| i32::try_from(pid).ok()) {
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
