//! Carriers: records in, batches of records out, and what becomes of one that is lost.

mod left;

use std::io;
use std::net::IpAddr;

use adit_proto::frame::Frame;
use adit_proto::id::Time;
use adit_proto::limits::{CARRIER_NOTSENT, CARRIER_USER_TIMEOUT, OPENING_MAX};
use adit_proto::record::{KEY_UPDATE_LEN, RecordLayer, SealError};
use adit_proto::session::{Departed, TransmitError, seal_greeting};
use adit_ring::{Received, SendHow, Slice, SliceList, Socket};

use super::Pump;
use super::sessions::{CLOSE_MAX, Tunnel};
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use crate::collector::{Collected, Intake, broken, shift};
use crate::distributor::Line;
use crate::handoff::{Arrival, Carrier, Down, Event, SessionKey};
pub(super) use left::CarrierLeft;

/// A line that is slow is mostly one that loses packets: this one does not take each for a sign of
/// congestion. Where the kernel has it not, the carrier works without.
const NARROW_CONGESTION_CONTROL: &str = "bbr";

/// One carrier's connection.
#[derive(Debug)]
pub(super) struct CarrierSocket {
    pub(super) role: Role,
    pub(super) remote: String,
    socket: Socket,
    records: RecordLayer,
    intake: Intake,
    line: Line,
    /// What the send under way has of flows, to be measured when it is complete.
    departed: Vec<Departed>,
    /// What was called back of the last send, while the pump stands still.
    called_back: SliceList,
    /// A send is under way, or the line is full.
    pub(super) is_sending: bool,
    /// It is the line that is waited for.
    is_full: bool,
}

/// What a carrier is for at the moment.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// At the relay: whose it is, until `HELLO` says which session it is for.
    AwaitsHello(Arrival),
    /// At the forwarder: `HELLO` was sent.
    AwaitsWelcome(Slot),
    /// It carries the session.
    Carries(Slot),
    /// At the relay: it was turned away, and is closed when it has been told why.
    Parting(SessionKey),
}

impl Pump {
    /// Takes a carrier over: it reads, and has [`OPENING_MAX`] for its greeting.
    pub(super) fn insert_carrier(&mut self, carrier: Carrier, role: Role) -> Slot {
        let socket = Socket::from(carrier.stream);
        // Without these the carrier works, only less well; the sockets are the kernel's own.
        socket.set_nodelay().ok();
        socket.set_notsent_lowat(CARRIER_NOTSENT).ok();
        socket.set_user_timeout(CARRIER_USER_TIMEOUT).ok();
        let slot = self.carriers.insert(CarrierSocket {
            role,
            remote: carrier.remote.to_string(),
            socket,
            records: carrier.records,
            intake: Intake::default(),
            line: Line::default(),
            departed: Vec::new(),
            called_back: SliceList::new(),
            is_sending: false,
            is_full: false,
        });
        self.timers.set(self.now + OPENING_MAX, Timer::Greeting(slot));
        self.arm_carrier(slot);
        slot
    }

    /// Takes the bytes that came with the carrier's handshake.
    pub(super) fn take_leftover(&mut self, slot: Slot, leftover: Vec<u8>) {
        let Some(carrier) = self.carriers.get_mut(slot) else { return };
        let (collected, result) = carrier.intake.handle_leftover(leftover, &mut carrier.records);
        self.handle_collected(slot, &collected, result);
    }

    pub(super) fn arm_carrier(&mut self, slot: Slot) {
        let is_still = self.is_still();
        let Some(carrier) = self.carriers.get(slot).filter(|_| !is_still) else { return };
        let token = slot.token(Purpose::CarrierReceive);
        self.ring.recv(&carrier.socket, self.groups.carriers, 1, token);
    }

