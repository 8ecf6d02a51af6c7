//! What is sent: answers and probes first, then datagrams, what a lost carrier owes, control
//! frames, datagrams of flows that these open, and the streams by the schedule.
//!
//! A large payload is sealed where it lies and is a record of its own; small frames are gathered
//! by copy into a shared one.

use std::rc::Rc;
use std::time::Duration;

use super::datagrams::{Room, Stage};
use super::error::TransmitError;
use super::resume::{Carriage, Retained};
use super::{Sealed, Session, SessionError};
use crate::flow::Chunk;
use crate::frame::{Frame, Kind, header};
use crate::id::{FlowId, Time};
use crate::limits::{
    CARRIER_SEND_PIECES, CARRIER_SEND_SHARED_MAX, CONTENT_MAX, FRAME_HEADER, GATHERED_MAX,
    PAYLOAD_MAX, PING_IDLE, RECORD_HEADER, RECORD_MAX, RECORD_TRAILER, RETAINED_RECORDS_MAX,
    SHARED_FOR, SLOT_HEADROOM, UNACKNOWLEDGED_MAX,
};
use crate::record::{ContentType, SealError, Sealer};

/// Records of one turn as they are sealed.
#[derive(Debug)]
struct Turn<'a, B> {
    sealer: &'a mut Sealer,
    records: &'a mut Vec<Sealed<B>>,
    bytes_left: usize,
    /// What datagrams may take of it while others wait; the last record may go beyond.
    datagrams_left: usize,
    /// Small frames of the record being gathered, behind the record header's room.
    gathered: &'a mut Vec<u8>,
}

