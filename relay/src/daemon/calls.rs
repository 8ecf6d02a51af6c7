//! Flows that a forwarder or an external peer opens to a private name, or to an address outside.
//!
//! A call that is refused tells nothing: a name that nobody has and one that is forbidden are
//! answered alike, after the same look-ups, and at the same beat. Nor does a dial: a host that is not
//! listed by its name is refused alike whether the relay's resolver knows it or not.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use adit::config::{Place, RelayConfig};
use adit::exit::Failed;
use adit::handoff::{
    Answer, Command, Destination, Listening, Open, Protocol, ResetReason, SessionKey, Target,
};
use adit::net;
use adit_proto::id::FlowId;

use super::{Daemon, Input, Session};
use crate::contact::Contact;
use crate::lookups::Lookup;
use crate::policy::OwnPlaces;
use crate::refused::Cause;
use crate::registrar::Holder;

/// A flow that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) session: SessionKey,
    pub(crate) flow: FlowId,
    pub(crate) protocol: Protocol,
}

/// What the look-ups for a call have found.
struct Call {
    /// Whether the caller may call the name, whoever has it.
    is_allowed: bool,
    /// Whether somebody has it at the moment.
    is_there: bool,
    /// Whether its owner lets the caller in.
    is_let_in: bool,
    /// Where it is, if its owner has a session.
    owner: Option<(usize, Holder)>,
}

impl Daemon {
    /// Takes a flow that is to be judged.
    pub(super) fn handle_opened(
        &mut self,
        session: SessionKey,
        flow: FlowId,
        Open { protocol, to, .. }: Open,
        now: Instant,
    ) -> Result<(), Failed> {
        let asked = Asked { session, flow, protocol };
        if self.ending.is_some() {
            return self.answer(asked, Answer::Refuse(ResetReason::Ending));
        }
        match to {
            Destination::Name(name) => self.call(asked, &name, now),
            Destination::Address(address) => self.dial(asked, &address, now),
            // The pump knows these itself.
            Destination::Contact => Ok(()),
        }
    }

