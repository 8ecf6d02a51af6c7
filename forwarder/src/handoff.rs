//! The one crossing between the planes: bounded channels that carry commands to a pump, and
//! events and snapshots back, each side woken by an eventfd.
//!
//! Invariant: nothing else is shared between a pump and the control plane, no lock is taken here
//! by a pump, and a pump never waits for the control plane. Should the control plane fall so far
//! behind that its channel is full, the pump keeps what it could not send and tries again.

mod bell;
mod command;
mod contacts;
mod event;
mod times;

use std::sync::Arc;
use std::time::Duration;

pub use adit_proto::frame::{ControlFrame, Destination, GoawayReason, Open, Protocol, ResetReason};
use adit_proto::limits::HANDOFF_MAX;
pub use adit_ring::Target;
use adit_ring::Waker;
use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use bell::hand_over;

pub use command::{
    Answer, Arrival, Carrier, Command, ContactSocket, Listening, PathEcho, PathSocket, ProxyHeader,
    ProxyVersion, Quota, Replies, Service, SessionKey, Volume,
};
pub use contacts::{ContactReport, Limit};
pub use event::{Asked, DatagramReport, Down, Event, Report, SessionReport};
pub use times::{BadMeasure, BadWay, Filter, Measure, TUNNEL, Times, TimesOf, Way};

/// How long the control plane waits for room in a pump's queue: many turns of a pump that is busy.
const ROOM_MAX: Duration = Duration::from_secs(1);

/// The control plane's end towards one pump.
#[derive(Clone, Debug)]
pub struct PumpHandle {
    commands: Sender<Command>,
    waker: Waker,
}

/// The pump is gone, or has had [`HANDOFF_MAX`] commands waiting for a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pump does not take commands: its thread has ended or is overloaded")]
pub struct PumpGone;

impl PumpHandle {
    /// Hands `command` over and wakes the pump. Who has more to say at once than the queue holds waits
    /// for a moment.
    ///
    /// # Errors
    /// When the pump's thread has ended or its queue stays full.
    pub fn send(&self, command: Command) -> Result<(), PumpGone> {
        match hand_over(&self.commands, &self.waker, command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(PumpGone),
            // It is awake by now, and never waits for us.
            Err(TrySendError::Full(command)) => {
                let sent = self.commands.send_timeout(command, ROOM_MAX);
                self.waker.wake();
                sent.map_err(|_full_or_gone| PumpGone)
            }
        }
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
        match hand_over(&self.events, &*self.wake, event) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(event)) => Some(event),
        }
    }
}

/// Where the control plane takes events from: wait until `wake` is readable, read it, then call
/// [`EventReceiver::poll_event`] until there is none. Each event goes to one of its clones.
#[derive(Clone, Debug)]
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use adit_ring::Ring;

    use super::*;

    /// Who has more to say than the queue holds waits for a pump that takes its time; only one that is
    /// gone is a failure.
    #[test]
    fn a_burst_of_commands_waits_for_room() {
        const MORE: usize = 100;
        let ring = Ring::new(adit_ring::probe().unwrap()).unwrap();
        let (handle, end) = crossing(ring.waker(), events().unwrap().0);
        let is_sent = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let sent =
                    (0..HANDOFF_MAX + MORE).try_for_each(|_| handle.send(Command::ResetTimes));
                is_sent.store(true, Ordering::Relaxed);
                sent.unwrap();
            });
            while !is_sent.load(Ordering::Relaxed) {
                // It takes nothing before there is no room, and somebody has found that out.
                let is_full = end.commands.is_full();
                (0..100).for_each(|_| thread::yield_now());
                if is_full {
                    end.poll_command().unwrap();
                }
            }
        });
        drop(end);
        assert_eq!(handle.send(Command::ResetTimes), Err(PumpGone));
    }
}
