//! The pump: one thread, one ring, one loop. It owns sessions and everything that belongs to
//! them: carriers, listeners, flows.
//!
//! A turn:
//!
//! 1. reap completions: the collector takes in, the session decides, the distributor hands out;
//! 2. take commands from the control plane;
//! 3. run the timers that are due;
//! 4. send: each flow's socket what waits for it, each carrier one batch;
//! 5. submit everything at once and wait.
//!
//! **Architecture Invariant:** a pump never blocks but in step 5, takes no lock, and never waits
//! for the control plane.

mod associating;
mod associations;
mod carriers;
mod contacts;
mod echoes;
mod flows;
mod greetings;
mod inlets;
mod measures;
mod meter;
mod opening;
mod owners;
mod paths;
mod relief;
mod sessions;
mod slots;
mod source_table;
mod story;
mod timers;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::thread;
use std::time::Duration;

use adit_proto::id::Time;
use adit_proto::limits::{
    CARRIER_BUFFER, CARRIER_BUFFERS, CARRIER_BUFFERS_PUBLISHED, FLOW_SLOTS, FLOW_SLOTS_PUBLISHED,
    MESSAGE_BUFFERS, MESSAGE_BUFFERS_PUBLISHED, MESSAGE_BYTES_MAX, PAYLOAD_MAX, RECORD_TRAILER,
    SLOT_HEADROOM, TURN_COMPLETIONS_MAX,
};
use adit_ring::{
    Completion, Features, Group, Layout, MESSAGE_ROOM, Message, Refusal, Ring, SliceList, Socket,
    Token,
};
use crossbeam::channel::bounded;
use nix::time::ClockId;

use crate::collector::CARRIER_HEADROOM;
use crate::handoff::{
    Command, Down, Event, EventSender, PumpEnd, PumpHandle, SessionKey, crossing,
};
use crate::key::PublicKey;
use associations::Association;
use carriers::CarrierSocket;
use contacts::{Door, Listener};
use flows::FlowSocket;
use inlets::Inlet;
use measures::Measures;
use owners::Owner;
use paths::{PathSocket, Paths};
use sessions::Tunnel;
use slots::{Purpose, Slot, Slots};
use story::Teller;
use timers::{Openings, Timer, Timers};
use upgrade::Standing;

pub use adit_ring::probe;

/// The longest that a pump sleeps when nothing is due. No wake-up is expected to be lost.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// With so many slots to be had, it is worth arming.
const SLOTS_TO_ARM: usize = FLOW_SLOTS_PUBLISHED as usize / 2;

/// A pump's state. It never leaves its thread.
#[derive(Debug)]
struct Pump {
    ring: Ring,
    groups: Groups,
    end: PumpEnd,
    /// Events that did not fit into the channel, oldest first.
    unsent: VecDeque<Event>,
    /// Counts how often the control plane had everything.
    caught_up: u64,
    now: Time,
    timers: Timers,
    openings: Openings,
    tunnels: Slots<Tunnel>,
    tunnels_by_key: BTreeMap<SessionKey, Slot>,
    /// At the relay. As many as there are keys that it lets in.
    owners: BTreeMap<PublicKey, Owner>,
    carriers: Slots<CarrierSocket>,
    flows: Slots<FlowSocket>,
    listeners: Slots<Listener>,
    associations: Slots<Association>,
    /// When it is looked whether an association is silent.
    idle: Openings,
    inlets: Slots<Inlet>,
    paths: Paths,
    /// Whose turn to send it is.
    tunnels_to_send: Vec<Slot>,
    flows_to_send: Vec<Slot>,
    associations_to_send: Vec<Slot>,
    /// UDP sockets that found no buffer.
    messages_dry: Vec<(Purpose, Slot)>,
    /// What could not be armed because a group was dry.
    carriers_dry: Vec<Slot>,
    /// Of another process, which nobody goes on with.
    carriers_left: Vec<Socket>,
    flows_dry: VecDeque<Slot>,
    /// Flows whose sockets are full while they hold slices of receive buffers.
    flows_blocked: BTreeSet<Slot>,
    slice_lists: Vec<SliceList>,
    measures: Measures,
    teller: Teller,
    standing: Standing,
    trim_due: Time,
    is_thaw_due: bool,
    is_stopping: bool,
}

#[derive(Clone, Copy, Debug)]
struct Groups {
    carriers: Group,
    flows: Group,
    messages: Group,
}

