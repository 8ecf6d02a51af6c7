//! The world: virtual time, both ends, the carriers between them, and how the pumps use a session.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_proto::frame::{Frame, Hello};
use adit_proto::id::{FlowId, SessionId, Side, Time};
use adit_proto::limits::{GRACE, OPENING_MAX};
use adit_proto::record::{Opened, Opener, RecordError, TrafficKeyError};
use adit_proto::session::{Greeted, Session, SessionError, parse_greeting};

use crate::carrier::Carrier;
use crate::end::{End, Link};
use crate::keys::records;
use crate::mutation::Mutator;
use crate::oracle::{Cause, Oracle, Outcome, index};
use crate::plan::Plan;
use crate::random::Random;

/// What happens later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Dial,
    Connected(u32),
    /// The carrier's end reaches this side.
    Told(u32, Side),
    OpeningOver(u32, Side),
    Heal(u32, Side),
    Restart(Side),
    /// The far end's connect to its peer is done.
    Connect(Side, FlowId, u32),
    /// A peer reads.
    Take(Side, FlowId, u32),
    /// Somebody does something.
    Act,
    /// Something breaks.
    Fault,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    pub(crate) agenda: BTreeMap<(Time, u64), Task>,
    tasks: u64,
    pub(crate) carriers: BTreeMap<u32, Carrier>,
    carriers_made: u32,
    sessions_made: u32,
    /// When the forwarder said HELLO on each carrier, and when it was told of each session.
    hellos: BTreeMap<u32, Time>,
    starts: BTreeMap<SessionId, Time>,
    pub(crate) is_dialling: bool,
    /// Until then neither deeds nor faults are drawn.
    pub(crate) lull_until: Time,
    pub(crate) ends: [End; 2],
    pub(crate) oracle: Oracle,
    pub(crate) mutator: Mutator,
    /// A digest of all that happened.
    pub(crate) digest: u64,
}

impl World {
    pub(crate) fn new(plan: Plan, random: Random) -> Self {
        Self {
            random,
            plan,
            now: Time(1),
            agenda: BTreeMap::new(),
            tasks: 0,
            carriers: BTreeMap::new(),
            carriers_made: 0,
            sessions_made: 0,
            hellos: BTreeMap::new(),
            starts: BTreeMap::new(),
            is_dialling: false,
            lull_until: Time(0),
            ends: [End::new(Side::Forwarder), End::new(Side::Relay)],
            oracle: Oracle::default(),
            mutator: Mutator::default(),
            digest: 0,
        }
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[index(side)]
    }

    /// What the end's clock says.
    pub(crate) fn clock(&self, side: Side) -> Time {
        self.ends[index(side)].clock(self.now)
    }

    pub(crate) fn later(&mut self, delay: Duration, task: Task) {
        self.at(self.now + delay, task);
    }

    pub(crate) fn at(&mut self, at: Time, task: Task) {
        self.tasks += 1;
        self.agenda.insert((at, self.tasks), task);
    }

    /// Notes what happens, for the digest and for the eye.
    pub(crate) fn note(&mut self, what: &'static str, details: [u64; 2]) {
        for number in [self.now.0, details[0], details[1], what.len() as u64] {
            self.digest = crate::random::mix(self.digest ^ number);
        }
        if self.plan.is_told {
            eprintln!("{:>14.6} {what} {} {}", self.now.0 as f64 / 1e9, details[0], details[1]);
        }
    }