impl<B: AsMut<[u8]> + From<Box<[u8]>>> Turn<'_, B> {
    fn has_room(&self) -> bool {
        self.bytes_left >= self.gathered.len().max(RECORD_MAX)
            && self.records.len() < CARRIER_SEND_PIECES
    }

    /// Whatever was sent before, what comes next has room for a record: small budgets would be
    /// used up by others in each turn.
    fn ensure_record(&mut self) {
        self.bytes_left = self.bytes_left.max(RECORD_MAX);
    }

    fn gather(&mut self, frame: &Frame<'_>) {
        frame.encode(self.gathered);
    }

    fn gathers(&self) -> bool {
        self.gathered.len() > RECORD_HEADER
    }

    fn fits(&self, frame_len: usize) -> bool {
        self.gathered.len() - RECORD_HEADER + frame_len <= CONTENT_MAX
    }

    /// Seals what was gathered, if anything; true when there was.
    fn flush(&mut self) -> Result<bool, SealError> {
        if !self.gathers() {
            return Ok(false);
        }
        let content_len = self.gathered.len() - RECORD_HEADER;
        let mut record = Vec::with_capacity(self.gathered.len() + RECORD_TRAILER);
        record.extend_from_slice(self.gathered);
        record.extend_from_slice(&[0; RECORD_TRAILER]);
        self.gathered.truncate(RECORD_HEADER);
        self.seal(B::from(record.into_boxed_slice()), content_len)?;
        Ok(true)
    }

    fn seal(&mut self, mut memory: B, content_len: usize) -> Result<(), SealError> {
        let len = self.sealer.seal(ContentType::ApplicationData, memory.as_mut(), content_len)?;
        self.push(Sealed { memory: Rc::new(memory), len });
        Ok(())
    }

    fn push(&mut self, record: Sealed<B>) {
        self.bytes_left = self.bytes_left.saturating_sub(record.len);
        self.records.push(record);
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + From<Box<[u8]>>> Session<B> {
    /// Seals what is to be sent next, about `bytes` of it, and appends it to `records`. Without a
    /// carrier there is nothing.
    ///
    /// # Errors
    /// When the key may seal no more (the record layer's owner updates it long before), or a
    /// retained record cannot be sent again.
    pub fn poll_records(
        &mut self,
        bytes: usize,
        now: Time,
        sealer: &mut Sealer,
        records: &mut Vec<Sealed<B>>,
    ) -> Result<(), TransmitError> {
        if !self.is_carried() {
            return Ok(());
        }
        self.shared_until = self.shared_until.filter(|until| now < *until);
        let bytes = if self.is_shared() { bytes.min(CARRIER_SEND_SHARED_MAX) } else { bytes };
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.resize(RECORD_HEADER, 0);
        let mut turn = Turn {
            sealer,
            records,
            bytes_left: bytes,
            datagrams_left: bytes / 4 * 3,
            gathered: &mut gathered,
        };
        let result = self.transmit(&mut turn, bytes, now);
        self.gathered = gathered;
        result
    }

    fn transmit(
        &mut self,
        turn: &mut Turn<'_, B>,
        bytes: usize,
        now: Time,
    ) -> Result<(), TransmitError> {
        if self.sent.retained.is_empty() {
            self.sent.withheld = Duration::ZERO;
            self.sent.reckoned_until = now;
        }
        let first = turn.records.len();
        self.datagrams.promote();
        self.transmit_unreliable(turn, now)?;
        self.transmit_datagrams(turn, Stage::Accepted, now)?;
        self.transmit_reliable(turn, now)?;
        // Nobody else had use for the rest.
        let sent: usize = turn.records.iter().skip(first).map(|record| record.len).sum();
        turn.bytes_left = bytes.saturating_sub(sent);
        turn.datagrams_left = turn.bytes_left;
        if self.sent.unsent == 0 {
            self.transmit_datagrams(turn, Stage::Opening, now)?;
        }
        Ok(self.transmit_datagrams(turn, Stage::Accepted, now)?)
    }

    fn transmit_reliable(
        &mut self,
        turn: &mut Turn<'_, B>,
        now: Time,
    ) -> Result<(), TransmitError> {
        self.transmit_unsent(turn)?;
        if self.sent.unsent > 0 {
            // The other end counts by order: nothing new may go ahead.
            return Ok(());
        }
        self.transmit_control(turn)?;
        if !self.control.is_empty() {
            // Nothing may overtake the `OPEN` that is left, whatever room there will be for it.
            return Ok(self.flush(turn)?);
        }
        if self.datagrams.are_opening() {
            // Datagrams are not counted: they may not share a record with what is.
            self.flush(turn)?;
            turn.ensure_record();
            self.transmit_datagrams(turn, Stage::Opening, now)?;
        }
        self.transmit_flows(turn, now)?;
        Ok(self.flush(turn)?)
    }

    /// Datagrams in records of their own, which are neither counted nor retained.
    fn transmit_datagrams(
        &mut self,
        turn: &mut Turn<'_, B>,
        stage: Stage,
        now: Time,
    ) -> Result<(), SealError> {
        if stage == Stage::Accepted && self.datagrams.is_path_open() {
            return Ok(());
        }
        let first = turn.records.len();
        while turn.has_room() && turn.datagrams_left > 0 {
            let room = Room { end: RECORD_HEADER + CONTENT_MAX, full: CONTENT_MAX };
            self.datagrams.encode(stage, room, now, turn.gathered);
            let before = turn.bytes_left;
            if !turn.flush()? {
                break;
            }
            let taken = before - turn.bytes_left;
            turn.datagrams_left = turn.datagrams_left.saturating_sub(taken);
        }
        if turn.records.len() > first {
            turn.ensure_record();
        }
        Ok(())
    }

    /// Sends again what the lost carrier did not bring.
    fn transmit_unsent(&mut self, turn: &mut Turn<'_, B>) -> Result<(), TransmitError> {
        while self.sent.unsent > 0 && turn.has_room() {
            let next = self.sent.retained.len() - self.sent.unsent;
            let Some(record) = self.sent.retained.get_mut(next) else { break };
            let sealed = record.seal_again(turn.sealer)?;
            turn.push(sealed);
            self.sent.unsent -= 1;
        }
        Ok(())
    }

    fn transmit_unreliable(&mut self, turn: &mut Turn<'_, B>, now: Time) -> Result<(), SealError> {
        if let Some(number) = self.liveness.poll_pong() {
            turn.gather(&Frame::Pong(number));
        }
        if let Some(number) = self.liveness.poll_ping(now) {
            turn.gather(&Frame::Ping(number));
        }
        if self.is_poll_due(now) {
            turn.gather(&Frame::Poll(self.take_poll()));
        }
        turn.flush().map(|_| ())
    }

    fn transmit_control(&mut self, turn: &mut Turn<'_, B>) -> Result<(), SealError> {
        while self.may_retain() && turn.has_room() {
            let Some(frame) = self.control.pop_front().or_else(|| self.next_credit()) else {
                break;
            };
            if !turn.fits(CONTROL_FRAME_MAX) {
                self.flush(turn)?;
            }
            if let Frame::Open(id, _) = &frame {
                self.datagrams.handle_announced(*id);
            }
            turn.gather(&frame);
        }
        Ok(())
    }

    fn next_credit(&mut self) -> Option<Frame<'static>> {
        loop {
            let id = self.credits_due.pop_front()?;
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.is_credit_due = false;
                return Some(Frame::Credit(id, flow.take_credit()));
            }
        }
    }

    fn transmit_flows(&mut self, turn: &mut Turn<'_, B>, now: Time) -> Result<(), SealError> {
        while self.may_retain() && turn.has_room() {
            let Some((contact, id)) = self.schedule.next_flow() else { break };
            let Some(flow) = self.flows.get_mut(&id) else {
                self.schedule.idle((contact, id));
                continue;
            };
            let Some(len) = flow.next_len() else {
                if flow.take_fin() {
                    self.transmit_fin(turn, id)?;
                }
                self.schedule.idle((contact, id));
                continue;
            };
            if !self.is_granted(len) {
                break;
            }
            self.transmit_chunk(turn, id)?;
            self.note_company(id, len, now);
            self.schedule.charge((contact, id), len + FRAME_HEADER);
        }
        Ok(())
    }

    /// A message of `len` bytes of the flow was sent: the carrier is shared if that flow says little
    /// and others wait that say much.
    fn note_company(&mut self, id: FlowId, len: usize, now: Time) {
        if len > GATHERED_MAX || self.queued < PAYLOAD_MAX {
            return;
        }
        if self.flows.get_mut(&id).is_some_and(|flow| flow.says_little(now)) {
            self.shared_until = Some(now + SHARED_FOR);
        }
    }

    fn transmit_chunk(&mut self, turn: &mut Turn<'_, B>, id: FlowId) -> Result<(), SealError> {
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        let Some(chunk) = flow.pop() else { return Ok(()) };
        if std::mem::take(&mut flow.is_starved) {
            self.readable.push_back(id);
        }
        self.departed.push(flow.tag, chunk.at);
        let len = chunk.payload.len();
        self.queued -= len;
        self.counters.bytes_sent += len as u64;
        if len > GATHERED_MAX {
            self.flush(turn)?;
            return self.transmit_slot(turn, id, chunk);
        }
        if !turn.fits(FRAME_HEADER + len) {
            self.flush(turn)?;
        }
        let payload = chunk.memory.as_ref().get(chunk.payload).unwrap_or_default();
        turn.gather(&Frame::Data(id, payload));
        Ok(())
    }

    /// Seals a payload where it lies: the frame header goes into the slot's headroom.
    fn transmit_slot(
        &mut self,
        turn: &mut Turn<'_, B>,
        id: FlowId,
        mut chunk: Chunk<B>,
    ) -> Result<(), SealError> {
        let len = chunk.payload.len();
        let frame_len =
            u16::try_from(len).expect("invariant: a slot's payload is at most PAYLOAD_MAX");
        let headroom = chunk
            .memory
            .as_mut()
            .get_mut(RECORD_HEADER..SLOT_HEADROOM)
            .expect("invariant: a chunk above GATHERED_MAX has SLOT_HEADROOM");
        headroom.copy_from_slice(&header(Kind::Data, 0, frame_len, id.0));
        turn.seal(chunk.memory, FRAME_HEADER + len)?;
        self.retain_last(turn);
        Ok(())
    }

    fn transmit_fin(&mut self, turn: &mut Turn<'_, B>, id: FlowId) -> Result<(), SealError> {
        if !turn.fits(FRAME_HEADER) {
            self.flush(turn)?;
        }
        turn.gather(&Frame::Fin(id));
        self.remove_if_over(id);
        Ok(())
    }

    fn flush(&mut self, turn: &mut Turn<'_, B>) -> Result<(), SealError> {
        if turn.flush()? {
            self.retain_last(turn);
        }
        Ok(())
    }

    fn retain_last(&mut self, turn: &Turn<'_, B>) {
        if let Some(record) = turn.records.last() {
            // The record just sealed is the last of its key.
            let sequence = turn.sealer.sealed() - 1;
            let key = turn.sealer.sealed_by();
            self.sent.records += 1;
            self.sent.retained.push_back(Retained::new(record.clone(), key, sequence));
        }
    }

    fn may_retain(&self) -> bool {
        self.sent.retained.len() < RETAINED_RECORDS_MAX
    }

    fn is_granted(&self, len: usize) -> bool {
        self.counters.bytes_sent + len as u64 <= self.sent.grant
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Time {
        let of_carrier = self.poll_carrier_timeout();
        let path = self.path();
        path.map_or(of_carrier, |path| of_carrier.min(path.poll_timeout()))
    }

    fn poll_carrier_timeout(&self) -> Time {
        match self.carriage {
            Carriage::Opening => self.liveness.poll_timeout(),
            Carriage::Lost { since } => since + self.grace,
            Carriage::Carried => {
                let due = [self.received.poll_due, self.wake_due()];
                due.into_iter().flatten().fold(self.liveness.poll_timeout(), Time::min)
            }
        }
    }

    /// Lets time pass: a probe or a `POLL` may have become due, or something on the path.
    ///
    /// # Errors
    /// [`SessionError::Silent`] when the carrier is dead; any other when the session is over.
    pub fn handle_timeout(&mut self, now: Time) -> Result<(), SessionError> {
        self.datagrams.handle_timeout(now);
        match self.carriage {
            Carriage::Opening => {
                self.liveness.rest(now);
                return Ok(());
            }
            Carriage::Lost { since } if now.since(since) >= self.grace => {
                return Err(SessionError::Grace);
            }
            Carriage::Lost { .. } => return Ok(()),
            Carriage::Carried => {}
        }
        self.wake_parked(now);
        self.reckon_withheld(now);
        if self.sent.withheld > UNACKNOWLEDGED_MAX {
            return Err(SessionError::Unacknowledged);
        }
        self.liveness.handle_timeout(now)
    }

    /// An end that was suspended finds the clock far ahead, and the acknowledgements of that time
    /// still to be read: it did not wait for them longer than from one probe to the next.
    fn reckon_withheld(&mut self, now: Time) {
        let waited = now.since(std::mem::replace(&mut self.sent.reckoned_until, now));
        if !self.sent.retained.is_empty() {
            self.sent.withheld += waited.min(PING_IDLE);
        }
    }
}

/// Room for any control frame: two texts and their lengths are the most that one carries.
const CONTROL_FRAME_MAX: usize = FRAME_HEADER + 2 * (2 + crate::limits::TEXT_MAX) + 16;
