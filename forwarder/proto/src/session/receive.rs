//! What arrives: a record's frames become events, or a typed error that ends the session.

use std::ops::Range;

use super::{Event, Session, SessionError};
use crate::flow::Flow;
use crate::frame::{
    ControlFrame, Credit, Frame, FrameError, Frames, Kind, Open, Poll, Protocol, ResetReason,
};
use crate::id::{FlowId, Side, Time};
use crate::limits::{FLOW_WINDOW, FLOWS_MAX, POLL_BYTES, POLL_DELAY, POLL_RECORDS, SESSION_WINDOW};

impl<B> Session<B> {
    /// Takes the content of one opened record and appends what it means to `events`.
    ///
    /// # Errors
    /// When the other end breaks the protocol: the session must then be ended.
    pub fn handle_record(
        &mut self,
        content: &[u8],
        now: Time,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        self.liveness.handle_record();
        if self.is_repeated(content, now) {
            return Ok(());
        }
        if content.is_empty() {
            self.futile.add(now)?;
        }
        let mut frames = Frames::new(content);
        let mut is_reliable = None;
        while let Some(frame) = frames.next() {
            let frame = frame?;
            let kind = frame.kind();
            if *is_reliable.get_or_insert(kind.is_reliable()) != kind.is_reliable() {
                return Err(SessionError::Mixed);
            }
            self.weigh(&frame, now)?;
            self.handle_frame(frame, frames.offset(), now, events)?;
        }
        if is_reliable == Some(true) {
            self.received.records += 1;
            self.liveness.handle_busy(now);
            self.received.poll_due.get_or_insert(now + POLL_DELAY);
        }
        self.check_control()
    }

    /// Whether the older carrier has brought this record already.
    fn is_repeated(&mut self, content: &[u8], now: Time) -> bool {
        if self.received.repeated == 0 {
            return false;
        }
        let first = Frames::new(content).next();
        let is_reliable = first.is_some_and(|frame| frame.is_ok_and(|f| f.kind().is_reliable()));
        if is_reliable {
            self.received.repeated -= 1;
            // The other end is to hear once more what it may forget.
            self.received.poll_due.get_or_insert(now + POLL_DELAY);
        }
        is_reliable
    }

    /// `end` is where the frame ends in its record.
    fn handle_frame(
        &mut self,
        frame: Frame<'_>,
        end: usize,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        let kind = frame.kind();
        match frame {
            Frame::Data(id, payload) => {
                self.handle_data(id, end - payload.len()..end, events)?;
            }
            Frame::Open(id, open) => self.handle_open(id, open, now, events)?,
            Frame::Accept(id) => {
                if self.datagrams.handle_accept(id) || self.flows.contains_key(&id) {
                    events.push(Event::Accepted(id));
                }
            }
            Frame::Fin(id) => self.handle_fin(id, events)?,
            Frame::Reset(id, reason) => {
                if self.remove_flow(id) {
                    self.counters.flows_reset += 1;
                    events.push(Event::Reset(id, reason));
                }
            }
            Frame::Credit(id, credit) => {
                self.check_is_stream(id)?;
                self.handle_credit(id, credit);
            }
            Frame::Blocked(id) => {
                self.check_is_stream(id)?;
                self.handle_blocked(id);
            }
            Frame::Datagram(id, datagram) => {
                if self.flows.contains_key(&id) {
                    return Err(SessionError::WrongProtocol(id));
                }
                self.liveness.handle_busy(now);
                self.datagrams.handle_datagram(id, datagram, end, now, events);
            }
            Frame::Poll(poll) => self.handle_poll(poll)?,
            Frame::Ping(number) => self.liveness.handle_ping(number),
            Frame::Pong(number) => self.liveness.handle_pong(number, now),
            Frame::Register(..) if self.side == Side::Forwarder => {
                return Err(SessionError::Unexpected(kind));
            }
            Frame::Register(id, body) => control(events, ControlFrame::Register(id, body)),
            Frame::Registered(id, body) => control(events, ControlFrame::Registered(id, body)),
            Frame::Refused(id, body) => control(events, ControlFrame::Refused(id, body)),
            Frame::Unregister(id) => control(events, ControlFrame::Unregister(id)),
            Frame::Goaway(body) => control(events, ControlFrame::Goaway(body)),
            Frame::Pad(_) => {}
            Frame::Hello(_) | Frame::Welcome(_) => {
                return Err(SessionError::Unexpected(kind));
            }
        }
        Ok(())
    }