    fn call(&mut self, asked: Asked, name: &str, now: Instant) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&asked.session) else { return Ok(()) };
        let call = self.look_up(state, asked.protocol, name);
        match call {
            Call { is_allowed: true, is_let_in: true, owner: Some((pump, holder)), .. } => {
                self.join(asked, name, pump, holder)
            }
            // Whether it comes back is told to those alone who may call it.
            Call { is_allowed: true, is_let_in: true, is_there: true, .. }
                if self.absence.wait(name, asked, now) =>
            {
                Ok(())
            }
            Call { is_allowed, is_there, is_let_in, .. } => {
                let (cause, why) = match (is_allowed, is_there, is_let_in) {
                    (false, ..) => (Cause::CallForbidden, "it is not among its calls"),
                    (_, true, false) => (Cause::CallForbidden, "its owner does not let it in"),
                    _ => (Cause::CallUnknown, "nobody has that name at the moment"),
                };
                let why = format!("{} calls {name}: {why}", state.name);
                self.refusals.borrow_mut().count(cause, state.remote, why, now);
                self.refuse_at_beat(asked, now)
            }
        }
    }

    /// The owner of a name has a session again: whoever has waited for it is judged anew.
    pub(super) fn handle_back(&mut self, name: &str, now: Instant) -> Result<(), Failed> {
        let waited = self.absence.handle_back(name);
        waited.into_iter().try_for_each(|asked| self.call(asked, name, now))
    }

    /// Looks everything up, whatever has been found already.
    fn look_up(&self, caller: &Session, protocol: Protocol, name: &str) -> Call {
        let policy = self.policies.get(&caller.key);
        // What carries another protocol is as if it were not there.
        let lease = self.registrar.by_name(name).filter(|lease| lease.protocol == protocol);
        // A name that nobody has is looked up as if the caller had it.
        let owner = lease.map_or(caller.key, |lease| lease.key);
        let sources = self.policies.get(&owner).map(|owner| &owner.sources);
        let holder = lease.and_then(|lease| lease.holder());
        let session = holder.map_or(SessionKey(0), |holder| holder.session);
        let pump = self.sessions.get(&session).map(|session| session.pump);
        Call {
            is_allowed: policy.is_some_and(|policy| policy.may_call(name)),
            is_there: lease.is_some(),
            is_let_in: sources.is_some_and(|sources| sources.accepts(caller.remote.ip())),
            owner: pump.zip(holder),
        }
    }

    /// Joins the caller's flow to one that is opened to the owner of the name.
    fn join(
        &mut self,
        asked: Asked,
        name: &str,
        pump: usize,
        holder: Holder,
    ) -> Result<(), Failed> {
        let Some(caller) = self.sessions.get(&asked.session) else { return Ok(()) };
        let joined = match asked.protocol {
            Protocol::Tcp => net::pair().map(|(near, far)| (near.into(), far.into())),
            Protocol::Udp => net::datagram_pair().map(|(near, far)| (near.into(), far.into())),
        };
        let (near, far): (OwnedFd, OwnedFd) = match joined {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(caller = %caller.name, %name, "a call cannot be joined: {error}");
                return self.answer(asked, Answer::Refuse(ResetReason::Limit));
            }
        };
        tracing::debug!(caller = %caller.name, %name, "called");
        let Holder { session, contact } = holder;
        let open = Open {
            contact,
            source: caller.remote,
            protocol: asked.protocol,
            to: Destination::Contact,
        };
        let (peer, stream) = (Arc::from(name), far);
        let call = self.last_call;
        self.last_call += 1;
        self.calls.insert(call, (asked, near));
        let listening = Some(Listening::ControlPlane(call));
        self.tell(pump, Command::Open { session, open, peer, stream, listening })
    }

    /// Takes whether the owner's peer is there: the caller hears of it no sooner.
    pub(super) fn handle_heard(
        &mut self,
        call: u64,
        heard: Result<(), ResetReason>,
    ) -> Result<(), Failed> {
        let Some((asked, near)) = self.calls.remove(&call) else { return Ok(()) };
        let answer = match heard {
            Ok(()) => Answer::Join(near),
            Err(reason) => Answer::Refuse(reason),
        };
        self.answer(asked, answer)
    }

    fn dial(&mut self, asked: Asked, address: &str, now: Instant) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&asked.session) else { return Ok(()) };
        let may_resolve = |place: &Place| {
            let policy = self.policies.get(&state.key);
            policy.is_some_and(|policy| policy.may_resolve(asked.protocol, &place.host, place.port))
        };
        let Some(place) = address.parse().ok().filter(may_resolve) else {
            let why = format!("{} asks for {address:?}: it is not among its dials", state.name);
            self.refusals.borrow_mut().count(Cause::DialForbidden, state.remote, why, now);
            return self.refuse_at_beat(asked, now);
        };
        if let Some(address) = place.literal() {
            return self.handle_resolved(asked, &place, Ok(vec![address]), now);
        }
        let Some(lookup) = self.lookups.begin(asked.session) else {
            let why = format!("{} waits for too many names already", state.name);
            self.refusals.borrow_mut().count(Cause::CallLimit, state.remote, why, now);
            return self.answer(asked, Answer::Refuse(ResetReason::Limit));
        };
        net::spawn(look_up(lookup, asked, place, self.inbox.clone()));
        Ok(())
    }

    /// Takes what a host resolves to: each address is judged, and the first that may be dialled is.
    pub(super) fn handle_resolved(
        &mut self,
        asked: Asked,
        place: &Place,
        found: io::Result<Vec<SocketAddr>>,
        now: Instant,
    ) -> Result<(), Failed> {
        let Some(state) = self.sessions.get(&asked.session) else { return Ok(()) };
        // A key that a reload has removed meanwhile: its session is being closed.
        let Some(policy) = self.policies.get(&state.key) else { return Ok(()) };
        let refuse = |cause, why: &dyn std::fmt::Display| {
            let why = format!("{} asks for {place}: {why}", state.name);
            self.refusals.borrow_mut().count(cause, state.remote, why, now);
        };
        let addresses = self.own.at(now, || own_addresses(&self.config));
        let (found, addresses) = match (found, addresses) {
            (Ok(found), Ok(addresses)) => (found, addresses),
            (Err(error), _) | (_, Err(error)) => {
                refuse(Cause::DialUnresolved, &error);
                if !policy.is_listed_by_name(asked.protocol, &place.host, place.port) {
                    return self.refuse_at_beat(asked, now);
                }
                return self.answer(asked, Answer::Refuse(ResetReason::ConnectFailed));
            }
        };
        let listens_at = |port| {
            self.config.listen.iter().any(|address| address.port() == port)
                || [Protocol::Tcp, Protocol::Udp].into_iter().any(|protocol| {
                    self.registrar.lease(&Contact::Public(port, protocol)).is_some()
                })
        };
        let own = OwnPlaces { addresses, listens_at: &listens_at };
        let judge = |found: &SocketAddr| policy.may_dial(asked.protocol, &place.host, *found, own);
        let verdicts: Vec<_> = found.iter().map(judge).collect();
        if let Some(address) = verdicts.iter().find_map(|verdict| verdict.ok()) {
            tracing::debug!(forwarder = %state.name, %place, %address, "dialled");
            let target = match asked.protocol {
                Protocol::Tcp => Target::Tcp(address),
                Protocol::Udp => Target::Udp(address),
            };
            return self.answer(asked, Answer::Dial(target));
        }
        if let Some(Err(guarded)) = verdicts.first() {
            refuse(Cause::DialForbidden, guarded);
        }
        self.refuse_at_beat(asked, now)
    }

    fn refuse_at_beat(&mut self, asked: Asked, now: Instant) -> Result<(), Failed> {
        let early = self.beat.refuse(asked, now);
        self.refuse_all(early)
    }

    /// Answers what is due.
    pub(super) fn refuse_all(&self, due: Vec<Asked>) -> Result<(), Failed> {
        let refuse = |asked| self.answer(asked, Answer::Refuse(ResetReason::NoContact));
        due.into_iter().try_for_each(refuse)
    }

    fn answer(&self, asked: Asked, answer: Answer) -> Result<(), Failed> {
        let Asked { session, flow, .. } = asked;
        let Some(state) = self.sessions.get(&session) else { return Ok(()) };
        self.tell(state.pump, Command::Answer { session, flow, answer })
    }
}

/// Where this relay is reached, from here and from outside.
fn own_addresses(config: &RelayConfig) -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = net::own_addresses()?;
    let known = config.address.iter().flat_map(|places| places.iter());
    let known = known.filter_map(Place::literal).chain(config.listen.iter().copied());
    addresses.extend(known.map(|address| address.ip().to_canonical()));
    Ok(addresses)
}

/// Resolves a host once, in its turn.
async fn look_up(
    lookup: Lookup,
    asked: Asked,
    place: Place,
    inbox: tokio::sync::mpsc::Sender<Input>,
) {
    let turn = lookup.turn().await;
    let found = net::resolve(place.clone()).await;
    drop((turn, lookup));
    // Nobody is there to be told when the loop has ended.
    inbox.send(Input::Resolved { asked, place, found }).await.ok();
}
