//! One end: a process with its session, its carriers' sockets, and its flows' sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adit_proto::frame::Frame;
use adit_proto::id::{FlowId, Side, Time};
use adit_proto::limits::{CARRIER_SEND_MAX, PAYLOAD_MAX, RECORD_MAX};
use adit_proto::record::{KEY_UPDATE_LEN, RecordLayer};
use adit_proto::session::{Sealed, Session, seal_greeting};

use crate::keys::chunk;
use crate::oracle::{Oracle, Outcome, fill};
use crate::random::Random;

/// How soon after one look at the session's timer comes the next, as the pump has it …
const TIMER_STEP: Duration = Duration::from_millis(5);
/// … and while a send is under way, since what is due has to wait for it.
const TIMER_STEP_BUSY: Duration = Duration::from_millis(100);

/// A flow's socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The flow's number at the oracle.
    pub(crate) flow: u32,
    /// Bytes that its peer wrote in all; the pattern makes them up.
    pub(crate) written: u64,
    /// Bytes of those that were read.
    pub(crate) read: u64,
    /// Its peer writes no more.
    pub(crate) ends: bool,
    has_ended: bool,
    /// Bytes that it has not taken yet.
    pub(crate) untaken: usize,
    /// The other direction has come to its end.
    pub(crate) is_finished: bool,
    pub(crate) is_connected: bool,
    /// Its peer does not read.
    pub(crate) is_stalled: bool,
    /// The session had no room; it will say when it has.
    is_waiting: bool,
    /// A read may take more than it was allowed, as a kernel does that fills one buffer more.
    pub(crate) reads_beyond: bool,
}

impl Socket {
    pub(crate) fn new(flow: u32, is_connected: bool) -> Self {
        Self {
            flow,
            written: 0,
            read: 0,
            ends: false,
            has_ended: false,
            untaken: 0,
            is_finished: false,
            is_connected,
            is_stalled: false,
            is_waiting: false,
            reads_beyond: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.has_ended && self.is_finished && self.untaken == 0
    }
}

/// A carrier's socket at one end.
pub(crate) struct Link {
    pub(crate) records: RecordLayer,
    /// What arrived and is not a whole record yet.
    pub(crate) inbox: Vec<u8>,
    /// What the kernel has not taken yet.
    pub(crate) outbox: Vec<u8>,
    /// The records of the send under way: the kernel reads their memory.
    sending: Vec<Sealed<Box<[u8]>>>,
    /// Another process made the handshake: its keys are the last.
    is_inherited: bool,
}

impl Link {
    pub(crate) fn new(records: RecordLayer) -> Self {
        Self {
            records,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sending: Vec::new(),
            is_inherited: false,
        }
    }

    /// Changes the sending keys where the other end wants it, or for no reason between records.
    fn update_keys(&mut self, random: &mut Random) -> Outcome {
        let is_due = self.records.key_update_due();
        if self.is_inherited || !is_due && (self.sending.is_empty() || !random.chance(3)) {
            return Ok(());
        }
        let mut record = [0; KEY_UPDATE_LEN];
        let is_request = !is_due && random.chance(50);
        let len = self.records.key_update(is_request, &mut record);
        self.outbox.extend_from_slice(&record[..len.map_err(|error| error.to_string())?]);
        Ok(())
    }

    pub(crate) fn greet(&mut self, frame: &Frame<'_>) -> Outcome {
        let record = seal_greeting(frame, &mut self.records.sealer).map_err(|e| e.to_string())?;
        self.outbox.extend(record);
        Ok(())
    }
}

/// One end.
pub(crate) struct End {
    pub(crate) side: Side,
    /// How far its clock is ahead of the world's.
    pub(crate) ahead: Duration,
    pub(crate) is_running: bool,
    pub(crate) session: Option<Session<Box<[u8]>>>,
    pub(crate) current: Option<u32>,
    /// The forwarder's carrier that waits for its `WELCOME`.
    pub(crate) pending: Option<u32>,
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) sockets: BTreeMap<FlowId, Socket>,
    /// The flows of datagrams that are open, with their numbers at the oracle.
    pub(crate) datagram_flows: BTreeMap<FlowId, u32>,
    /// The number at the oracle of each flow that the session ever had.
    pub(crate) flows: BTreeMap<FlowId, u32>,
    /// Sockets worth reading.
    pub(crate) ready: BTreeSet<FlowId>,
    pub(crate) lost_at: Option<Time>,
    looked_at: Time,
    idle_looks: u32,
    /// Memory of sends whose carrier was closed before the kernel was done with it.
    lingering: Vec<Sealed<Box<[u8]>>>,
}

