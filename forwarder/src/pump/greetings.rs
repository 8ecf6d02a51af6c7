//! How carriers and sessions find each other: `HELLO` and `WELCOME`, the fence between an older
//! carrier and its successor, and what happens when there is none.
//!
//! A carrier is trusted no further than its greeting: the older one is closed only when the newer
//! one's counts make sense.

use adit_proto::frame::{Frame, Frames, Goaway, GoawayReason, Hello};
use adit_proto::id::{SessionId, Side};
use adit_proto::session::{Greeted, Session, SessionError, parse_greeting};
use adit_ring::Memory;
use std::rc::Rc;

use super::Pump;
use super::carriers::{CarrierSocket, Role};
use super::meter::SharedMeter;
use super::sessions::Tunnel;
use super::slots::Slot;
use crate::collector::broken;
use crate::handoff::{Arrival, Carrier, Down, Event, SessionKey};
use crate::key::PublicKey;

/// What a forwarder is told whose session another has taken over.
const SUPERSEDED: &str = "somebody else with the same key has begun a session";
/// What one more external peer with the same key is told.
const CROWDED: (GoawayReason, &str) =
    (GoawayReason::Ending, "this key has as many sessions as it may: end one, or use another key");

/// A session's wire name: random, since the other end is to present it when it resumes.
fn random_id() -> SessionId {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("invariant: the system's random source works");
    SessionId(id)
}

impl Pump {
    /// Takes a carrier: at the relay it awaits `HELLO`, at the forwarder it begins with it.
    pub(super) fn carry(&mut self, side: Side, arrival: Arrival, mut carrier: Carrier) {
        if self.is_still() {
            let why = Down::Lost("this process hands over to another".into());
            return self.emit(Event::Dropped { session: arrival.session, why });
        }
        let leftover = std::mem::take(&mut carrier.leftover);
        let slot = match side {
            Side::Relay => self.insert_carrier(carrier, Role::AwaitsHello(arrival)),
            Side::Forwarder => match self.offer(arrival, carrier) {
                Some(slot) => slot,
                None => return,
            },
        };
        self.take_leftover(slot, leftover);
    }

    /// Offers the forwarder's session, which may be a new one, a carrier. One that is carried well
    /// needs none.
    fn offer(&mut self, arrival: Arrival, carrier: Carrier) -> Option<Slot> {
        let session = arrival.session;
        let at = match self.tunnels_by_key.get(&session) {
            Some(&at) => at,
            None => {
                let (id, grace) = (SessionId::NONE, arrival.grace);
                let session = Session::new(Side::Forwarder, id, grace, self.now);
                self.insert_tunnel(arrival, session, SharedMeter::default())
            }
        };
        let tunnel = self.tunnels.get_mut(at)?;
        let is_well = tunnel.session.is_carried() && !tunnel.session.is_suspect();
        if is_well || tunnel.is_closing {
            self.emit(Event::Dropped { session, why: Down::Spare });
            return None;
        }
        let hello = tunnel.session.hello();
        let older = tunnel.candidate.take();
        older.into_iter().for_each(|older| self.close_carrier(older));
        let slot = self.insert_carrier(carrier, Role::AwaitsWelcome(at));
        if let Some(tunnel) = self.tunnels.get_mut(at) {
            tunnel.candidate = Some(slot);
        }
        if let Err(error) = self.send_greeting(slot, &Frame::Hello(hello)) {
            self.lose_carrier(slot, broken(error));
            return None;
        }
        Some(slot)
    }

    fn insert_tunnel(
        &mut self,
        arrival: Arrival,
        session: Session<Memory>,
        meter: SharedMeter,
    ) -> Slot {
        let Arrival { session: key, key: owner, name, has_path, .. } = arrival;
        let mut tunnel = Tunnel::new(key, owner, name, session, meter);
        tunnel.has_path = has_path;
        let slot = self.tunnels.insert(tunnel);
        self.tunnels_by_key.insert(key, slot);
        slot
    }

    /// Takes the first record of a carrier.
    pub(super) fn handle_greeting(&mut self, slot: Slot, role: Role, content: &[u8]) {
        let from = match role {
            Role::AwaitsHello(_) => Side::Forwarder,
            _ => Side::Relay,
        };
        let greeted = match (parse_greeting(content, from), role) {
            (Ok(hello), Role::AwaitsHello(arrival)) => self.handle_hello(slot, arrival, &hello),
            (Ok(welcome), Role::AwaitsWelcome(at)) => self.handle_welcome(slot, at, &welcome),
            (Ok(_), Role::Carries(_) | Role::Parting(_)) => Ok(()),
            (Err(error), _) => Err(goaway_in(content).unwrap_or_else(|| broken(error))),
        };
        if let Err(why) = greeted {
            self.lose_carrier(slot, why);
        }
    }

