//! Sessions: what belongs to one, what its events mean, and how it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::{ControlFrame, GoawayReason, Open, Protocol};
use adit_proto::id::{ContactId, FlowId, Time};
use adit_proto::limits::EVENTS_WAITING_MAX;
use adit_proto::session::{self, SessionError};
use adit_ring::{Memory, Slice, Target};
use serde::{Deserialize, Serialize};

use super::Pump;
use super::carriers::Role;
use super::contacts::Contact;
use super::measures::InFlight;
use super::meter::{Queue, SharedMeter};
use super::paths::PathState;
use super::slots::Slot;
use super::timers::Timer;
use crate::collector::broken;
use crate::handoff::{
    Asked, DatagramReport, Down, Event, Report, Service, SessionKey, SessionReport, Times,
};
use crate::key::PublicKey;

/// The least time between two runs of a session's timer.
const TIMER_STEP: Duration = Duration::from_millis(5);
/// The same while the carrier takes its time: what is due goes when it is free.
const TIMER_STEP_BUSY: Duration = Duration::from_millis(100);
/// How long a closed session may take to say goodbye.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A session, its carriers, and what belongs to them.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) key: SessionKey,
    /// Who is at the other end.
    owner: PublicKey,
    /// Whom the session is with, for reports.
    pub(super) name: Arc<str>,
    pub(super) session: session::Session<Memory>,
    pub(super) contacts: BTreeMap<ContactId, Contact>,
    pub(super) flows: BTreeMap<FlowId, Slot>,
    pub(super) associations: HashMap<FlowId, Slot>,
    /// Its datagram path.
    pub(super) path: PathState,
    /// Whether it is to have one.
    pub(super) has_path: bool,
    /// Datagrams that ended here.
    pub(super) drops: Drops,
    pub(super) flows_failed: u64,
    pub(super) flows_forbidden: u64,
    pub(super) flows_over_quota: u64,
    /// What the owner's sessions together may use.
    pub(super) meter: SharedMeter,
    /// Flows that wait until their bytes are paid for.
    pub(super) unpaid: BTreeMap<Queue, VecDeque<Slot>>,
    /// What flows are measured by whose contact point is away or has yet to come, by the peer's name.
    pub(super) meters_left: BTreeMap<Arc<str>, SharedMeter>,
    /// Flows that wait to be judged.
    pub(super) judged: usize,
    /// What the control plane was told for this session since it last had everything, and when that
    /// was.
    events_waiting: (u64, usize),
    /// What carries it at the moment.
    pub(super) carrier: Option<Slot>,
    /// What may carry it next: its greeting is under way.
    pub(super) candidate: Option<Slot>,
    pub(super) resumptions: u64,
    /// What the control plane was told last.
    pub(super) is_suspect: bool,
    /// Without a carrier: its memory is its own, and no longer the pump's slots.
    pub(super) is_moved_out: bool,
    pub(super) is_to_send: bool,
    /// No new flows; the session ends with the last one.
    pub(super) is_draining: bool,
    /// The session ends once the carrier has taken what is queued.
    pub(super) is_closing: bool,
    /// The last word is out.
    pub(super) has_parted: bool,
    /// The other end's parting words.
    pub(super) farewell: Option<(GoawayReason, String)>,
    /// Since when the other end is out of reach, or may be.
    pub(super) stalled_since: Option<Time>,
    /// What packets under way have of flows, to be measured when they are sent.
    pub(super) in_flight: InFlight,
    timer: Option<Time>,
}

/// Datagrams that a pump drops, by cause; the session counts its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drops {
    /// Longer than the buffer that they came into.
    pub(super) cut: u64,
    /// The owner's quota of bytes is used up.
    pub(super) over_quota: u64,
    /// Too many wait until it is judged where they lead.
    pub(super) unjudged: u64,
    /// Sends that the socket did not take.
    pub(super) unsent: u64,
    /// Too many callers came at once.
    pub(super) crowded: u64,
}

impl Tunnel {
    /// What serves flows of the contact point that was called, if it is of their protocol.
    pub(super) fn served(&self, open: &Open) -> Option<(Arc<str>, Service, SharedMeter)> {
        let Contact::Serve { peer, service, meter } = self.contacts.get(&open.contact)? else {
            return None;
        };
        let is_udp = matches!(service.target, Target::Udp(_));
        let is_asked = is_udp == (open.protocol == Protocol::Udp);
        is_asked.then(|| (Arc::clone(peer), service.clone(), Rc::clone(meter)))
    }