    /// Lets `time` pass.
    pub(crate) fn pass(&mut self, time: Duration) -> Outcome {
        let until = self.now + time;
        while let Some((at, next)) = self.next_event().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            match next {
                Next::Task(key) => {
                    let task = self.agenda.remove(&key).expect("invariant: it was just seen");
                    self.run(task)?;
                }
                Next::Arrival(carrier, side) => self.arrive(carrier, side)?,
                Next::Timer(side) => self.look(side)?,
            }
        }
        self.now = until;
        Ok(())
    }

    fn next_event(&self) -> Option<(Time, Next)> {
        let task = self.agenda.keys().next().map(|key| (key.0, Next::Task(*key)));
        let arrivals = self.carriers.iter().filter_map(|(carrier, state)| {
            let (at, side) = state.next_arrival()?;
            Some((at, Next::Arrival(*carrier, side)))
        });
        let timers =
            self.ends.iter().filter_map(|end| Some((end.next_look()?, Next::Timer(end.side))));
        task.into_iter().chain(arrivals).chain(timers).min_by_key(|(at, _)| *at)
    }

    fn run(&mut self, task: Task) -> Outcome {
        match task {
            Task::Dial => self.dial(),
            Task::Connected(carrier) => self.connected(carrier),
            Task::Told(carrier, side) => self.told(carrier, side),
            Task::OpeningOver(carrier, side) => self.opening_over(carrier, side),
            Task::Heal(carrier, side) => self.heal(carrier, side),
            Task::Restart(side) => self.restart(side),
            Task::Connect(side, id, flow) => self.connect(side, id, flow),
            Task::Take(side, id, flow) => self.take(side, id, flow),
            Task::Act => self.act(),
            Task::Fault => self.fault(),
        }
    }

    /// Whether the forwarder wants a carrier that it has not got.
    pub(crate) fn check_dial(&mut self) {
        let end = &self.ends[0];
        let is_wanted =
            end.session.as_ref().is_none_or(|s| end.current.is_none() || s.is_suspect());
        if end.is_running && is_wanted && end.pending.is_none() {
            let delay = self.random.micros(1_000, 400_000);
            self.dial_in(delay);
        }
    }

    pub(crate) fn dial_in(&mut self, delay: Duration) {
        if !std::mem::replace(&mut self.is_dialling, true) {
            self.later(delay, Task::Dial);
        }
    }

    fn dial(&mut self) -> Outcome {
        self.is_dialling = false;
        let fails = self.plan.is_faulty && self.random.chance(self.plan.dial_fails);
        if !self.ends[0].is_running {
            return Ok(());
        }
        if fails || !self.ends[1].is_running {
            self.check_dial();
            return Ok(());
        }
        self.carriers_made += 1;
        let carrier = self.carriers_made;
        let state = Carrier::new(&mut self.random, self.plan.is_heavy);
        self.carriers.insert(carrier, state);
        self.is_dialling = true;
        let delay = self.random.micros(500, 600_000);
        self.later(delay, Task::Connected(carrier));
        Ok(())
    }

    /// The handshake is done at both ends; the forwarder's process may be another by now.
    fn connected(&mut self, carrier: u32) -> Outcome {
        self.is_dialling = false;
        if !self.ends.iter().all(|end| end.is_running) {
            self.carriers.remove(&carrier);
            self.check_dial();
            return Ok(());
        }
        self.note("connected", [carrier.into(), 0]);
        let (clock, older) = (self.clock(Side::Forwarder), self.ends[0].pending.take());
        for side in [Side::Forwarder, Side::Relay] {
            let (tx, rx) = if side == Side::Relay { (1, 0) } else { (0, 1) };
            let link = Link::new(records(2 * carrier + tx, 2 * carrier + rx));
            self.end(side).links.insert(carrier, link);
            self.later(OPENING_MAX, Task::OpeningOver(carrier, side));
        }
        let end = &mut self.ends[0];
        end.pending = Some(carrier);
        let session = end
            .session
            .get_or_insert_with(|| Session::new(Side::Forwarder, SessionId::NONE, GRACE, clock));
        self.hellos.insert(carrier, self.now);
        let hello = Frame::Hello(session.hello());
        end.links.get_mut(&carrier).expect("invariant: it was just made").greet(&hello)?;
        if let Some(older) = older {
            self.oracle.count("a pending carrier was replaced");
            self.close(older, Side::Forwarder);
        }
        if self.plan.is_faulty && self.random.chance(self.plan.born_hung) {
            self.hang(carrier);
        }
        self.turn(Side::Forwarder)
    }

    fn opening_over(&mut self, carrier: u32, side: Side) -> Outcome {
        let end = self.end(side);
        if end.current == Some(carrier) || !end.links.contains_key(&carrier) {
            return Ok(());
        }
        self.lose(carrier, side)
    }

    /// Something arrives.
    fn arrive(&mut self, carrier: u32, side: Side) -> Outcome {
        let now = self.now;
        let Some(state) = self.carriers.get_mut(&carrier) else { return Ok(()) };
        let Some(segment) = state.line_to(side).arrive(now) else { return Ok(()) };
        let Some(link) = self.ends[index(side)].links.get_mut(&carrier) else { return Ok(()) };
        link.inbox.extend_from_slice(&segment);
        // One segment's records are one batch; the pump's turn comes after all of them.
        while let Some(content) = self.next_record(carrier, side)? {
            for content in self.mutator.mutate(side, content) {
                self.receive(carrier, side, &content)?;
            }
        }
        self.turn(side)?;
        // The other end's kernel buffer has room again.
        self.turn(side.other())
    }

    /// The content of the next record that is whole.
    fn next_record(&mut self, carrier: u32, side: Side) -> Outcome<Option<Vec<u8>>> {
        let Some(link) = self.ends[index(side)].links.get_mut(&carrier) else { return Ok(None) };
        loop {
            let len = Opener::record_len(&link.inbox).map_err(|error| error.to_string())?;
            let Some(len) = len.filter(|len| *len <= link.inbox.len()) else { return Ok(None) };
            let mut record: Vec<u8> = link.inbox.drain(..len).collect();
            match link.records.open(&mut record) {
                Ok(Opened::Data(content)) => return Ok(Some(record[content].to_vec())),
                Ok(Opened::KeyUpdated) => self.oracle.count("keys were updated"),
                Err(RecordError::Keys(TrafficKeyError::Inherited)) => {
                    self.oracle.count("a carrier that was passed on had its last keys");
                    return self.lose(carrier, side).map(|()| None);
                }
                other => return Err(format!("{other:?} at the {side:?}")),
            }
        }
    }

    fn receive(&mut self, carrier: u32, side: Side, content: &[u8]) -> Outcome {
        let clock = self.clock(side);
        let end = self.end(side);
        if end.current != Some(carrier) {
            return self.greeted(carrier, side, content);
        }
        let Some(session) = &mut end.session else { return Ok(()) };
        let mut events = Vec::new();
        let result = session.handle_record(content, clock, &mut events);
        self.handle_events(side, content, events)?;
        result.map_err(|error| format!("the {side:?} refuses: {error}"))
    }

    /// The first record of a carrier.
    fn greeted(&mut self, carrier: u32, side: Side, content: &[u8]) -> Outcome {
        let hello = parse_greeting(content, side.other()).map_err(|error| error.to_string())?;
        match side {
            Side::Relay => self.handle_hello(carrier, &hello),
            Side::Forwarder => self.handle_welcome(carrier, &hello),
        }
    }

    fn handle_hello(&mut self, carrier: u32, hello: &Hello) -> Outcome {
        let clock = self.clock(Side::Relay);
        let is_present = self.ends[1].session.as_ref().is_some_and(|s| s.id() == hello.session);
        if !is_present {
            self.check_replaced(carrier)?;
            self.end_session(Side::Relay, Cause::Replaced)?;
            self.sessions_made += 1;
            let id = SessionId(u128::from(self.sessions_made).to_be_bytes());
            let session = Session::new(Side::Relay, id, self.plan.grace, clock);
            self.ends[1].session = Some(session);
        }
        let session = self.ends[1].session.as_mut().expect("invariant: it was just made");
        let retained = session.records_retained();
        let welcome = match session.handle_hello(hello, clock) {
            Ok(welcome) => Frame::Welcome(welcome),
            Err(SessionError::Stale { .. }) => {
                self.oracle.count("a HELLO was stale");
                self.close(carrier, Side::Relay);
                return Ok(());
            }
            Err(error) => return Err(format!("the relay refuses HELLO: {error}")),
        };
        if is_present && retained > 0 {
            self.oracle.count("the relay resumed with records retained");
        }
        self.note("hello", [carrier.into(), hello.received]);
        if let Some(older) = self.ends[1].current {
            self.close(older, Side::Relay);
        }
        self.ends[1].current = Some(carrier);
        self.ends[1].lost_at = None;
        let link = self.ends[1].links.get_mut(&carrier);
        link.expect("invariant: it brought the record").greet(&welcome)
    }

    /// A HELLO may end a session that the forwarder has only if it was said before it had it.
    fn check_replaced(&self, carrier: u32) -> Outcome {
        let [forwarder, relay] = self.ends.each_ref().map(|end| {
            let session = end.session.as_ref()?;
            session.is_up().then(|| session.id())
        });
        let said = self.hellos.get(&carrier);
        let started = relay.and_then(|id| self.starts.get(&id));
        if relay.is_none() || forwarder != relay || said < started {
            return Ok(());
        }
        Err("the relay ends a session that the forwarder has".to_owned())
    }

    fn handle_welcome(&mut self, carrier: u32, welcome: &Hello) -> Outcome {
        if self.ends[0].pending != Some(carrier) {
            return Err("a WELCOME on a carrier that is not pending".to_owned());
        }
        let clock = self.clock(Side::Forwarder);
        let session = self.ends[0].session.as_mut().expect("invariant: it said HELLO");
        let (id, was_up) = (session.id(), session.is_up());
        let greeted = session
            .handle_welcome(welcome, clock)
            .map_err(|error| format!("the forwarder refuses WELCOME: {error}"))?;
        self.note("welcome", [carrier.into(), welcome.received]);
        self.ends[0].pending = None;
        if let Some(older) = self.ends[0].current {
            self.oracle.count("a carrier was replaced while it was in use");
            self.close(older, Side::Forwarder);
        }
        self.ends[0].current = Some(carrier);
        self.ends[0].lost_at = None;
        if greeted == Greeted::Started {
            self.starts.insert(welcome.session, self.now);
        }
        if greeted == Greeted::Started && was_up {
            self.oracle.count("a session was found gone");
            return self.drop_flows(Side::Forwarder, id, Cause::Started);
        }
        self.oracle.count(if was_up { "a session was resumed" } else { "a session began" });
        Ok(())
    }

    /// Reads, seals and sends at one end until the kernel takes no more or nothing is left.
    pub(crate) fn turn(&mut self, side: Side) -> Outcome {
        let at = index(side);
        loop {
            self.ends[at].read_sockets(&mut self.oracle, &mut self.random);
            let has_sealed = self.ends[at].seal(self.now, &mut self.random)?;
            let links: Vec<u32> = self.ends[at].links.keys().copied().collect();
            for carrier in links {
                self.flush(carrier, side);
            }
            if !has_sealed {
                break;
            }
        }
        self.check_bounds(side)?;
        self.check_dial();
        Ok(())
    }

    fn flush(&mut self, carrier: u32, side: Side) {
        let now = self.now;
        let Some(link) = self.ends[index(side)].links.get_mut(&carrier) else { return };
        let Some(state) = self.carriers.get_mut(&carrier) else { return };
        let taken = state.line_from(side).write(&link.outbox, now, &mut self.random);
        link.outbox.drain(..taken);
    }

    fn look(&mut self, side: Side) -> Outcome {
        let now = self.now;
        self.end(side).look(now)?;
        let clock = self.end(side).clock(now);
        let Some(session) = &mut self.end(side).session else { return Ok(()) };
        match session.handle_timeout(clock) {
            Ok(()) => {}
            Err(SessionError::Silent) => {
                self.oracle.count("a carrier was found silent");
                if let Some(carrier) = self.end(side).current {
                    self.lose(carrier, side)?;
                }
            }
            Err(SessionError::Grace) => {
                self.check_grace(side)?;
                self.end_session(side, Cause::Grace)?;
            }
            Err(error) => return Err(format!("the {side:?} gives up: {error}")),
        }
        self.turn(side)
    }

    fn check_grace(&mut self, side: Side) -> Outcome {
        let grace = self.plan.grace;
        let now = self.now;
        let end = self.end(side);
        let waited = end.lost_at.map(|lost| end.clock(now).since(lost));
        if waited.is_some_and(|waited| waited >= grace) {
            return Ok(());
        }
        Err(format!("the {side:?} waited {waited:?} of a grace of {grace:?}"))
    }

    /// The end's session is over; the forwarder makes another, the relay forgets it.
    pub(crate) fn end_session(&mut self, side: Side, cause: Cause) -> Outcome {
        let Some(session) = self.end(side).session.take() else { return Ok(()) };
        self.note("session over", [index(side) as u64, cause as u64]);
        let carriers = match side {
            // Greetings under way at the relay may be for the next session.
            Side::Relay => self.end(side).current.into_iter().collect(),
            Side::Forwarder => self.end(side).links.keys().copied().collect::<Vec<_>>(),
        };
        carriers.into_iter().for_each(|carrier| self.close(carrier, side));
        self.drop_flows(side, session.id(), cause)
    }

    fn drop_flows(&mut self, side: Side, id: SessionId, cause: Cause) -> Outcome {
        let end = &mut self.ends[index(side)];
        end.ready.clear();
        end.sockets.clear();
        end.datagram_flows.clear();
        // Flows that are over are none of its concern any more.
        let flows = std::mem::take(&mut end.flows);
        let flows: Vec<u32> =
            flows.into_values().filter(|flow| !self.oracle.is_over(*flow)).collect();
        self.oracle.session_over(side, id, cause, flows.into_iter())
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Task((Time, u64)),
    Arrival(u32, Side),
    Timer(Side),
}