    pub(super) fn handle_carrier_received(&mut self, slot: Slot, result: io::Result<Received>) {
        let is_still = self.is_still();
        let Some(carrier) = self.carriers.get_mut(slot) else { return };
        let received = match result {
            Ok(received) => received,
            Err(error) if is_dry(&error) => return self.carriers_dry.push(slot),
            Err(error) if is_still && is_called_back(&error) => return,
            Err(error) => return self.lose_carrier(slot, Down::Lost(error.to_string())),
        };
        let Some(buffer) = received.into_iter().next() else {
            return self.lose_carrier(slot, Down::Lost("the other end closed it".into()));
        };
        let (collected, result) = carrier.intake.handle_received(buffer, &mut carrier.records);
        self.arm_carrier(slot);
        self.handle_collected(slot, &collected, result);
    }

    /// The first record of a carrier is its greeting; the others are the session's.
    fn handle_collected(&mut self, slot: Slot, collected: &Collected, result: Result<(), Down>) {
        let mut contents = collected.contents.iter().cloned();
        let role = self.carriers.get(slot).map(|carrier| carrier.role.clone());
        if let Some(role @ (Role::AwaitsHello(_) | Role::AwaitsWelcome(_))) = role
            && let Some(first) = contents.next()
        {
            self.handle_greeting(slot, role, collected.content(first));
        }
        let Some(CarrierSocket { role: Role::Carries(tunnel), .. }) = self.carriers.get(slot)
        else {
            if let Err(why) = result {
                self.lose_carrier(slot, why);
            }
            return;
        };
        let tunnel = *tunnel;
        let handled = self.handle_records(tunnel, collected, contents);
        match (handled, result) {
            (Err(why), _) => return self.end(tunnel, why),
            // What is wrong with a carrier's bytes is the carrier's fault: the session goes on.
            (Ok(()), Err(why)) => self.lose_carrier(slot, why),
            (Ok(()), Ok(())) => self.check_suspect(tunnel),
        }
        self.wake_readable(tunnel);
        self.schedule_send(tunnel);
    }