impl End {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            ahead: Duration::ZERO,
            is_running: true,
            session: None,
            current: None,
            pending: None,
            links: BTreeMap::new(),
            sockets: BTreeMap::new(),
            datagram_flows: BTreeMap::new(),
            flows: BTreeMap::new(),
            ready: BTreeSet::new(),
            lost_at: None,
            looked_at: Time(0),
            idle_looks: 0,
            lingering: Vec::new(),
        }
    }

    /// This end's own clock.
    pub(crate) fn clock(&self, now: Time) -> Time {
        now + self.ahead
    }

    /// When, by the world's clock, the session's timer is looked at.
    pub(crate) fn next_look(&self) -> Option<Time> {
        let due = self.session.as_ref()?.poll_timeout();
        let is_sending = self
            .current
            .and_then(|current| self.links.get(&current))
            .is_some_and(|link| !link.outbox.is_empty());
        let step = if is_sending { TIMER_STEP_BUSY } else { TIMER_STEP };
        let due = due.max(self.looked_at + step);
        Some(Time(due.0.saturating_sub(self.ahead.as_nanos() as u64)))
    }

    /// Counts a look; one after the other that finds nothing to do is a timer that spins.
    pub(crate) fn look(&mut self, now: Time) -> Outcome {
        let clock = self.clock(now);
        let is_next = clock.since(self.looked_at) <= TIMER_STEP;
        self.idle_looks = if is_next { self.idle_looks + 1 } else { 0 };
        self.looked_at = clock;
        if self.idle_looks < 200 {
            return Ok(());
        }
        Err(format!("the timer of the {:?} spins: {:?}", self.side, self.session))
    }

    /// Goes on with a session that was left, and with its sockets, of which nothing is known but that
    /// they are there.
    pub(crate) fn take_over(&mut self, session: Session<Box<[u8]>>, now: Time) {
        if !session.is_carried() {
            self.lost_at = Some(self.clock(now));
        }
        self.session = Some(session);
        for (id, socket) in &mut self.sockets {
            socket.is_waiting = false;
            self.ready.insert(*id);
        }
    }

    /// The present carrier's keys go to another process; false when that has no use for them.
    pub(crate) fn pass_on(&mut self, carrier: u32) -> bool {
        let Some(link) = self.links.get_mut(&carrier) else { return false };
        let Some(left) = link.records.leave() else { return false };
        let bytes = postcard::to_allocvec(&left).expect("what is left can be written");
        let left = postcard::from_bytes(&bytes).expect("what was written can be read");
        link.records = RecordLayer::take_over(left).expect("keys that were used are keys");
        link.sending.clear();
        link.is_inherited = true;
        true
    }

    /// Closes a carrier's socket at this end.
    pub(crate) fn close(&mut self, carrier: u32) -> bool {
        let Some(link) = self.links.remove(&carrier) else { return false };
        self.lingering = link.sending;
        self.current = self.current.filter(|current| *current != carrier);
        self.pending = self.pending.filter(|pending| *pending != carrier);
        true
    }

    /// Reads the sockets that are worth it into the session.
    pub(crate) fn read_sockets(&mut self, oracle: &mut Oracle, random: &mut Random) {
        let Some(session) = &mut self.session else { return };
        while let Some(id) = session.poll_readable() {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.is_waiting = false;
                self.ready.insert(id);
            }
        }
        for id in std::mem::take(&mut self.ready) {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            read(session, self.side, id, socket, oracle, random);
        }
        self.sockets.retain(|_, socket| !socket.is_over());
    }

    /// Seals what the present carrier is to bring next, unless it is still busy; whether there was
    /// anything.
    pub(crate) fn seal(&mut self, now: Time, random: &mut Random) -> Outcome<bool> {
        let clock = self.clock(now);
        let Some(session) = &mut self.session else { return Ok(false) };
        let Some(link) = self.current.and_then(|current| self.links.get_mut(&current)) else {
            return Ok(false);
        };
        if !link.outbox.is_empty() {
            return Ok(false);
        }
        link.update_keys(random)?;
        let bytes = RECORD_MAX + random.size(CARRIER_SEND_MAX - RECORD_MAX);
        link.sending.clear();
        session
            .poll_records(bytes, clock, &mut link.records.sealer, &mut link.sending)
            .map_err(|error| format!("the {:?} cannot send: {error}", self.side))?;
        link.sending.iter().for_each(|r| link.outbox.extend_from_slice(&r.memory[..r.len]));
        self.idle_looks = if link.outbox.is_empty() { self.idle_looks } else { 0 };
        Ok(!link.outbox.is_empty())
    }
}

/// Reads until there is no more, or no room.
fn read(
    session: &mut Session<Box<[u8]>>,
    side: Side,
    id: FlowId,
    socket: &mut Socket,
    oracle: &mut Oracle,
    random: &mut Random,
) {
    while socket.is_connected && socket.read < socket.written && !socket.is_waiting {
        let room = session.room(id);
        if room == 0 {
            socket.is_waiting = true;
            return;
        }
        let mut room = if socket.reads_beyond { 8 * PAYLOAD_MAX } else { room };
        while room > 0 && socket.read < socket.written {
            let left = usize::try_from(socket.written - socket.read).unwrap();
            let len_max = room.min(PAYLOAD_MAX);
            let len = if random.chance(85) { len_max } else { random.between(1, len_max) };
            let mut bytes = vec![0; len.min(left)];
            fill(socket.flow, side, socket.read, &mut bytes);
            oracle.written(socket.flow, side, bytes.len());
            socket.read += bytes.len() as u64;
            room -= bytes.len();
            session.handle_input(id, chunk(&bytes));
        }
    }
    let is_end = socket.is_connected && socket.ends && socket.read == socket.written;
    if is_end && !std::mem::replace(&mut socket.has_ended, true) {
        oracle.ended(socket.flow, side);
        session.handle_end(id);
    }
}
