//! How a session outlives its carriers: greetings, the loss of a carrier, and what is sent again.
//!
//! ```text
//!            WELCOME                  carrier lost
//!  Opening ───────────▶ Carried ───────────────────▶ Lost ──grace──▶ over
//!                        ▲   │ ▲                       │
//!          newer carrier └───┘ └───────────────────────┘
//!                                   HELLO, WELCOME
//! ```
//!
//! Each end counts the reliable records that it received. A greeting says the count; what the
//! other end has beyond it is sent again, in order, before anything new. The forwarder may go on
//! receiving on the old carrier until `WELCOME` comes on the new one: `replays_from` says how much
//! of the replay it has by then.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::error::TransmitError;
use super::liveness::Liveness;
use super::{Sealed, Session, SessionError};
use crate::frame::{Frame, Frames, Hello};
use crate::id::{SessionId, Side, Time};
use crate::limits::{
    FLOW_WINDOW, GRACE_MAX, PAYLOAD_MAX, RECORD_HEADER, RECORD_TRAILER, SESSION_WINDOW,
    THROTTLED_WAKE_MAX, VERSION,
};
use crate::record::{ContentType, RecordError, SealError, SealedBy, Sealer};

/// Whether something carries the session at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriage {
    /// The first carrier's greeting is under way.
    Opening,
    Carried,
    Lost {
        since: Time,
    },
}

/// What came of a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// A session has begun in which nothing of an older one counts.
    Started,
    /// The session goes on where it was.
    Resumed,
}

/// A record that was sent and not acknowledged, and what it takes to open it again.
#[derive(Debug)]
pub(super) enum Retained<B> {
    /// As a carrier of this process had it.
    Sealed {
        /// The record.
        sealed: Sealed<B>,
        /// What opens it.
        key: SealedBy,
        /// Its number under that key.
        sequence: u64,
    },
    /// Its content, as another process had it.
    Opened(Bytes),
}

impl<B> From<Bytes> for Retained<B> {
    fn from(content: Bytes) -> Self {
        Self::Opened(content)
    }
}

impl<B> Retained<B> {
    /// Lets `copy` replace the record's memory.
    pub(super) fn move_out(&mut self, copy: impl Fn(&B) -> Option<B>) {
        if let Self::Sealed { sealed, .. } = self
            && let Some(memory) = copy(&sealed.memory)
        {
            sealed.memory = Rc::new(memory);
        }
    }