    fn handle_records(
        &mut self,
        slot: Slot,
        collected: &Collected,
        contents: impl Iterator<Item = std::ops::Range<usize>>,
    ) -> Result<(), Down> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let mut events = Vec::new();
        let mut result = Ok(());
        for range in contents {
            let (first, by) = (events.len(), range.start);
            let content = collected.content(range);
            result = tunnel.session.handle_record(content, self.now, &mut events).map_err(broken);
            shift(events.get_mut(first..).unwrap_or_default(), by);
            if result.is_err() {
                break;
            }
            if let Some(since) = tunnel.stalled_since.take() {
                self.measures.record_stall(&tunnel.name, self.now.since(since), self.now);
            }
        }
        if let Some(time) = tunnel.session.poll_round_trip() {
            self.measures.record_round_trip(&tunnel.name, time, self.now);
        }
        for event in events {
            self.handle_session_event(slot, event, &collected.memory);
        }
        result
    }

    /// Sends a greeting as the first record of a carrier.
    pub(super) fn send_greeting(&mut self, slot: Slot, frame: &Frame<'_>) -> Result<(), SealError> {
        let Some(carrier) = self.carriers.get_mut(slot) else { return Ok(()) };
        let record = seal_greeting(frame, &mut carrier.records.sealer)?;
        carrier.is_sending = true;
        let token = slot.token(Purpose::CarrierSend);
        self.ring.send(&carrier.socket, vec![Slice::from(record)], SendHow::Whole, token);
        Ok(())
    }

    /// Sends one batch on the session's carrier, if none is under way and there is something to
    /// send.
    pub(super) fn send_carrier(&mut self, slot: Slot) {
        let mut slices = self.take_slices();
        let (now, is_still) = (self.clock(), self.is_still());
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return self.keep_slices(slices) };
        tunnel.is_to_send = false;
        let carried = tunnel.carrier.and_then(|at| Some((at, self.carriers.get_mut(at)?)));
        let Some((at, carrier)) = carried.filter(|(_, carrier)| !carrier.is_sending && !is_still)
        else {
            self.keep_slices(slices);
            return self.set_session_timer(slot);
        };
        if carrier.records.is_used_up() {
            self.keep_slices(slices);
            let why = "its keys, which another process has agreed on, are used up";
            return self.lose_carrier(at, Down::Lost(why.into()));
        }
        carrier.follow_line(tunnel, now);
        if let Some(wait) = carrier.line.poll_full() {
            (carrier.is_sending, carrier.is_full) = (true, true);
            self.timers.set(now + wait, Timer::Line(at));
            return self.keep_slices(slices);
        }
        if let Err(error) = carrier.seal_batch(tunnel, now, &mut slices) {
            self.keep_slices(slices);
            return self.end(slot, broken(error));
        }
        tunnel.session.take_departed(&mut carrier.departed);
        self.measures.record_queued(&carrier.departed, now);
        if slices.is_empty() {
            if tunnel.is_over() {
                self.part(slot);
            }
            self.keep_slices(slices);
        } else {
            carrier.is_sending = true;
            self.ring.send(&carrier.socket, slices, SendHow::Whole, at.token(Purpose::CarrierSend));
        }
        self.wake_readable(slot);
        self.set_session_timer(slot);
    }

    /// All is said: no more comes from this end, and the other is given time to have it. Closing
    /// over what it still sends would reset the connection, and that may overtake the last word.
    fn part(&mut self, slot: Slot) {
        let carrier = self.tunnels.get_mut(slot).and_then(|tunnel| {
            let is_first = !std::mem::replace(&mut tunnel.has_parted, true);
            self.carriers.get(tunnel.carrier.filter(|_| is_first)?)
        });
        if let Some(carrier) = carrier {
            carrier.socket.shutdown_write().ok();
            self.timers.set(self.now + CLOSE_MAX, Timer::Close(slot));
        }
    }

    pub(super) fn handle_carrier_sent(
        &mut self,
        slot: Slot,
        result: io::Result<usize>,
        slices: SliceList,
    ) {
        let is_still = self.is_still();
        let asked: usize = slices.iter().map(|slice| slice.len()).sum();
        let Some(carrier) = self.carriers.get_mut(slot) else { return self.keep_slices(slices) };
        carrier.is_sending = false;
        let is_called_back = match &result {
            Ok(sent) => *sent < asked,
            Err(error) => is_called_back(error),
        };
        if is_still && is_called_back {
            carrier.called_back = left::rest(slices, result.unwrap_or(0));
            return;
        }
        match result {
            Ok(sent) if sent == asked => {
                self.measures.record_departed(&mut carrier.departed, self.now);
                self.handle_batch_sent(slot);
            }
            Ok(_) => {
                self.lose_carrier(slot, Down::Lost("it was closed within a record".into()));
            }
            Err(error) => self.lose_carrier(slot, Down::Lost(error.to_string())),
        }
        self.keep_slices(slices);
    }

    fn handle_batch_sent(&mut self, slot: Slot) {
        let Some(carrier) = self.carriers.get(slot) else { return };
        match carrier.role {
            Role::Carries(tunnel) => self.schedule_send(tunnel),
            Role::Parting(_) => {
                carrier.socket.shutdown_write().ok();
            }
            Role::AwaitsHello(_) | Role::AwaitsWelcome(_) => {}
        }
    }

    pub(super) fn handle_line_timeout(&mut self, slot: Slot) {
        let Some(carrier) = self.carriers.get_mut(slot) else { return };
        if !std::mem::take(&mut carrier.is_full) {
            return;
        }
        carrier.is_sending = false;
        if let Role::Carries(tunnel) = carrier.role {
            self.schedule_send(tunnel);
        }
    }

    pub(super) fn handle_greeting_timeout(&mut self, slot: Slot) {
        let Some(carrier) = self.carriers.get(slot) else { return };
        if !matches!(carrier.role, Role::Carries(_)) {
            let seconds = OPENING_MAX.as_secs();
            self.lose_carrier(slot, Down::Lost(format!("no HELLO or WELCOME within {seconds} s")));
        }
    }

    /// The carrier is of no more use; its session waits for another.
    pub(super) fn lose_carrier(&mut self, slot: Slot, why: Down) {
        let Some(role) = self.carriers.get(slot).map(|carrier| carrier.role.clone()) else {
            return;
        };
        self.close_carrier(slot);
        match role {
            Role::AwaitsHello(Arrival { session, .. }) => {
                self.emit(Event::Dropped { session, why })
            }
            Role::AwaitsWelcome(tunnel) => self.handle_no_welcome(tunnel, why),
            Role::Carries(tunnel) => self.handle_carrier_lost(tunnel, why),
            Role::Parting(session) => {
                let why = Down::Lost("it named a session that another has superseded".into());
                self.emit(Event::Dropped { session, why });
            }
        }
    }

    /// Lets go of a carrier's connection; what the kernel has queued is still sent.
    pub(super) fn close_carrier(&mut self, slot: Slot) {
        if let Some(carrier) = self.carriers.remove(slot) {
            if let Role::AwaitsWelcome(_) = carrier.role {
                // A greeting that was given up must not arrive later and end a newer session.
                carrier.socket.set_reset_on_close().ok();
            }
            // The last completion closes the descriptor.
            carrier.socket.shutdown_both().ok();
            self.ring.cancel(&carrier.socket);
        }
    }
}