    /// Fails when the carrier is to be let go.
    fn handle_hello(&mut self, slot: Slot, arrival: Arrival, hello: &Hello) -> Result<(), Down> {
        let is_named = |tunnel: &Tunnel| tunnel.session.id() == hello.session && !tunnel.is_closing;
        let owner = self.owners.get(&arrival.key);
        let mut present = owner.into_iter().flat_map(|owner| owner.tunnels.iter().copied());
        match present.find(|at| self.tunnels.get(*at).is_some_and(is_named)) {
            Some(at) => self.resume(at, slot, arrival.session, hello),
            None if self.was_superseded(&arrival.key, hello.session) => {
                self.turn_away(slot, arrival.session, (GoawayReason::Superseded, SUPERSEDED))
            }
            None if !self.has_room(&arrival) => self.turn_away(slot, arrival.session, CROWDED),
            None => self.begin(slot, arrival, hello),
        }
    }

    fn resume(&mut self, at: Slot, slot: Slot, by: SessionKey, hello: &Hello) -> Result<(), Down> {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return Ok(()) };
        match tunnel.session.handle_hello(hello, self.now) {
            Ok(welcome) => {
                self.attach(at, slot, true, by);
                self.send_greeting(slot, &Frame::Welcome(welcome)).map_err(broken)
            }
            Err(error @ SessionError::Stale { .. }) => Err(Down::Lost(error.to_string())),
            Err(error) => {
                self.end(at, broken(error));
                Err(broken(error))
            }
        }
    }

    /// Begins a session, once its greeting makes sense; where the key has as many as it may, the
    /// oldest is over.
    fn begin(&mut self, slot: Slot, arrival: Arrival, hello: &Hello) -> Result<(), Down> {
        let mut session = Session::new(Side::Relay, random_id(), arrival.grace, self.now);
        let path = self.new_path();
        let path_id = path.as_ref().map(|path| path.id);
        path.into_iter().for_each(|path| session.offer_path(path));
        let welcome = session.handle_hello(hello, self.now).map_err(broken)?;
        let (by, owner) = (arrival.session, arrival.key);
        self.make_room(&arrival);
        let known = self.owners.entry(owner).or_default();
        known.meter.borrow_mut().handle_limit(arrival.quota, arrival.volume);
        let meter = Rc::clone(&known.meter);
        let at = self.insert_tunnel(arrival, session, meter);
        path_id.into_iter().for_each(|id| self.keep_path(at, id));
        self.owners.entry(owner).or_default().tunnels.push_back(at);
        self.attach(at, slot, false, by);
        self.send_greeting(slot, &Frame::Welcome(welcome)).map_err(broken)
    }

    /// Whether one more session of the key may begin. One that may have several does not lose one to
    /// another while all of them have carriers: they are processes that know nothing of each other.
    fn has_room(&self, arrival: &Arrival) -> bool {
        let Some(owner) = self.owners.get(&arrival.key) else { return true };
        arrival.sessions_max == 1
            || owner.tunnels.len() < arrival.sessions_max
            || owner.tunnels.iter().any(|at| self.is_detached(*at))
    }

    fn is_detached(&self, at: Slot) -> bool {
        self.tunnels.get(at).is_none_or(|tunnel| tunnel.carrier.is_none())
    }

    /// Ends a session of the key, if it has as many as it may: one that waits for a carrier, or the
    /// oldest.
    fn make_room(&mut self, arrival: &Arrival) {
        let Some(owner) = self.owners.get(&arrival.key) else { return };
        if owner.tunnels.len() < arrival.sessions_max {
            return;
        }
        let detached = owner.tunnels.iter().find(|at| self.is_detached(**at));
        let Some(&at) = detached.or(owner.tunnels.front()) else { return };
        let superseded = self.tunnels.get(at).map(|tunnel| tunnel.session.id());
        let until = self.now + arrival.grace;
        if let Some(owner) = self.owners.get_mut(&arrival.key) {
            // One that is closing takes up no room, however long its last words take.
            owner.tunnels.retain(|other| *other != at);
            owner.superseded = superseded.map(|id| (id, until));
        }
        self.close_tunnel(at, GoawayReason::Superseded, SUPERSEDED);
    }

    /// Whether the session was taken over while its forwarder was out of reach, not long ago.
    fn was_superseded(&self, owner: &PublicKey, session: SessionId) -> bool {
        let superseded = self.owners.get(owner).and_then(|owner| owner.superseded);
        superseded.is_some_and(|(id, until)| id == session && self.now < until)
    }

    /// Tells a caller that it gets no session, in place of `WELCOME`.
    fn turn_away(
        &mut self,
        slot: Slot,
        session: SessionKey,
        (reason, text): (GoawayReason, &str),
    ) -> Result<(), Down> {
        if let Some(carrier) = self.carriers.get_mut(slot) {
            carrier.role = Role::Parting(session);
        }
        let goaway = Goaway { reason, text: text.to_owned(), place: String::new() };
        self.send_greeting(slot, &Frame::Goaway(goaway)).map_err(broken)
    }

    fn handle_welcome(&mut self, slot: Slot, at: Slot, welcome: &Hello) -> Result<(), Down> {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return Err(Down::Closed) };
        if welcome.session != tunnel.session.id() {
            // The relay has no such session any more: what ran in it is over.
            self.let_go(at);
        }
        let Some(tunnel) = self.tunnels.get_mut(at) else { return Err(Down::Closed) };
        let key = tunnel.key;
        match tunnel.session.handle_welcome(welcome, self.now) {
            Ok(greeted) => {
                self.attach(at, slot, greeted == Greeted::Resumed, key);
                let relay = self.carriers.get(slot).and_then(CarrierSocket::remote_ip);
                self.take_path(at, relay);
                Ok(())
            }
            Err(error) => {
                self.end(at, broken(error));
                Err(broken(error))
            }
        }
    }

    /// From now on the session goes on `slot`, and nothing that an older carrier brings is taken.
    fn attach(&mut self, at: Slot, slot: Slot, is_resumed: bool, by: SessionKey) {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        let older = tunnel.carrier.replace(slot);
        tunnel.candidate = tunnel.candidate.filter(|candidate| *candidate != slot);
        tunnel.resumptions += u64::from(is_resumed);
        tunnel.is_suspect = false;
        tunnel.is_moved_out = false;
        tunnel.farewell = None;
        let (session, id) = (tunnel.key, tunnel.session.id());
        if let Some(carrier) = self.carriers.get_mut(slot) {
            carrier.role = Role::Carries(at);
        }
        older.into_iter().for_each(|older| self.close_carrier(older));
        self.emit(Event::Up { session, carrier: by, id, is_resumed });
        self.schedule_send(at);
    }

    /// The forwarder's `HELLO` was not answered.
    pub(super) fn handle_no_welcome(&mut self, at: Slot, why: Down) {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        tunnel.candidate = None;
        // A key that is not known any more resumes nothing; and where no session ever was, none is
        // lost.
        if matches!(why, Down::Denied | Down::Goaway(..)) || !tunnel.session.is_up() {
            return self.end(at, why);
        }
        let session = tunnel.key;
        self.emit(Event::Dropped { session, why });
    }

    /// The session's carrier is gone.
    pub(super) fn handle_carrier_lost(&mut self, at: Slot, why: Down) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        tunnel.carrier = None;
        tunnel.stalled_since.get_or_insert(now);
        tunnel.session.handle_carrier_lost(now);
        if tunnel.is_over() {
            return self.end(at, Down::Closed);
        }
        // One that drains has need of another carrier, for as long as flows run.
        let is_final = |reason| reason != GoawayReason::Draining || tunnel.session.flows() == 0;
        if let Some((reason, text)) = tunnel.farewell.clone().filter(|(why, _)| is_final(*why)) {
            return self.end(at, Down::Goaway(reason, text));
        }
        let session = tunnel.key;
        self.emit(Event::Lost { session, why });
        self.set_session_timer(at);
    }

    /// The network of this host has changed.
    pub(super) fn doubt(&mut self, key: SessionKey) {
        let now = self.now;
        let Some((slot, tunnel)) = self.tunnel_of(key) else { return };
        if tunnel.session.is_carried() {
            tunnel.session.handle_doubt(now);
            self.check_suspect(slot);
            self.schedule_send(slot);
        }
        self.take_path(slot, None);
    }

    /// Tells the control plane whether another carrier is worth having.
    pub(super) fn check_suspect(&mut self, at: Slot) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        let is_suspect = tunnel.session.is_carried() && tunnel.session.is_suspect();
        if std::mem::replace(&mut tunnel.is_suspect, is_suspect) != is_suspect {
            if is_suspect {
                tunnel.stalled_since.get_or_insert(now);
            }
            let session = tunnel.key;
            self.emit(Event::Suspect { session, is_suspect });
        }
    }
}

/// What the relay says in place of `WELCOME` to one whose session is over for good.
fn goaway_in(content: &[u8]) -> Option<Down> {
    match Frames::new(content).next() {
        Some(Ok(Frame::Goaway(goaway))) => Some(Down::Goaway(goaway.reason, goaway.text)),
        _ => None,
    }
}