/// Starts a pump in a thread of its own; its events go to `events`.
///
/// # Errors
/// When the kernel refuses the ring or its buffers, with the cure.
pub fn spawn(features: Features, events: EventSender) -> Result<PumpHandle, Refusal> {
    let (sender, receiver) = bounded(1);
    // The ring belongs to the thread that creates it.
    let body = move || match Pump::new(features, events) {
        Ok((mut pump, handle)) => {
            sender.send(Ok(handle)).ok();
            pump.run();
        }
        Err(refusal) => {
            sender.send(Err(refusal)).ok();
        }
    };
    thread::Builder::new().name("pump".into()).spawn(body).map_err(Refusal::Other)?;
    receiver.recv().unwrap_or_else(|_| Err(Refusal::Other(io::ErrorKind::Other.into())))
}

impl Pump {
    fn new(features: Features, events: EventSender) -> Result<(Self, PumpHandle), Refusal> {
        let mut ring = Ring::new(features)?;
        let carriers = ring.add_group(Layout {
            headroom: CARRIER_HEADROOM,
            payload: CARRIER_BUFFER,
            tailroom: 0,
            buffers: CARRIER_BUFFERS,
            published: CARRIER_BUFFERS_PUBLISHED,
        })?;
        let flows = ring.add_group(Layout {
            headroom: SLOT_HEADROOM,
            payload: PAYLOAD_MAX,
            tailroom: RECORD_TRAILER,
            buffers: FLOW_SLOTS,
            published: FLOW_SLOTS_PUBLISHED,
        })?;
        let messages = ring.add_group(Layout {
            headroom: 0,
            payload: MESSAGE_ROOM + MESSAGE_BYTES_MAX,
            tailroom: 0,
            buffers: MESSAGE_BUFFERS,
            published: MESSAGE_BUFFERS_PUBLISHED,
        })?;
        let (handle, end) = crossing(ring.waker(), events);
        let pump = Self {
            ring,
            groups: Groups { carriers, flows, messages },
            end,
            unsent: VecDeque::new(),
            caught_up: 0,
            now: Time::default(),
            timers: Timers::default(),
            openings: Openings::default(),
            tunnels: Slots::default(),
            tunnels_by_key: BTreeMap::new(),
            owners: BTreeMap::new(),
            carriers: Slots::default(),
            flows: Slots::default(),
            listeners: Slots::default(),
            associations: Slots::default(),
            idle: Openings::default(),
            inlets: Slots::default(),
            paths: Paths::default(),
            tunnels_to_send: Vec::new(),
            flows_to_send: Vec::new(),
            associations_to_send: Vec::new(),
            messages_dry: Vec::new(),
            carriers_dry: Vec::new(),
            carriers_left: Vec::new(),
            flows_dry: VecDeque::new(),
            flows_blocked: BTreeSet::new(),
            slice_lists: Vec::new(),
            measures: Measures::default(),
            teller: Teller::default(),
            standing: Standing::default(),
            trim_due: Time::default(),
            is_thaw_due: false,
            is_stopping: false,
        };
        Ok((pump, handle))
    }

    fn run(&mut self) {
        while !self.has_ended() {
            self.now = self.clock();
            self.reap();
            // After reaping: that took the wake-ups back, so what they announced is looked for now.
            self.take_commands();
            self.run_timers();
            self.send();
            self.arm_dry();
            self.stand();
            self.send_events();
            if let Err(error) = self.ring.submit_and_wait(Some(self.wait())) {
                // The kernel takes no work any more: nothing here could go on.
                tracing::error!(%error, "the ring failed; the pump ends");
                return;
            }
        }
    }

    /// A pump that stands still ends as it is: what it has may be another process's.
    fn has_ended(&self) -> bool {
        self.is_stopping && (self.is_still() || self.tunnels.is_empty())
    }

    /// Handles completions, up to a bound: what is left ends the next wait at once.
    fn reap(&mut self) {
        for _ in 0..TURN_COMPLETIONS_MAX {
            let Some((token, completion)) = self.ring.next_completion() else { return };
            self.handle_completion(token, completion);
        }
    }

    /// The time that goes on while the machine is suspended, as the other end's does.
    fn clock(&self) -> Time {
        let now = ClockId::CLOCK_BOOTTIME.now().expect("invariant: Linux has CLOCK_BOOTTIME");
        Time::default() + Duration::from(now)
    }

