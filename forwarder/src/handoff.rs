//! The one crossing between the planes: bounded channels that carry commands to a pump, and
//! events and snapshots back, each side woken by an eventfd.
//!
//! Invariant: nothing else is shared between a pump and the control plane, no lock is taken here
//! by a pump, and a pump never waits for the control plane. Should the control plane fall so far
//! behind that its channel is full, the pump keeps what it could not send and tries again.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use adit_proto::frame::{ControlFrame, GoawayReason};
use adit_proto::id::{ContactId, SessionId, Side};
use adit_proto::record::RecordLayer;
use adit_ring::Waker;
use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;

use crate::key::PublicKey;

use adit_proto::limits::HANDOFF_MAX;

/// The control plane's name for a session on a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u64);

/// A TCP connection whose TLS handshake is done, with the record layer that continues it.
#[derive(Debug)]
pub struct Carrier {
    /// The connection.
    pub stream: OwnedFd,
    /// Seals and opens its records.
    pub records: RecordLayer,
    /// Bytes that came behind the handshake: the record layer's first input.
    pub leftover: Vec<u8>,
    /// The other end's address, for logs.
    pub remote: SocketAddr,
}

/// What the control plane tells a pump.
#[derive(Debug)]
pub enum Command {
    /// Brings a carrier: for a session that begins, or for one that is to be resumed.
    ///
    /// At the forwarder `session` says which. At the relay the other end's `HELLO` does: `session`
    /// then is the name of the one that begins, should it not name the one that `key` has.
    Carry {
        /// The name that later commands and events use.
        session: SessionKey,
        /// Which end this is.
        side: Side,
        /// Who is at the other end; at the relay the owner of the session.
        key: PublicKey,
        /// Whom it is with, for logs: the forwarder's name at the relay, the relay's address at
        /// the forwarder.
        name: Arc<str>,
        /// How long the session is to outlive the loss of a carrier; the relay decides.
        grace: Duration,
        /// What carries it.
        carrier: Box<Carrier>,
    },
    /// The network of this host has changed: probes the session's carrier, and lets it be replaced
    /// unless it answers.
    Doubt {
        /// Which session.
        session: SessionKey,
    },
    /// Sends a registrar's frame to the other end.
    Send {
        /// Which session.
        session: SessionKey,
        /// The frame.
        frame: ControlFrame,
    },
    /// From now on a flow that the other end opens to `contact` is dialled to `target`.
    Serve {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
        /// The internal peer's name, for logs.
        peer: Arc<str>,
        /// Where it listens.
        target: SocketAddr,
    },
    /// From now on connections to `listener` are opened as flows to `contact`.
    Listen {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
        /// The internal peer's name, for logs.
        peer: Arc<str>,
        /// A listening socket of the contact address.
        listener: TcpListener,
    },
    /// No new flows through `contact`; those that run go on.
    Withdraw {
        /// Which session.
        session: SessionKey,
        /// The contact point.
        contact: ContactId,
    },
    /// No new flows in the session; it ends, with [`Event::Down`], when the last one has ended.
    Drain {
        /// Which session.
        session: SessionKey,
    },
    /// Ends the session now: its flows are reset, its carrier closed; [`Event::Down`] follows.
    Close {
        /// Which session.
        session: SessionKey,
        /// Why, told to the other end in `GOAWAY` …
        reason: GoawayReason,
        /// … and in words.
        why: String,
    },
    /// Asks for an [`Event::Report`].
    Report,
    /// Ends every session and then the pump's thread.
    Stop,
}

/// What a pump tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// `WELCOME` was sent or received: the session begins, or goes on on another carrier.
    Up {
        /// Which session.
        session: SessionKey,
        /// The name that came with the carrier; another one where that resumes `session`.
        carrier: SessionKey,
        /// The session's name on the wire.
        id: SessionId,
        /// Whether it goes on: what was registered is, and flows run.
        is_resumed: bool,
    },
    /// The session has no carrier any more; it waits for another.
    Lost {
        /// Which session.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// The session's carrier does not answer in time, or does so again.
    Suspect {
        /// Which session.
        session: SessionKey,
        /// Whether another carrier is worth having.
        is_suspect: bool,
    },
    /// A carrier came to nothing; the session that it was for is as it was.
    Dropped {
        /// The name that came with the carrier.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// A registrar's frame from the other end.
    Frame {
        /// Which session.
        session: SessionKey,
        /// The frame.
        frame: ControlFrame,
    },
    /// The session has ended and its key is free.
    Down {
        /// Which session.
        session: SessionKey,
        /// Why.
        why: Down,
    },
    /// What the pump holds at the moment.
    Report(Report),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// The control plane asked for it, or it had drained.
    #[error("closed from this end")]
    Closed,
    /// The carrier was closed or reset, by the other end or on the way.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The other end did not answer probes.
    #[error("no answer from the other end")]
    Silent,
    /// The other end said goodbye in so many words.
    #[error("the other end ended the session: {1}")]
    Goaway(GoawayReason, String),
    /// No carrier came in time; the flows were reset.
    #[error("no other connection came in time: its flows are reset")]
    Grace,
    /// The carrier that it was to replace answers again.
    #[error("the present connection answers again")]
    Spare,
    /// The other end does not know this key.
    #[error("the other end does not accept this key")]
    Denied,
    /// The other end broke the protocol.
    #[error("the other end broke the protocol: {0}")]
    Broken(String),
}

/// A snapshot of one pump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Bytes of buffers that hold something.
    pub memory_held: usize,
    /// Bytes that the pools may grow to.
    pub memory_max: usize,
    /// One entry per session.
    pub sessions: Vec<SessionReport>,
}