    fn check_is_stream(&self, id: FlowId) -> Result<(), SessionError> {
        let is_stream = !self.datagrams.has_flow(id);
        is_stream.then_some(()).ok_or(SessionError::WrongProtocol(id))
    }

    fn handle_data(
        &mut self,
        id: FlowId,
        payload: Range<usize>,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        if payload.is_empty() {
            // It would cost the sender no credit, and us an entry.
            return Err(FrameError::Malformed(Kind::Data).into());
        }
        self.counters.bytes_received += payload.len() as u64;
        if self.counters.bytes_received > self.received.grant {
            return Err(SessionError::Grant);
        }
        self.check_is_stream(id)?;
        let Some(flow) = self.flows.get_mut(&id) else {
            // Our RESET and its data crossed on the way.
            self.received.taken += payload.len() as u64;
            return Ok(());
        };
        if !flow.handle_data(payload.len()) {
            return Err(SessionError::Credit(id));
        }
        self.futile.redeem();
        events.push(Event::Data(id, payload));
        Ok(())
    }

    fn handle_open(
        &mut self,
        id: FlowId,
        open: Open,
        now: Time,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        if !self.side.other().opens(id) || self.has_flow(id) {
            return Err(SessionError::FlowTaken(id));
        }
        if self.flows() >= FLOWS_MAX {
            self.control.push_back(Frame::Reset(id, ResetReason::Limit));
            return Ok(());
        }
        match open.protocol {
            Protocol::Tcp => {
                self.flows.insert(id, Flow::new(open.contact, self.sent.flow_window, now));
            }
            Protocol::Udp => self.datagrams.handle_open(id),
        }
        self.counters.flows_opened += 1;
        events.push(Event::Opened(id, open));
        Ok(())
    }

    fn handle_fin(&mut self, id: FlowId, events: &mut Vec<Event>) -> Result<(), SessionError> {
        self.check_is_stream(id)?;
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        if !flow.handle_fin() {
            return Err(SessionError::Unexpected(Kind::Fin));
        }
        events.push(Event::Finished(id));
        self.remove_if_over(id);
        Ok(())
    }

    fn handle_credit(&mut self, id: FlowId, credit: Credit) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.handle_credit(credit);
        if flow.queued() > 0 {
            self.schedule.activate(flow.contact, id);
        }
        if std::mem::take(&mut flow.is_starved) {
            self.readable.push_back(id);
        }
    }

    fn handle_poll(&mut self, poll: Poll) -> Result<(), SessionError> {
        self.acknowledge(poll.records)?;
        self.raise_grant(poll.bytes);
        Ok(())
    }

    /// Whether a `POLL` is worth its record now.
    pub(super) fn is_poll_due(&self, now: Time) -> bool {
        self.received.records - self.received.polled_records >= POLL_RECORDS
            || self.received.taken + SESSION_WINDOW >= self.received.grant + POLL_BYTES
            || self.received.poll_due.is_some_and(|due| due <= now)
    }

    /// The `POLL` to send, counted as sent.
    pub(super) fn take_poll(&mut self) -> Poll {
        self.received.polled_records = self.received.records;
        self.received.grant = self.received.taken + SESSION_WINDOW;
        self.received.poll_due = None;
        Poll { records: self.received.records, bytes: self.received.grant }
    }
}

fn control(events: &mut Vec<Event>, frame: ControlFrame) {
    events.push(Event::Control(frame));
}

const _: () = assert!(FLOW_WINDOW <= SESSION_WINDOW);
