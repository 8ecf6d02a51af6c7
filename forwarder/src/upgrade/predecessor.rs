//! The old process, as the new one sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::passage::{Passage, Word};
use super::{FORM, PACK_MAX, PASS_MAX, Parcel, Unpacker};
use crate::exit::{Exit, Failed};
use crate::handoff::{Command, Event, EventReceiver, PumpHandle};
use crate::net;

/// How often it is looked whether pumps have answered: nothing else runs yet.
const STEP: Duration = Duration::from_millis(1);

/// The process that is taken over from. When this is dropped before [`Predecessor::commit`], that one
/// goes on.
#[derive(Debug)]
pub struct Predecessor {
    passage: Passage,
    pumps: usize,
}

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed::new(Exit::Failure, format!("cannot take over from the running daemon: {error}"))
}

impl Predecessor {
    /// Meets the process that has started this one, at standard input, and has its listeners: from
    /// here on they are found in place of new ones, and nobody is accepted.
    ///
    /// # Errors
    /// When there is no such process, or one whose form of things this one does not know.
    pub fn meet() -> Result<Self, Failed> {
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let nothing = OwnedFd::from(File::open("/dev/null").map_err(failed)?);
        nix::unistd::dup2_stdin(nothing).map_err(failed)?;
        let passage = Passage::from(socket);
        passage.set_patience(Some(PASS_MAX)).map_err(failed)?;
        let (form, pumps) = match passage.receive().map_err(failed)? {
            Word::Hello { form, pumps } => (form, pumps as usize),
            word => return Err(failed(format!("it began with {word:?}"))),
        };
        let predecessor = Self { passage, pumps };
        if form != FORM {
            let why = format!(
                "the running daemon passes things on in form {form}, this program takes form {FORM}: \
                 restart the daemon instead"
            );
            return Err(predecessor.refuse(why));
        }
        net::pause_accepting();
        let inherited = predecessor.passage.receive_parcel().and_then(net::inherit);
        inherited.map_err(|error| predecessor.refuse(error))?;
        Ok(predecessor)
    }

    /// How many pumps it has: this process has to have as many.
    pub fn pumps(&self) -> usize {
        self.pumps
    }

    /// Says that this process is ready, and has what the control plane of the other has left, and its
    /// pumps.
    ///
    /// # Errors
    /// When the other process thinks better of it.
    pub fn receive(&self) -> Result<(Unpacker, Vec<Parcel>), Failed> {
        self.try_receive().map_err(|error| self.refuse(error))
    }

    fn try_receive(&self) -> io::Result<(Unpacker, Vec<Parcel>)> {
        self.passage.set_patience(Some(2 * PACK_MAX))?;
        self.passage.send(&Word::Ready)?;
        let control = self.passage.receive_parcel()?.unpack()?;
        let parcels = (0..self.pumps).map(|_| self.passage.receive_parcel());
        Ok((control, parcels.collect::<io::Result<_>>()?))
    }

    /// Says that nothing is taken over, and why.
    pub fn refuse(&self, why: impl ToString) -> Failed {
        let why = why.to_string();
        // It may have gone, too.
        self.passage.send(&Word::Refused(why.clone())).ok();
        // Of an end that closes with something unread, nothing more is heard at the other.
        self.passage.drain();
        failed(why)
    }

    /// Says that all is taken over, and waits for the word to go on.
    ///
    /// # Errors
    /// When it does not come: nothing may be touched then.
    pub fn commit(self) -> Result<(), Failed> {
        // However long it takes: the other process says so, kills this one, or is gone. Whoever gave up
        // just then would be taken for the one that goes on.
        self.passage.set_patience(None).map_err(failed)?;
        self.passage.send(&Word::Restored).map_err(failed)?;
        self.passage.expect(&Word::Go).map_err(failed)
    }
}

/// Lets new pumps stand still from the beginning.
///
/// # Errors
/// When one does not.
pub fn freeze(pumps: &[PumpHandle], events: &EventReceiver) -> Result<(), Failed> {
    for pump in pumps {
        pump.send(Command::Freeze).map_err(failed)?;
    }
    await_all(pumps.len(), events, |event| match event {
        Event::Quiet => Ok(Ok(())),
        event => Err(event),
    })
    .map(drop)
}

/// Lets each pump take over what was left to it, with its carriers or without; returns what they have to
/// say to the control plane.
///
/// # Errors
/// When one cannot.
pub fn restore(
    pumps: &[PumpHandle],
    parcels: Vec<Parcel>,
    keeps_carriers: bool,
    events: &EventReceiver,
) -> Result<Vec<Event>, Failed> {
    for (pump, parcel) in pumps.iter().zip(parcels) {
        pump.send(Command::Restore { parcel, keeps_carriers }).map_err(failed)?;
    }
    await_all(pumps.len(), events, |event| match event {
        Event::Restored(restored) => Ok(restored),
        event => Err(event),
    })
}

/// Waits for as many answers; returns what came beside them.
fn await_all(
    count: usize,
    events: &EventReceiver,
    answer: impl Fn(Event) -> Result<Result<(), String>, Event>,
) -> Result<Vec<Event>, Failed> {
    let until = Instant::now() + PACK_MAX;
    let (mut answered, mut others) = (0, Vec::new());
    while answered < count {
        match events.poll_event().map(&answer) {
            Some(Ok(Ok(()))) => answered += 1,
            Some(Ok(Err(why))) => return Err(failed(why)),
            Some(Err(other)) => others.push(other),
            None if Instant::now() < until => thread::sleep(STEP),
            None => return Err(failed("a pump has not answered in time")),
        }
    }
    Ok(others)
}