/// A snapshot of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionReport {
    /// The control plane's name for it.
    pub key: u64,
    /// Whom it is with.
    pub name: String,
    /// Its name on the wire, shortened.
    pub id: String,
    /// The carrier's other end; empty while there is none.
    pub carrier: String,
    /// How often another carrier has taken over.
    pub resumptions: u64,
    /// Smoothed round trip through the tunnel, in microseconds; 0 while unknown.
    pub round_trip_us: u64,
    /// Flows that are open.
    pub flows: usize,
    /// Flows opened since the start.
    pub flows_opened: u64,
    /// Flows refused or not connected.
    pub flows_failed: u64,
    /// Stream bytes sent into the tunnel.
    pub bytes_sent: u64,
    /// Stream bytes received from the tunnel.
    pub bytes_received: u64,
    /// Records sent that the other end has not acknowledged.
    pub records_retained: usize,
    /// Stream bytes received that no socket has taken yet.
    pub bytes_waiting: u64,
}

/// The control plane's end towards one pump.
#[derive(Clone, Debug)]
pub struct PumpHandle {
    commands: Sender<Command>,
    waker: Waker,
}

/// The pump is gone, or has more commands waiting than [`HANDOFF_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pump does not take commands: its thread has ended or is overloaded")]
pub struct PumpGone;

impl PumpHandle {
    /// Hands `command` over and wakes the pump.
    ///
    /// # Errors
    /// When the pump's thread has ended or its queue is full.
    pub fn send(&self, command: Command) -> Result<(), PumpGone> {
        let sent = self.commands.try_send(command);
        self.waker.wake();
        sent.map_err(|_full_or_gone| PumpGone)
    }
}

/// The pump's end: commands in, events out.
#[derive(Debug)]
pub struct PumpEnd {
    commands: Receiver<Command>,
    events: EventSender,
}

impl PumpEnd {
    /// The next command, if there is one; `Err` once every handle is gone.
    ///
    /// # Errors
    /// When the control plane has dropped its handles.
    pub fn poll_command(&self) -> Result<Option<Command>, PumpGone> {
        match self.commands.try_recv() {
            Ok(command) => Ok(Some(command)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(PumpGone),
        }
    }

    /// Hands `event` over, or back when the queue is full.
    pub fn send(&self, event: Event) -> Option<Event> {
        self.events.send(event)
    }
}

/// Both ends of the crossing to one pump, whose events go to `events`.
pub fn crossing(waker: Waker, events: EventSender) -> (PumpHandle, PumpEnd) {
    let (sender, receiver) = bounded(HANDOFF_MAX);
    (PumpHandle { commands: sender, waker }, PumpEnd { commands: receiver, events })
}

/// Where pumps put events.
#[derive(Clone, Debug)]
pub struct EventSender {
    events: Sender<Event>,
    wake: Arc<EventFd>,
}

impl EventSender {
    fn send(&self, event: Event) -> Option<Event> {
        let back = match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(event)) => Some(event),
        };
        // It fails only when the counter is at its end, and then the reader is awake anyway.
        self.wake.write(1).ok();
        back
    }
}

/// Where the control plane takes events from: wait until `wake` is readable, read it, then call
/// [`EventReceiver::poll_event`] until there is none.
#[derive(Debug)]
pub struct EventReceiver {
    events: Receiver<Event>,
    wake: Arc<EventFd>,
}

impl EventReceiver {
    /// The next event, if there is one.
    pub fn poll_event(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The eventfd that every event writes to.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }
}

/// A queue of events for any number of pumps, and its reader.
///
/// # Errors
/// When the process has no descriptor left.
pub fn events() -> std::io::Result<(EventSender, EventReceiver)> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let (sender, receiver) = bounded(HANDOFF_MAX);
    let reader = EventReceiver { events: receiver, wake: Arc::clone(&wake) };
    Ok((EventSender { events: sender, wake }, reader))
}
