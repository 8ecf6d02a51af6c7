//! How carriers and sessions find each other: `HELLO` and `WELCOME`, the fence between an older
//! carrier and its successor, and what happens when there is none.
//!
//! A carrier is trusted no further than its greeting: the older one is closed only when the newer
//! one's counts make sense.

use adit_proto::frame::{Frame, GoawayReason, Hello};
use adit_proto::id::{SessionId, Side};
use adit_proto::session::{Greeted, Session, SessionError, parse_greeting};

use super::Pump;
use super::carriers::{Arrival, Role};
use super::sessions::Tunnel;
use super::slots::Slot;
use crate::collector::broken;
use crate::handoff::{Carrier, Down, Event, SessionKey};

/// A session's wire name: random, since the other end is to present it when it resumes.
fn random_id() -> SessionId {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("invariant: the system's random source works");
    SessionId(id)
}

impl Pump {
    /// Takes a carrier: at the relay it awaits `HELLO`, at the forwarder it begins with it.
    pub(super) fn carry(&mut self, side: Side, arrival: Arrival, mut carrier: Carrier) {
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
            None => self.insert_tunnel(Side::Forwarder, SessionId::NONE, arrival),
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

    pub(super) fn insert_tunnel(&mut self, side: Side, id: SessionId, arrival: Arrival) -> Slot {
        let Arrival { session: key, key: owner, name, grace } = arrival;
        let session = Session::new(side, id, grace, self.now);
        let slot = self.tunnels.insert(Tunnel::new(key, owner, name, session));
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
            (Ok(_), Role::Carries(_)) => Ok(()),
            (Err(error), _) => Err(broken(error)),
        };
        if let Err(why) = greeted {
            self.lose_carrier(slot, why);
        }
    }

    /// Fails when the carrier is to be let go.
    fn handle_hello(&mut self, slot: Slot, arrival: Arrival, hello: &Hello) -> Result<(), Down> {
        let by = arrival.session;
        let present = self.tunnels_by_owner.get(&arrival.key).copied();
        let named = present.filter(|&at| {
            self.tunnels.get(at).is_some_and(|t| t.session.id() == hello.session && !t.is_closing)
        });
        let at = match (named, present) {
            (Some(at), _) => at,
            (None, present) => {
                if let Some(present) = present {
                    let why = "somebody else with the same key has begun a session";
                    self.close_tunnel(present, GoawayReason::Superseded, why);
                }
                let owner = arrival.key;
                let at = self.insert_tunnel(Side::Relay, random_id(), arrival);
                self.tunnels_by_owner.insert(owner, at);
                at
            }
        };
        let Some(tunnel) = self.tunnels.get_mut(at) else { return Ok(()) };
        match tunnel.session.handle_hello(hello, self.now) {
            Ok(welcome) => {
                self.attach(at, slot, named.is_some(), by);
                self.send_greeting(slot, &Frame::Welcome(welcome)).map_err(broken)
            }
            Err(error @ SessionError::Stale { .. }) => Err(Down::Lost(error.to_string())),
            Err(error) => {
                self.end(at, broken(error));
                Err(broken(error))
            }
        }
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
        if why == Down::Denied || !tunnel.session.is_up() {
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
        tunnel.session.handle_carrier_lost(now);
        if let Some((reason, text)) = tunnel.farewell.take() {
            return self.end(at, Down::Goaway(reason, text));
        }
        if tunnel.is_over() {
            return self.end(at, Down::Closed);
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
    }

    /// Tells the control plane whether another carrier is worth having.
    pub(super) fn check_suspect(&mut self, at: Slot) {
        let Some(tunnel) = self.tunnels.get_mut(at) else { return };
        let is_suspect = tunnel.session.is_carried() && tunnel.session.is_suspect();
        if std::mem::replace(&mut tunnel.is_suspect, is_suspect) != is_suspect {
            let session = tunnel.key;
            self.emit(Event::Suspect { session, is_suspect });
        }
    }
}
