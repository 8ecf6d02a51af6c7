//! Sessions on their carriers: records in, batches of records out, and how a session ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::ControlFrame;
use adit_proto::id::{ContactId, FlowId, SessionId, Side, Time};
use adit_proto::limits::{CARRIER_BUFFERS_LOW, CARRIER_NOTSENT, CARRIER_USER_TIMEOUT, HANDOFF_MAX};
use adit_proto::record::{KEY_UPDATE_LEN, RecordLayer};
use adit_proto::session::{self, SessionError};
use adit_ring::{Memory, Received, SendHow, Slice, SliceList, Socket};

use super::Pump;
use super::contacts::Contact;
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use crate::collector::{Collected, Intake};
use crate::distributor::Batch;
use crate::handoff::{Carrier, Down, Event, SessionKey, SessionReport};

/// The least time between two runs of a session's timer.
const TIMER_STEP: Duration = Duration::from_millis(5);
/// The same while the carrier takes its time: what is due goes when it is free.
const TIMER_STEP_BUSY: Duration = Duration::from_millis(100);
/// How long a closed session may take to say goodbye.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A session, its carrier, and what belongs to them.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) key: SessionKey,
    /// Whom the session is with, for reports.
    name: Arc<str>,
    pub(super) session: session::Session<Memory>,
    pub(super) contacts: BTreeMap<ContactId, Contact>,
    pub(super) flows: BTreeMap<FlowId, Slot>,
    pub(super) flows_failed: u64,
    socket: Socket,
    remote: String,
    records: RecordLayer,
    intake: Intake,
    batch: Batch,
    is_sending: bool,
    is_to_send: bool,
    /// No new flows; the session ends with the last one.
    pub(super) is_draining: bool,
    /// The session ends once the carrier has taken what is queued.
    is_closing: bool,
    /// The other end's parting words.
    farewell: Option<String>,
    timer: Option<Time>,
}

impl Tunnel {
    pub(super) fn report(&self) -> SessionReport {
        let counters = self.session.counters();
        SessionReport {
            key: self.key.0,
            name: self.name.to_string(),
            id: self.session.id().to_string(),
            carrier: self.remote.clone(),
            round_trip_us: u64::try_from(self.session.round_trip().as_micros()).unwrap_or(0),
            flows: self.flows.len(),
            flows_opened: counters.flows_opened,
            flows_failed: self.flows_failed,
            bytes_sent: counters.bytes_sent,
            bytes_received: counters.bytes_received,
            records_retained: self.session.records_retained(),
            bytes_waiting: self.session.bytes_waiting(),
        }
    }
}

/// A session's wire name: random, since the other end is to present it when it resumes.
fn random_id() -> SessionId {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("invariant: the system's random source works");
    SessionId(id)
}

impl Pump {
    pub(super) fn start(&mut self, key: SessionKey, side: Side, name: Arc<str>, carrier: Carrier) {
        let socket = Socket::from(carrier.stream);
        // Without these the carrier works, only less well; the sockets are the kernel's own.
        socket.set_nodelay().ok();
        socket.set_notsent_lowat(CARRIER_NOTSENT).ok();
        socket.set_user_timeout(CARRIER_USER_TIMEOUT).ok();
        let id = if side == Side::Relay { random_id() } else { SessionId::NONE };
        let slot = self.tunnels.insert(Tunnel {
            key,
            name,
            session: session::Session::new(side, id, self.now),
            contacts: BTreeMap::new(),
            flows: BTreeMap::new(),
            flows_failed: 0,
            socket,
            remote: carrier.remote.to_string(),
            records: carrier.records,
            intake: Intake::default(),
            batch: Batch::new(),
            is_sending: false,
            is_to_send: false,
            is_draining: false,
            is_closing: false,
            farewell: None,
            timer: None,
        });
        self.tunnels_by_key.insert(key, slot);
        self.take_leftover(slot, carrier.leftover);
        self.arm_carrier(slot);
        self.schedule_send(slot);
    }