    pub(super) fn new(
        key: SessionKey,
        owner: PublicKey,
        name: Arc<str>,
        session: session::Session<Memory>,
        meter: SharedMeter,
    ) -> Self {
        Self {
            key,
            owner,
            name,
            session,
            contacts: BTreeMap::new(),
            flows: BTreeMap::new(),
            associations: HashMap::new(),
            path: PathState::default(),
            has_path: true,
            drops: Drops::default(),
            flows_failed: 0,
            flows_forbidden: 0,
            flows_over_quota: 0,
            meter,
            unpaid: BTreeMap::new(),
            meters_left: BTreeMap::new(),
            judged: 0,
            events_waiting: (0, 0),
            carrier: None,
            candidate: None,
            resumptions: 0,
            is_suspect: false,
            is_moved_out: false,
            is_to_send: false,
            is_draining: false,
            is_closing: false,
            has_parted: false,
            farewell: None,
            stalled_since: None,
            in_flight: InFlight::default(),
            timer: None,
        }
    }

    /// Who is at the other end.
    pub(super) fn owner(&self) -> PublicKey {
        self.owner
    }

    fn report_datagrams(&self, unread: u64) -> DatagramReport {
        let counters = self.session.datagram_counters();
        let path = self.session.path().map(|path| path.counters()).unwrap_or_default();
        let dropped = [
            ("aged", counters.dropped_aged),
            ("overflow", counters.dropped_overflow),
            ("ended", counters.dropped_ended),
            ("oversize", counters.dropped_oversize),
            ("unknown_flow", counters.dropped_unknown),
            ("incomplete", counters.dropped_incomplete),
            ("cut", self.drops.cut),
            ("quota", self.drops.over_quota),
            ("unjudged", self.drops.unjudged),
            ("unsent", self.drops.unsent),
            ("crowded", self.drops.crowded),
            ("unread", unread),
        ];
        let refused = [
            ("forged", path.forged),
            ("replayed", path.replayed),
            ("malformed", path.malformed),
            ("other_id", path.other_id),
        ];
        let counted = |causes: &[(&str, u64)]| {
            let counted = causes.iter().filter(|(_, count)| *count > 0);
            counted.map(|(cause, count)| ((*cause).to_owned(), *count)).collect()
        };
        let remote = self.session.path().and_then(|path| path.remote());
        DatagramReport {
            path: remote.map(|remote| remote.to_string()),
            packet_bytes: path.mtu,
            sent: counters.sent,
            received: counters.received,
            dropped: counted(&dropped),
            packets_refused: counted(&refused),
            path_losses: path.falls_back,
        }
    }

    /// Nothing is left to be done but to say goodbye, and that is said.
    pub(super) fn is_over(&self) -> bool {
        self.is_closing && !self.session.owes_control() || self.is_draining && self.has_drained()
    }

    /// One end has said goodbye, or is about to.
    pub(super) fn is_ending(&self) -> bool {
        self.is_closing || self.has_parted || self.farewell.is_some()
    }

    /// Every flow has ended, and the other end has all of it, unless it is out of reach.
    fn has_drained(&self) -> bool {
        let has_all = self.session.records_retained() == 0 || !self.session.is_carried();
        self.flows.is_empty()
            && self.associations.is_empty()
            && self.session.flows() == 0
            && has_all
    }
}

impl Pump {
    pub(super) fn tunnel_of(&mut self, key: SessionKey) -> Option<(Slot, &mut Tunnel)> {
        let slot = *self.tunnels_by_key.get(&key)?;
        Some((slot, self.tunnels.get_mut(slot)?))
    }

    pub(super) fn handle_session_event(
        &mut self,
        slot: Slot,
        event: session::Event,
        memory: &Rc<Memory>,
    ) {
        match event {
            session::Event::Data(flow, range) => {
                self.distribute(slot, flow, Slice::from_memory(memory, range));
            }
            session::Event::Datagrams { flow, segment, range } => {
                self.hand_out(slot, flow, segment.into(), Slice::from_memory(memory, range));
            }
            session::Event::Joined(flow, datagram) => {
                self.hand_out(slot, flow, 0, Slice::from(datagram));
            }
            session::Event::Opened(flow, open) => self.handle_opened(slot, flow, open),
            session::Event::Accepted(flow) => self.handle_flow_accepted(slot, flow),
            session::Event::Finished(flow) => self.finish_flow(slot, flow),
            session::Event::Reset(flow, reason) => self.reset_flow(slot, flow, reason),
            session::Event::Control(frame) => self.handle_control(slot, frame),
        }
    }