    fn wait(&self) -> Duration {
        if !self.unsent.is_empty() {
            return Duration::from_millis(1);
        }
        if let Some(wait) = self.wait_still() {
            return wait;
        }
        let is_work_left = !self.tunnels_to_send.is_empty()
            || !self.flows_to_send.is_empty()
            || !self.messages_dry.is_empty();
        if is_work_left || self.can_arm_flows() && !self.flows_dry.is_empty() {
            return Duration::ZERO;
        }
        let dues = [self.timers.next_due(), self.openings.next_due(), self.idle.next_due()];
        let due = dues.into_iter().flatten().min().map(|due| due.since(self.clock()));
        // Completions are never left unreaped here, so it is safe to sleep.
        due.unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }

    fn take_commands(&mut self) {
        loop {
            match self.end.poll_command() {
                Ok(Some(command)) => self.handle_command(command),
                Ok(None) => return,
                Err(_gone) => return self.stop(),
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Carry { side, arrival, carrier } => self.carry(side, arrival, *carrier),
            Command::Doubt { session } => self.doubt(session),
            Command::Send { session, frame } => self.send_control(session, frame),
            Command::Serve { session, contact, peer, service } => {
                self.serve(session, contact, peer, service);
            }
            Command::OfferPaths(socket) => self.offer_paths(socket),
            Command::Echo(echo) => self.echo_packets(&echo),
            Command::EndEcho(id) => self.end_echo(id),
            Command::Listen { session, contact, peer, socket, to, sources } => {
                self.listen(session, Door { contact, to, peer, sources }, socket);
            }
            Command::Admit { session, contact, sources } => self.admit(session, contact, sources),
            Command::Open { session, open, peer, stream, listening } => {
                self.open_for(session, open, &peer, stream.into(), listening);
            }
            Command::Answer { session, flow, answer } => self.answer(session, flow, answer),
            Command::Limit { session, quota, volume } => self.limit(session, quota, volume),
            Command::Moved => self.tell_moved(),
            Command::Withdraw { session, contact } => self.withdraw(session, contact),
            Command::Drain { session } => self.drain(session),
            Command::Close { session, reason, why } => self.close(session, reason, &why),
            Command::Pulse(asked) => self.emit(Event::Pulse(asked)),
            Command::Report(asked) => self.report(asked, None),
            Command::Measure(asked, filter) => {
                self.report(asked, Some(self.measures.snapshot(&filter)));
            }
            Command::ResetTimes => self.measures.reset(),
            Command::Freeze => self.freeze(),
            Command::Pack(pump) => self.pack(pump),
            Command::Restore { parcel, keeps_carriers } => self.restore(parcel, keeps_carriers),
            Command::Thaw => self.is_thaw_due = self.is_still(),
            Command::Stop => self.stop(),
        }
    }

    fn handle_completion(&mut self, token: Token, completion: Completion) {
        let Some((purpose, slot)) = Slot::from_token(token) else { return };
        match (purpose, completion) {
            (Purpose::CarrierReceive, Completion::Received(result)) => {
                self.handle_carrier_received(slot, result);
            }
            (Purpose::CarrierSend, Completion::Sent { result, slices }) => {
                self.handle_carrier_sent(slot, result, slices);
            }
            (Purpose::FlowConnect, Completion::Connected(result)) => {
                self.handle_connected(slot, result);
            }
            (Purpose::FlowReceive, Completion::Received(result)) => {
                self.handle_flow_received(slot, result);
            }
            (Purpose::FlowSend, Completion::Sent { result, slices }) => {
                self.handle_flow_sent(slot, result, slices);
            }
            (Purpose::FlowWritable, Completion::Writable(_)) => self.handle_flow_writable(slot),
            (Purpose::Accept, Completion::Accepted(result, more)) => {
                self.handle_accepted(slot, result, more);
            }
            (
                Purpose::InletReceive | Purpose::AssociationReceive | Purpose::PathReceive,
                Completion::Message { result, more },
            ) => self.handle_message(purpose, slot, result, more),
            (Purpose::AssociationSend, Completion::Sent { result, slices }) => {
                self.handle_association_sent(slot, result, slices);
            }
            (Purpose::PathSend, Completion::Sent { result, .. }) => {
                self.handle_path_sent(slot, result);
            }
            (purpose, completion) => {
                unreachable!("invariant: {completion:?} answers no {purpose:?}")
            }
        }
    }

    fn run_timers(&mut self) {
        if self.is_packed() {
            return;
        }
        self.give_up_openings();
        self.end_idle();
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Session(slot) => self.handle_session_timeout(slot),
                Timer::Greeting(slot) => self.handle_greeting_timeout(slot),
                Timer::Line(slot) => self.handle_line_timeout(slot),
                Timer::Flush(slot) => self.drop_flow(slot, true),
                Timer::Announced(slot) => self.handle_announced_timeout(slot),
                Timer::Accept(slot) => self.arm_accept(slot),
                Timer::Quota(slot, queue) => self.handle_paid(slot, queue),
                Timer::Close(slot) => self.end(slot, Down::Closed),
            }
        }
    }

    /// Flows first: what their sockets take becomes credit that the carriers then carry.
    fn send(&mut self) {
        self.relieve_memory();
        let mut flows = std::mem::take(&mut self.flows_to_send);
        flows.drain(..).for_each(|slot| self.send_flow(slot));
        let mut associations = std::mem::take(&mut self.associations_to_send);
        associations.drain(..).for_each(|slot| self.flush_association(slot));
        self.associations_to_send = associations;
        let mut tunnels = std::mem::take(&mut self.tunnels_to_send);
        for slot in tunnels.drain(..) {
            let is_more = self.send_packets(slot);
            self.send_carrier(slot);
            if is_more {
                self.schedule_send(slot);
            }
        }
        // What became due meanwhile waits for the next turn; the lists' memory is kept.
        flows.append(&mut self.flows_to_send);
        self.flows_to_send = flows;
        tunnels.append(&mut self.tunnels_to_send);
        self.tunnels_to_send = tunnels;
    }

    /// Arms again what found its group dry, as far as buffers have come back, and no more than the
    /// kernel can be lent at once.
    fn arm_dry(&mut self) {
        let free = self.ring.pool(self.groups.carriers).available();
        let count = free.min(CARRIER_BUFFERS_PUBLISHED.into()).min(self.carriers_dry.len());
        for slot in self.carriers_dry.drain(..count).collect::<Vec<_>>() {
            self.arm_carrier(slot);
        }
        for (purpose, slot) in std::mem::take(&mut self.messages_dry) {
            self.arm_messages(purpose, slot);
        }
        if self.can_arm_flows() {
            let count = usize::from(FLOW_SLOTS_PUBLISHED).min(self.flows_dry.len());
            for slot in self.flows_dry.drain(..count).collect::<Vec<_>>() {
                self.arm_dry_flow(slot);
            }
        }
    }

    /// Takes what a UDP socket brings.
    fn handle_message(
        &mut self,
        purpose: Purpose,
        slot: Slot,
        result: io::Result<Message>,
        more: bool,
    ) {
        let is_dry = matches!(&result, Err(error) if carriers::is_dry(error));
        match (purpose, result) {
            (Purpose::InletReceive, Ok(message)) => self.handle_called(slot, &message),
            (Purpose::AssociationReceive, Ok(message)) => self.collect(slot, &message),
            (_, Ok(message)) => self.handle_packets(slot, message),
            // One that stands still has called it back.
            (Purpose::PathReceive, Err(error)) if !is_dry && !self.is_still() => {
                self.handle_path_receive_error(slot, &error);
            }
            // That nobody listens at the other end is nothing that lasts: the socket goes on.
            (_, Err(_)) => {}
        }
        if more {
            return;
        }
        if is_dry {
            self.messages_dry.push((purpose, slot));
        } else {
            self.arm_messages(purpose, slot);
        }
    }

    /// Lets a UDP socket bring what comes, if it is still there.
    fn arm_messages(&mut self, purpose: Purpose, slot: Slot) {
        let socket = match purpose {
            Purpose::InletReceive => self.inlets.get(slot).map(|inlet| &inlet.socket),
            Purpose::AssociationReceive => {
                self.associations.get(slot).and_then(Association::own_socket)
            }
            _ => self.paths.sockets.get(slot).map(PathSocket::socket),
        };
        if let Some(socket) = socket.filter(|_| !self.is_still()) {
            self.ring.recv_messages(socket, self.groups.messages, slot.token(purpose));
        }
    }

    /// Whether flows that found no slot may be armed again.
    fn can_arm_flows(&self) -> bool {
        self.ring.pool(self.groups.flows).available() >= SLOTS_TO_ARM
    }

    fn emit(&mut self, event: Event) {
        self.unsent.push_back(event);
    }

    fn send_events(&mut self) {
        while let Some(event) = self.unsent.pop_front() {
            if let Some(event) = self.end.send(event) {
                self.unsent.push_front(event);
                return;
            }
        }
        self.caught_up += 1;
    }

    fn take_slices(&mut self) -> SliceList {
        self.slice_lists.pop().unwrap_or_default()
    }

    fn keep_slices(&mut self, mut slices: SliceList) {
        slices.clear();
        if self.slice_lists.len() < 64 {
            self.slice_lists.push(slices);
        }
    }
}