    pub(super) fn new(sealed: Sealed<B>, key: SealedBy, sequence: u64) -> Self {
        Self::Sealed { sealed, key, sequence }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + From<Box<[u8]>>> Retained<B> {
    /// Seals the record under the present carrier's key: what an older one's had sealed is opened in
    /// place first.
    pub(super) fn seal_again(&mut self, sealer: &mut Sealer) -> Result<Sealed<B>, TransmitError> {
        let (sealed, key, sequence) = match self {
            Self::Sealed { sealed, key, sequence } => (sealed, key, sequence),
            Self::Opened(content) => {
                let sealed = seal_first(content, sealer)?;
                let (key, sequence) = (sealer.sealed_by(), sealer.sealed() - 1);
                *self = Self::Sealed { sealed: sealed.clone(), key, sequence };
                return Ok(sealed);
            }
        };
        let len = sealed.len;
        if Rc::get_mut(&mut sealed.memory).is_none() {
            // The old carrier's last send still reads it: that memory must not change.
            let copy: Box<[u8]> = (*sealed.memory).as_ref().get(..len).unwrap_or_default().into();
            sealed.memory = Rc::new(B::from(copy));
        }
        let memory = Rc::get_mut(&mut sealed.memory)
            .expect("invariant: memory that nobody shares can be had")
            .as_mut();
        let record = memory.get_mut(..len).unwrap_or_default();
        let (_, content) = key.reopen(*sequence, record)?;
        (*key, *sequence) = (sealer.sealed_by(), sealer.sealed());
        sealed.len = sealer.seal(ContentType::ApplicationData, memory, content.len())?;
        Ok(sealed.clone())
    }

    /// What the record holds; it stays sealed as it is.
    pub(super) fn content(&self) -> Result<Bytes, RecordError> {
        match self {
            Self::Sealed { sealed, key, sequence } => {
                let memory = (*sealed.memory).as_ref();
                let mut record = memory.get(..sealed.len).unwrap_or_default().to_vec();
                let (_, content) = key.reopen(*sequence, &mut record)?;
                Ok(Bytes::from(record).slice(content))
            }
            Self::Opened(content) => Ok(content.clone()),
        }
    }
}

fn seal_first<B>(content: &[u8], sealer: &mut Sealer) -> Result<Sealed<B>, SealError>
where
    B: AsMut<[u8]> + From<Box<[u8]>>,
{
    let mut record = Vec::with_capacity(RECORD_HEADER + content.len() + RECORD_TRAILER);
    record.extend_from_slice(&[0; RECORD_HEADER]);
    record.extend_from_slice(content);
    record.extend_from_slice(&[0; RECORD_TRAILER]);
    let mut memory = B::from(record.into_boxed_slice());
    let len = sealer.seal(ContentType::ApplicationData, memory.as_mut(), content.len())?;
    Ok(Sealed { memory: Rc::new(memory), len })
}

/// Reads the first record of a carrier, which holds one greeting and nothing else.
///
/// # Errors
/// When it is anything else, or of another version of the protocol.
pub fn parse_greeting(content: &[u8], from: Side) -> Result<Hello, SessionError> {
    let mut frames = Frames::new(content);
    let frame = frames.next().transpose()?;
    let hello = match (frame, from) {
        (Some(Frame::Hello(hello)), Side::Forwarder)
        | (Some(Frame::Welcome(hello)), Side::Relay) => hello,
        (Some(frame), _) => return Err(SessionError::Unexpected(frame.kind())),
        (None, _) => return Err(crate::frame::FrameError::Truncated.into()),
    };
    if let Some(more) = frames.next().transpose()? {
        return Err(SessionError::Unexpected(more.kind()));
    }
    if hello.version != VERSION {
        return Err(SessionError::Version(hello.version));
    }
    if hello.flow_window < PAYLOAD_MAX as u64 {
        return Err(SessionError::FlowWindow(hello.flow_window));
    }
    Ok(hello)
}

/// Seals a greeting as a record of its own. It is neither counted nor retained.
///
/// # Errors
/// When the key may seal no more.
pub fn seal_greeting(frame: &Frame<'_>, sealer: &mut Sealer) -> Result<Vec<u8>, SealError> {
    let mut record = vec![0; RECORD_HEADER];
    frame.encode(&mut record);
    let content_len = record.len() - RECORD_HEADER;
    record.resize(record.len() + RECORD_TRAILER, 0);
    let len = sealer.seal(ContentType::ApplicationData, &mut record, content_len)?;
    record.truncate(len);
    Ok(record)
}

impl<B> Session<B> {
    /// What the forwarder says first on a new carrier, whether it has a session already or not.
    ///
    /// While the older carrier lives, the session goes on there until `WELCOME` comes.
    pub fn hello(&mut self) -> Hello {
        self.epoch += 1;
        self.greeting()
    }

    /// The relay takes the `HELLO` of a new carrier for this session, and returns the `WELCOME` to
    /// send as the carrier's first record. From then on nothing that the older carrier brings may
    /// be taken.
    ///
    /// # Errors
    /// [`SessionError::Stale`] concerns the new carrier alone; any other ends the session.
    pub fn handle_hello(&mut self, hello: &Hello, now: Time) -> Result<Hello, SessionError> {
        if hello.epoch <= self.epoch {
            return Err(SessionError::Stale { offered: hello.epoch, present: self.epoch });
        }
        self.sent.flow_window = hello.flow_window;
        // The counts of one that names a session that is gone mean nothing here.
        let is_of_another = self.carriage == Carriage::Opening && hello.session != SessionId::NONE;
        if !is_of_another {
            self.sent.unsent = 0;
            self.acknowledge(hello.received)?;
            self.raise_grant(hello.grant);
        }
        self.epoch = hello.epoch;
        self.attach(now);
        Ok(self.greeting())
    }

    /// The forwarder takes the `WELCOME` of the carrier that the last [`Session::hello`] was for.
    ///
    /// # Errors
    /// When the ends disagree: the session must be ended.
    pub fn handle_welcome(&mut self, welcome: &Hello, now: Time) -> Result<Greeted, SessionError> {
        if welcome.epoch != self.epoch {
            return Err(SessionError::Stale { offered: welcome.epoch, present: self.epoch });
        }
        let greeted = if welcome.session == self.id {
            self.sent.unsent = 0;
            self.acknowledge(welcome.received)?;
            let received = self.received.records;
            let replays_from = welcome.replays_from;
            self.received.repeated = received
                .checked_sub(replays_from)
                .ok_or(SessionError::Gap { replays_from, received })?;
            Greeted::Resumed
        } else {
            let epoch = self.epoch;
            *self = Self::new(self.side, welcome.session, Duration::ZERO, now);
            self.epoch = epoch;
            self.datagrams.offer = welcome.path.clone();
            Greeted::Started
        };
        self.grace = welcome.grace.min(GRACE_MAX);
        self.sent.flow_window = welcome.flow_window;
        self.raise_grant(welcome.grant);
        self.attach(now);
        Ok(greeted)
    }

    fn attach(&mut self, now: Time) {
        self.carriage = Carriage::Carried;
        self.make_path(now);
        if std::mem::take(&mut self.opened_detached) > 0 {
            self.flows.values_mut().for_each(|flow| flow.is_unannounced = false);
            self.datagrams.handle_attached();
        }
        self.sent.unsent = self.sent.retained.len();
        self.sent.withheld = Duration::ZERO;
        self.sent.reckoned_until = now;
        self.received.poll_due = Some(now);
        self.liveness = Liveness::new(now);
    }

    /// The carrier is gone. The session waits for another until [`Session::handle_timeout`] says
    /// that its grace is over.
    pub fn handle_carrier_lost(&mut self, now: Time) {
        if self.carriage == Carriage::Carried {
            self.carriage = Carriage::Lost { since: now };
        }
    }

    /// This end stood still for a while and goes on, on the carrier that it had: what was not heard
    /// meanwhile says nothing of that.
    pub fn handle_standstill(&mut self, now: Time) {
        if self.carriage == Carriage::Carried {
            self.liveness.handle_standstill(now);
            self.sent.reckoned_until = now;
        }
    }

    fn greeting(&mut self) -> Hello {
        let poll = self.take_poll();
        // Should the greeting be lost with its carrier, the older one still has to be told.
        self.received.poll_due = Some(Time::default());
        Hello {
            version: VERSION,
            session: self.id,
            epoch: self.epoch,
            received: poll.records,
            replays_from: self.sent.records - self.sent.retained.len() as u64,
            grant: poll.bytes,
            flow_window: FLOW_WINDOW,
            grace: self.grace,
            path: self.offered_path(),
        }
    }

    /// The other end has `records`: those are retained no longer.
    pub(super) fn acknowledge(&mut self, records: u64) -> Result<(), SessionError> {
        let sent = self.sent.records;
        if records > sent {
            return Err(SessionError::Acknowledged { acknowledged: records, sent });
        }
        // What is still to be sent again is sent, even if the other end has it from the older
        // carrier: it counts.
        let resent = sent - self.sent.unsent as u64;
        let first = sent - self.sent.retained.len() as u64;
        let acknowledged = records.min(resent).saturating_sub(first);
        let acknowledged = usize::try_from(acknowledged).unwrap_or(usize::MAX);
        if acknowledged > 0 {
            self.sent.retained.drain(..acknowledged);
            self.sent.withheld = Duration::ZERO;
        }
        Ok(())
    }

    /// The other end takes `bytes` in all; of more than we may retain no use is made.
    pub(super) fn raise_grant(&mut self, bytes: u64) {
        let bytes = bytes.min(self.counters.bytes_sent + SESSION_WINDOW);
        if bytes <= self.sent.grant {
            return;
        }
        self.sent.grant = bytes;
        self.wake(THROTTLED_WAKE_MAX);
    }
}