    fn take_leftover(&mut self, slot: Slot, leftover: Vec<u8>) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let Tunnel { intake, records, session, .. } = tunnel;
        let (collected, result) = intake.handle_leftover(leftover, records, session, self.now);
        self.handle_collected(slot, collected, result);
    }

    pub(super) fn tunnel_of(&mut self, key: SessionKey) -> Option<(Slot, &mut Tunnel)> {
        let slot = *self.tunnels_by_key.get(&key)?;
        Some((slot, self.tunnels.get_mut(slot)?))
    }

    pub(super) fn arm_carrier(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let token = slot.token(Purpose::CarrierReceive);
        self.ring.recv(&tunnel.socket, self.groups.carriers, 1, token);
    }

    pub(super) fn handle_carrier_received(&mut self, slot: Slot, result: io::Result<Received>) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let received = match result {
            Ok(received) => received,
            Err(error) if is_dry(&error) => return self.carriers_dry.push(slot),
            Err(error) => return self.end(slot, Down::Lost(error.to_string())),
        };
        let Some(buffer) = received.into_iter().next() else {
            return self.end(slot, Down::Lost("the other end closed it".into()));
        };
        let Tunnel { intake, records, session, .. } = tunnel;
        let (collected, result) = intake.handle_received(buffer, records, session, self.now);
        self.arm_carrier(slot);
        self.handle_collected(slot, collected, result);
    }

    fn handle_collected(&mut self, slot: Slot, collected: Collected, result: Result<(), Down>) {
        for event in collected.events {
            self.handle_session_event(slot, event, &collected.memory);
        }
        if let Err(why) = result {
            self.end(slot, why);
        }
        self.wake_readable(slot);
        self.schedule_send(slot);
    }

    fn handle_session_event(&mut self, slot: Slot, event: session::Event, memory: &Rc<Memory>) {
        match event {
            session::Event::Data(flow, range) => {
                self.distribute(slot, flow, Slice::from_memory(memory, range));
            }
            session::Event::Opened(flow, open) => self.dial(slot, flow, &open),
            session::Event::Accepted(_) => {}
            session::Event::Finished(flow) => self.finish_flow(slot, flow),
            session::Event::Reset(flow, reason) => self.reset_flow(slot, flow, reason),
            session::Event::Up(id) => self.handle_up(slot, id),
            session::Event::Control(frame) => self.handle_control(slot, frame),
        }
    }

    fn handle_up(&mut self, slot: Slot, id: SessionId) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let session = tunnel.key;
        self.emit(Event::Up { session, id });
    }

    fn handle_control(&mut self, slot: Slot, frame: ControlFrame) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if let ControlFrame::Goaway(goaway) = &frame {
            tunnel.farewell = Some(goaway.text.clone());
        }
        if self.unsent.len() >= HANDOFF_MAX {
            return self.end(slot, Down::Broken("it asks more than can be answered".into()));
        }
        let session = tunnel.key;
        self.emit(Event::Frame { session, frame });
    }

    /// The tunnel may have something to send.
    pub(super) fn schedule_send(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if !std::mem::replace(&mut tunnel.is_to_send, true) {
            self.tunnels_to_send.push(slot);
        }
    }

    /// Sends one batch on the carrier, if none is under way and there is something to send.
    pub(super) fn send_carrier(&mut self, slot: Slot) {
        let mut slices = self.take_slices();
        let now = self.clock();
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return self.keep_slices(slices) };
        tunnel.is_to_send = false;
        if tunnel.is_sending {
            return self.keep_slices(slices);
        }
        let mut events = Vec::new();
        if let Err(error) = tunnel.seal_batch(now, &mut slices, &mut events) {
            self.keep_slices(slices);
            return self.end(slot, Down::Broken(error.to_string()));
        }
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if slices.is_empty() {
            let is_over = tunnel.is_closing || tunnel.is_draining && tunnel.has_drained();
            self.keep_slices(slices);
            if is_over {
                return self.end(slot, Down::Closed);
            }
        } else {
            tunnel.is_sending = true;
            let token = slot.token(Purpose::CarrierSend);
            self.ring.send(&tunnel.socket, slices, SendHow::Whole, token);
        }
        for event in events {
            if let session::Event::Up(id) = event {
                self.handle_up(slot, id);
            }
        }
        self.wake_readable(slot);
        self.set_session_timer(slot);
    }

    pub(super) fn handle_carrier_sent(
        &mut self,
        slot: Slot,
        result: io::Result<usize>,
        slices: SliceList,
    ) {
        let asked: usize = slices.iter().map(|slice| slice.len()).sum();
        self.keep_slices(slices);
        let now = self.clock();
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        tunnel.is_sending = false;
        match result {
            Ok(sent) if sent == asked => {
                tunnel.batch.handle_sent(now);
                self.schedule_send(slot);
            }
            Ok(_) => self.end(slot, Down::Lost("it was closed within a record".into())),
            Err(error) => self.end(slot, Down::Lost(error.to_string())),
        }
    }

    pub(super) fn send_control(&mut self, key: SessionKey, frame: ControlFrame) {
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        tunnel.session.handle_control(frame);
        self.schedule_send(slot);
    }

    pub(super) fn drain(&mut self, key: SessionKey) {
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        if std::mem::replace(&mut tunnel.is_draining, true) {
            return;
        }
        tunnel.session.handle_goaway("it drains");
        let contacts: BTreeSet<ContactId> = tunnel.contacts.keys().copied().collect();
        for contact in contacts {
            self.withdraw(key, contact);
        }
        self.schedule_send(slot);
    }

    pub(super) fn close(&mut self, key: SessionKey, why: &str) {
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        if !tunnel.session.is_up() || tunnel.is_closing {
            return self.end(slot, Down::Closed);
        }
        tunnel.is_closing = true;
        tunnel.session.handle_close(why);
        self.let_go(slot);
        self.timers.set(self.now + CLOSE_MAX, Timer::Close(slot));
        self.schedule_send(slot);
    }

    pub(super) fn handle_session_timeout(&mut self, slot: Slot) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.timer.is_none_or(|set| now < set) {
            // An earlier timer has taken this one's place.
            return;
        }
        tunnel.timer = None;
        match tunnel.session.handle_timeout(now) {
            Ok(()) => self.schedule_send(slot),
            Err(SessionError::Silent) => self.end(slot, Down::Silent),
            Err(error) => self.end(slot, Down::Lost(error.to_string())),
        }
        self.set_session_timer(slot);
    }

    fn set_session_timer(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        // What is due now waits for the carrier to be free; the timer must not spin meanwhile.
        let step = if tunnel.is_sending { TIMER_STEP_BUSY } else { TIMER_STEP };
        let due = tunnel.session.poll_timeout().max(self.now + step);
        if tunnel.timer.is_none_or(|set| due < set) {
            tunnel.timer = Some(due);
            self.timers.set(due, Timer::Session(slot));
        }
    }

    /// Copies what waits for full sockets out of the receive buffers when those become scarce.
    pub(super) fn relieve_receive_buffers(&mut self) {
        if self.ring.pool(self.groups.carriers).free() >= CARRIER_BUFFERS_LOW {
            return;
        }
        for slot in std::mem::take(&mut self.flows_blocked) {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.copy_out();
            }
        }
    }

    /// Lets go of the session's flows and contact points. Flows that have ended at both ends still
    /// hand out what has come; the others are reset.
    fn let_go(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let flows = std::mem::take(&mut tunnel.flows);
        let contacts = std::mem::take(&mut tunnel.contacts);
        for flow in flows.into_values() {
            if !self.only_flushes(flow) {
                self.drop_flow(flow, true);
            }
        }
        contacts.into_values().for_each(|contact| self.drop_contact(contact));
    }

    /// Ends the session: its flows are reset, its carrier closed, its key is free.
    pub(super) fn end(&mut self, slot: Slot, why: Down) {
        self.let_go(slot);
        let Some(tunnel) = self.tunnels.remove(slot) else { return };
        self.tunnels_by_key.remove(&tunnel.key);
        // The last completion closes the descriptor. What the kernel has queued is still sent.
        tunnel.socket.shutdown_both().ok();
        self.ring.cancel(&tunnel.socket);
        let why = match (tunnel.farewell, why) {
            (Some(text), Down::Lost(_)) => Down::Goaway(text),
            (_, why) => why,
        };
        self.emit(Event::Down { session: tunnel.key, why });
    }
}

impl Tunnel {
    /// Every flow has ended, and the other end has all of it.
    fn has_drained(&self) -> bool {
        self.flows.is_empty() && self.session.flows() == 0 && self.session.records_retained() == 0
    }

    /// Seals what is to be sent next into `slices`.
    fn seal_batch(
        &mut self,
        now: Time,
        slices: &mut SliceList,
        events: &mut Vec<session::Event>,
    ) -> Result<(), adit_proto::record::SealError> {
        if self.records.key_update_due() {
            let mut update = vec![0; KEY_UPDATE_LEN];
            let len = self.records.key_update(false, &mut update)?;
            update.truncate(len);
            slices.push(Slice::from(update));
        }
        let mut sealed = Vec::new();
        let bytes_max = self.batch.bytes_max();
        let sealer = &mut self.records.sealer;
        self.session.poll_records(bytes_max, now, sealer, &mut sealed, events)?;
        slices.extend(sealed.iter().map(|s| Slice::from_memory(&s.memory, 0..s.len)));
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.batch.handle_started(bytes, now);
        Ok(())
    }
}

/// Whether the group of buffers was empty: a state, not an error.
pub(super) fn is_dry(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}