impl CarrierSocket {
    /// Seals what is to be sent next into `slices`.
    fn seal_batch(
        &mut self,
        tunnel: &mut Tunnel,
        now: Time,
        slices: &mut SliceList,
    ) -> Result<(), TransmitError> {
        if self.records.key_update_due() {
            let mut update = vec![0; KEY_UPDATE_LEN];
            let len = self.records.key_update(false, &mut update)?;
            update.truncate(len);
            slices.push(Slice::from(update));
        }
        let mut sealed = Vec::new();
        let bytes_max = self.line.send_max();
        tunnel.session.poll_records(bytes_max, now, &mut self.records.sealer, &mut sealed)?;
        slices.extend(sealed.iter().map(|s| Slice::from_memory(&s.memory, 0..s.len)));
        self.line.handle_given(slices.iter().map(|slice| slice.len()).sum());
        Ok(())
    }

    /// The other end's address.
    pub(super) fn remote_ip(&self) -> Option<IpAddr> {
        self.socket.peer_address().ok().map(|remote| remote.ip().to_canonical())
    }

    /// The most payload that one record should have.
    pub(super) fn record_max(&self) -> usize {
        self.line.record_max()
    }

    /// Looks at the line, and sets the kernel's part of it accordingly.
    fn follow_line(&mut self, tunnel: &Tunnel, now: Time) {
        if !self.line.is_sample_due(now) {
            return;
        }
        let Ok(sample) = self.socket.line() else { return };
        let was_narrow = self.line.is_narrow();
        if self.line.handle_sample(sample, tunnel.session.bytes_queued(), now) {
            self.socket.set_notsent_lowat(self.line.unsent_max()).ok();
            self.socket.set_pace_max(self.line.pace_max()).ok();
        }
        if self.line.is_narrow() && !was_narrow {
            let is_set = self.socket.set_congestion_control(NARROW_CONGESTION_CONTROL);
            tracing::debug!(remote = %self.remote, ?is_set, "a narrow line");
        }
    }
}

/// Whether an operation was called back.
pub(super) fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ECANCELED as i32)
}

/// Whether an operation was called back by a pump that stands still: one that a thread of the kernel waited
/// for is interrupted.
pub(super) fn is_called_back(error: &io::Error) -> bool {
    is_cancelled(error) || error.kind() == io::ErrorKind::Interrupted
}

/// Whether the group of buffers was empty: a state, not an error.
pub(super) fn is_dry(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}