    fn handle_control(&mut self, slot: Slot, frame: ControlFrame) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if let ControlFrame::Goaway(goaway) = &frame {
            tunnel.farewell = Some((goaway.reason, goaway.text.clone()));
        }
        let session = tunnel.key;
        self.emit_bounded(slot, Event::Frame { session, frame });
    }

    /// Tells the control plane what the other end asks; one that asks faster than can be answered
    /// loses its session.
    pub(super) fn emit_bounded(&mut self, slot: Slot, event: Event) {
        let caught_up = self.caught_up;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let (since, waiting) = tunnel.events_waiting;
        let waiting = if since == caught_up { waiting + 1 } else { 1 };
        tunnel.events_waiting = (caught_up, waiting);
        if waiting > EVENTS_WAITING_MAX {
            return self.end(slot, Down::Broken("it asks more than can be answered".into()));
        }
        self.emit(event);
    }

    /// The tunnel may have something to send.
    pub(super) fn schedule_send(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if !std::mem::replace(&mut tunnel.is_to_send, true) {
            self.tunnels_to_send.push(slot);
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
        tunnel.session.handle_goaway(GoawayReason::Draining, "it drains");
        let contacts: BTreeSet<ContactId> = tunnel.contacts.keys().copied().collect();
        for contact in contacts {
            self.withdraw(key, contact);
        }
        let is_out_of_reach = |tunnel: &Tunnel| !tunnel.session.is_carried() && tunnel.is_over();
        if self.tunnels.get(slot).is_some_and(is_out_of_reach) {
            return self.end(slot, Down::Closed);
        }
        self.schedule_send(slot);
    }

    pub(super) fn close(&mut self, key: SessionKey, reason: GoawayReason, why: &str) {
        if let Some(&slot) = self.tunnels_by_key.get(&key) {
            return self.close_tunnel(slot, reason, why);
        }
        // A carrier that has not said yet which session it is for.
        let is_named = |role: &Role| matches!(role, Role::AwaitsHello(a) if a.session == key);
        let found = self.carriers.iter().find(|(_, carrier)| is_named(&carrier.role));
        if let Some(slot) = found.map(|(slot, _)| slot) {
            self.lose_carrier(slot, Down::Closed);
        }
    }

    pub(super) fn close_tunnel(&mut self, slot: Slot, reason: GoawayReason, why: &str) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if !tunnel.session.is_carried() || tunnel.is_closing {
            return self.end(slot, Down::Closed);
        }
        tunnel.is_closing = true;
        tunnel.session.handle_close(reason, why);
        self.let_go(slot);
        self.timers.set(self.now + CLOSE_MAX, Timer::Close(slot));
        self.schedule_send(slot);
    }

    /// Ends all sessions, and the pump when the last one has ended.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.is_stopping, true) || self.is_still() {
            return;
        }
        let keys: Vec<SessionKey> = self.tunnels_by_key.keys().copied().collect();
        for key in keys {
            self.close(key, GoawayReason::Ending, "the daemon ends");
        }
    }

    pub(super) fn handle_session_timeout(&mut self, slot: Slot) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.timer.is_none_or(|set| now < set) {
            // An earlier timer has taken this one's place.
            return;
        }
        tunnel.timer = None;
        match (tunnel.session.handle_timeout(now), tunnel.carrier) {
            (Ok(()), _) => self.schedule_send(slot),
            (Err(SessionError::Silent), Some(carrier)) => self.lose_carrier(carrier, Down::Silent),
            (Err(SessionError::Grace), _) => self.end(slot, Down::Grace),
            (Err(error), _) => self.end(slot, broken(error)),
        }
        self.check_suspect(slot);
        self.set_session_timer(slot);
    }

    pub(super) fn set_session_timer(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        // What is due now waits for the carrier to be free; the timer must not spin meanwhile.
        let carrier = tunnel.carrier.and_then(|carrier| self.carriers.get(carrier));
        let is_sending = carrier.is_some_and(|carrier| carrier.is_sending);
        let step = if is_sending { TIMER_STEP_BUSY } else { TIMER_STEP };
        let due = tunnel.session.poll_timeout().max(self.now + step);
        if tunnel.timer.is_none_or(|set| due < set) {
            tunnel.timer = Some(due);
            self.timers.set(due, Timer::Session(slot));
        }
    }

    /// Lets go of the session's flows and contact points. Flows that have ended at both ends still
    /// hand out what has come; the others are reset.
    pub(super) fn let_go(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let flows = std::mem::take(&mut tunnel.flows);
        let contacts = std::mem::take(&mut tunnel.contacts);
        let mut associations: Vec<Slot> =
            std::mem::take(&mut tunnel.associations).into_values().collect();
        associations.sort_unstable();
        flows.into_values().for_each(|flow| self.outlive(flow));
        associations.into_iter().for_each(|slot| self.end_association(slot, None));
        contacts.into_values().for_each(|contact| self.drop_contact(contact));
    }

    /// Ends the session: its flows are reset, its carriers closed, its key is free.
    pub(super) fn end(&mut self, slot: Slot, why: Down) {
        self.let_go(slot);
        let Some(tunnel) = self.tunnels.remove(slot) else { return };
        self.tunnels_by_key.remove(&tunnel.key);
        self.drop_path(tunnel.path);
        let now = self.now;
        // The stall that ends a session is the worst of them; a farewell in order is none.
        if let Some(since) = tunnel.stalled_since.filter(|since| *since < now) {
            self.measures.record_stall(&tunnel.name, now.since(since), now);
        }
        self.end_owned(tunnel.owner, slot);
        for carrier in tunnel.carrier.into_iter().chain(tunnel.candidate) {
            self.close_carrier(carrier);
        }
        self.emit(Event::Down { session: tunnel.key, why });
    }

    /// Datagrams that found the buffers of the session's contact points full.
    fn unread(&self, tunnel: &Tunnel) -> u64 {
        let drops = |contact: &Contact| match contact {
            Contact::Receive(slot) => {
                self.inlets.get(*slot).map_or(0, |inlet| inlet.socket.drops().into())
            }
            Contact::Serve { .. } | Contact::Listen(_) => 0,
        };
        tunnel.contacts.values().map(drops).sum()
    }

    /// What the pump holds, and what was measured where that was asked for.
    pub(super) fn report(&mut self, asked: Asked, times: Option<Vec<Times>>) {
        let groups = [self.groups.carriers, self.groups.flows, self.groups.messages];
        let pools = groups.map(|group| self.ring.pool(group));
        let report = Report {
            asked,
            memory_held: pools.iter().map(|pool| pool.held() * pool.stride()).sum(),
            memory_max: pools.iter().map(|pool| pool.buffers() * pool.stride()).sum(),
            sessions: self.tunnels.iter().map(|(_, tunnel)| self.report_session(tunnel)).collect(),
            contacts: self.measures.contacts(),
            times,
        };
        self.emit(Event::Report(report));
    }

    pub(super) fn report_session(&self, tunnel: &Tunnel) -> SessionReport {
        let counters = tunnel.session.counters();
        let carrier = tunnel.carrier.and_then(|carrier| self.carriers.get(carrier));
        SessionReport {
            key: tunnel.key.0,
            name: tunnel.name.to_string(),
            id: tunnel.session.id().to_string(),
            carrier: carrier.map(|carrier| carrier.remote.clone()).unwrap_or_default(),
            resumptions: tunnel.resumptions,
            datagrams: tunnel.report_datagrams(self.unread(tunnel)),
            round_trip_us: u64::try_from(tunnel.session.round_trip().as_micros()).unwrap_or(0),
            flows: tunnel.flows.len() + tunnel.associations.len(),
            flows_opened: counters.flows_opened,
            flows_failed: tunnel.flows_failed,
            flows_forbidden: tunnel.flows_forbidden,
            flows_over_quota: tunnel.flows_over_quota,
            bytes_sent: counters.bytes_sent,
            bytes_received: counters.bytes_received,
            records_retained: tunnel.session.records_retained(),
            bytes_waiting: tunnel.session.bytes_waiting(),
        }
    }
}
