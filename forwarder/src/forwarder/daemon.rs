//! The forwarder's loop and its state.

#[cfg(test)]
mod tests;

mod actions;
mod calling;
mod reload;
mod report;
mod requests;
mod upgrade;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::id::{ContactId, Side};
use adit_proto::limits::GRACE;
use tokio::sync::mpsc;

use super::Role;
use super::outward::Outward;
use super::socks::Asked;
use super::tunnel::Tunnel;
use crate::api::{PeersRequest, Reply};
use crate::audit::{self, Audit};
use crate::config::{ForwarderConfig, Reloaded};
use crate::exit::{Exit, Failed};
use crate::gateway::{DialError, Ended, Gateway};
use crate::handoff::{
    Answer, Arrival, Carrier, Command, Down, Event, GoawayReason, PumpHandle, Quota, ResetReason,
    SessionKey, Volume,
};
use crate::histogram::{Live, TimesRequest};
use crate::key::{PrivateKey, PublicKey};
use crate::net::{self, NetworkChanged, Signal};
use crate::registrar::Registrar;
use crate::service::ServiceManager;
use crate::status::{Ask, Gathering};
use crate::upgrade::{Upgrade, UpgradeStep};

/// How long flows may take to end after the first signal …
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// … and the session to say goodbye after that.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// A loop without any input still looks around so often.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Everything that can happen to a forwarder.
#[derive(Debug)]
pub(super) enum Input {
    Event(Event),
    /// What came of the attempt with this number.
    Dialled(u64, Result<Carrier, DialError>),
    Resolved(ContactId, io::Result<SocketAddr>),
    Checked(ContactId, io::Result<()>),
    Ask(Ask),
    Times(TimesRequest),
    Request(PeersRequest),
    Socks(Asked),
    /// Standard output has had everything, or why it has not.
    StdioEnded(Result<(), String>),
    Terminate,
    Reload(Option<Reply<Reloaded>>),
    Upgrade(UpgradeStep),
    NetworkChanged,
}

impl From<NetworkChanged> for Input {
    fn from(_: NetworkChanged) -> Self {
        Self::NetworkChanged
    }
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

impl From<Signal> for Input {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Reload => Self::Reload(None),
            Signal::Terminate => Self::Terminate,
            Signal::Upgrade => Self::Upgrade(UpgradeStep::Asked(None, None)),
        }
    }
}

impl From<PeersRequest> for Input {
    fn from(request: PeersRequest) -> Self {
        Self::Request(request)
    }
}

impl From<Ask> for Input {
    fn from(ask: Ask) -> Self {
        Self::Ask(ask)
    }
}

/// The way to the end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Draining { until: Instant },
    Closing { until: Instant },
}

pub(super) struct Daemon {
    role: Role,
    config: ForwarderConfig,
    /// The relay, for people.
    name: Arc<str>,
    key: PrivateKey,
    gateway: Rc<Gateway>,
    /// To the pump the relay has one key, whichever it has at the moment.
    relay_id: PublicKey,
    pump: PumpHandle,
    inbox: mpsc::Sender<Input>,
    registrar: Registrar,
    outward: Outward,
    tunnel: Tunnel,
    dialling: Option<net::Task>,
    last_error: Option<String>,
    gathering: Gathering,
    live: Live,
    audit: Audit,
    service: ServiceManager,
    upgrade: Upgrade<Input>,
    ending: Option<Ending>,
    /// Why this ends in a failure.
    failure: Option<Failed>,
}

fn own_addresses() -> BTreeSet<IpAddr> {
    net::own_addresses().unwrap_or_else(|error| {
        tracing::warn!(%error, "this host's addresses are not known: peers on it are known by loopback");
        BTreeSet::new()
    })
}

impl Daemon {
    pub(super) fn new(
        role: Role,
        config: ForwarderConfig,
        key: PrivateKey,
        gateway: Gateway,
        pump: PumpHandle,
        inbox: mpsc::Sender<Input>,
    ) -> Result<Self, Failed> {
        let now = Instant::now();
        Ok(Self {
            live: Live::new("adit", 1, &config.metrics, now),
            outward: Outward::open(&role, &config, &inbox)?,
            upgrade: Upgrade::new(1, inbox.clone()),
            audit: Audit::open(config.audit.as_deref(), &audit::Event::OF_FORWARDER)
                .map_err(|error| Failed::new(Exit::Failure, error))?,
            role,
            registrar: Registrar::new(config.peers.clone(), Instant::now()),
            name: Arc::from(config.relay.to_string()),
            relay_id: config.relay_keys.first(),
            config,
            key,
            gateway: Rc::new(gateway),
            pump,
            inbox,
            tunnel: Tunnel::new(Instant::now()),
            dialling: None,
            last_error: None,
            gathering: Gathering::new(1),
            service: ServiceManager::from_environment(1, now),
            ending: None,
            failure: None,
        })
    }

    /// Runs until the end. Fails when the pump does, or when what a caller wanted cannot be had.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Failed> {
        // Before there is a tunnel: a relay that is out of reach must not keep a host from starting.
        self.service.ready();
        loop {
            self.handle_timeout(Instant::now())?;
            self.act_all()?;
            // Once for all that has come: each time means a list of all of them.
            if inputs.is_empty() {
                self.admit()?;
            }
            if self.has_ended() {
                self.tell(Command::Stop)?;
                return self.failure.map_or(Ok(()), Err);
            }
            let until = self.poll_timeout();
            if let Ok(Some(input)) = tokio::time::timeout_at(until.into(), inputs.recv()).await
                && let Some(input) = self.upgrade.admit(input)
            {
                self.handle(input, Instant::now())?;
            }
        }
    }

    /// Opens the ways out to the peers that are registered, and to nobody else.
    fn admit(&mut self) -> Result<(), Failed> {
        let is_wanted = self.outward.is_for_peers();
        let sources = is_wanted.then(|| self.registrar.poll_sources(own_addresses)).flatten();
        let (Some(sources), Some(session)) = (sources, self.tunnel.session()) else {
            return Ok(());
        };
        let commands = self.outward.handle_registered(Arc::new(sources), session)?;
        commands.into_iter().try_for_each(|command| self.tell(command))
    }

    fn handle(&mut self, input: Input, now: Instant) -> Result<(), Failed> {
        match input {
            Input::Event(event) => return self.handle_event(event, now),
            Input::NetworkChanged => return self.handle_network_change(now),
            // Its carrier is closed by being dropped.
            Input::Dialled(attempt, _) if !self.tunnel.is_awaited(attempt) => {}
            Input::Dialled(_, Ok(carrier)) => return self.start(carrier, now),
            Input::Dialled(_, Err(error)) => return self.handle_no_carrier(&error, now),
            Input::Resolved(id, resolved) => self.registrar.handle_resolved(id, resolved, now),
            Input::Checked(id, checked) => self.registrar.handle_checked(id, checked, now),
            Input::Ask(ask) => {
                let asked = self.gathering.handle_ask(ask, now);
                return asked.into_iter().try_for_each(|asked| self.tell(Command::Report(asked)));
            }
            Input::Times(request) => {
                let commands = self.live.handle_request(request, now);
                return commands.into_iter().try_for_each(|(_, command)| self.tell(command));
            }
            Input::Request(request) => self.handle_request(request, now),
            Input::Socks(asked) => {
                let command = Outward::handle_socks(asked, self.tunnel.session());
                return command.map_or(Ok(()), |command| self.tell(command));
            }
            Input::StdioEnded(outcome) => return self.handle_stdio_ended(outcome, now),
            Input::Reload(reply) => return self.handle_reload(reply, now),
            Input::Terminate => return self.terminate(now),
            Input::Upgrade(step) => return self.handle_upgrade(step, now),
        }
        Ok(())
    }

    fn tell(&self, command: Command) -> Result<(), Failed> {
        self.pump.send(command).map_err(|gone| Failed::new(Exit::Failure, gone))
    }

    /// Begins an attempt; one that is under way is given up.
    fn dial(&mut self, attempt: u64) {
        let (gateway, inbox) = (Rc::clone(&self.gateway), self.inbox.clone());
        self.dialling = Some(net::spawn_until_dropped(async move {
            let dialled = gateway.dial().await;
            inbox.send(Input::Dialled(attempt, dialled)).await.ok();
        }));
    }

    fn start(&mut self, carrier: Carrier, now: Instant) -> Result<(), Failed> {
        if self.ending.is_some() && self.tunnel.session().is_none() {
            return Ok(());
        }
        if !self.config.relay_keys.contain(&carrier.peer) {
            // A reload came in between.
            self.tunnel.handle_not_dialled(Ended::Failed, now);
            return Ok(());
        }
        let session = self.tunnel.handle_dialled(carrier.remote, carrier.peer);
        let (key, side) = (self.relay_id, Side::Forwarder);
        let (name, carrier) = (self.name.clone(), Box::new(carrier));
        // The relay's WELCOME says how long the grace really is.
        let has_path = self.config.datagram_path && self.gateway.is_plain();
        let (grace, sessions_max) = (GRACE, 1);
        let (quota, volume) = (Quota::default(), Volume::default());
        let arrival = Arrival { session, key, name, grace, sessions_max, quota, volume, has_path };
        self.tell(Command::Carry { side, arrival, carrier })
    }

    fn handle_network_change(&mut self, now: Instant) -> Result<(), Failed> {
        tracing::debug!("this host's addresses or routes have changed");
        self.tunnel.handle_network_change(now);
        self.registrar.handle_network_change();
        match self.tunnel.session() {
            Some(session) => self.tell(Command::Doubt { session }),
            None => Ok(()),
        }
    }

    fn handle_no_carrier(&mut self, error: &DialError, now: Instant) -> Result<(), Failed> {
        let again_in = self.tunnel.handle_not_dialled(error.ended(), now);
        tracing::warn!(relay = %self.name, ?again_in, "no connection: {error}");
        self.last_error = Some(error.to_string());
        // What is under way waits for another connection, as everywhere.
        let is_under_way = self.tunnel.id().is_some();
        if is_under_way { Ok(()) } else { self.give_up_if_called(error, now) }
    }

    fn handle_event(&mut self, event: Event, now: Instant) -> Result<(), Failed> {
        let session = match &event {
            // Nothing here asks to hear.
            Event::Pulse(_)
            | Event::Report(_)
            | Event::Moved(_)
            | Event::Heard { .. }
            | Event::Quiet
            | Event::Packed { .. }
            | Event::Restored(_) => None,
            Event::Up { session, .. }
            | Event::Frame { session, .. }
            | Event::Opened { session, .. }
            | Event::Lost { session, .. }
            | Event::Suspect { session, .. }
            | Event::Dropped { session, .. }
            | Event::Down { session, .. } => Some(*session),
        };
        if session.is_some_and(|session| !self.tunnel.is_current(session)) {
            return Ok(());
        }
        match event {
            Event::Up { session, id, is_resumed, .. } => {
                self.tunnel.handle_up(id, now);
                return self.handle_up(session, is_resumed, now);
            }
            Event::Frame { frame, .. } => self.registrar.handle_frame(frame, now),
            Event::Opened { session, flow, .. } => {
                // A relay opens flows to what is registered, and to nothing else.
                let answer = Answer::Refuse(ResetReason::NoContact);
                return self.tell(Command::Answer { session, flow, answer });
            }
            Event::Lost { why, .. } => self.handle_lost(&why, now),
            Event::Suspect { is_suspect, .. } => {
                tracing::debug!(is_suspect, "the connection's probes");
                self.tunnel.handle_suspect(is_suspect, now);
            }
            Event::Dropped { why, .. } => self.handle_dropped(&why, now),
            Event::Down { why, .. } => {
                self.handle_down(&why, now);
                return self.give_up_if_called(&why, now);
            }
            Event::Pulse(asked) => self.service.handle_pulse(asked, now),
            Event::Report(report) if report.times.is_some() => self.live.handle_report(report),
            Event::Report(report) => self.gathering.handle_report(report),
            Event::Quiet => return self.handle_upgrade(UpgradeStep::Quiet, now),
            Event::Packed { pump, packed } => {
                return self.handle_upgrade(UpgradeStep::Packed(pump, packed), now);
            }
            Event::Moved(_) | Event::Heard { .. } | Event::Restored(_) => {}
        }
        Ok(())
    }

    fn handle_up(
        &mut self,
        session: SessionKey,
        is_resumed: bool,
        now: Instant,
    ) -> Result<(), Failed> {
        let (relay, remote) = (&self.name, self.tunnel.remote().map(tracing::field::display));
        let id = self.tunnel.id().map(tracing::field::display);
        self.last_error = None;
        if is_resumed {
            tracing::info!(%relay, remote, session = id, "tunnel resumed");
            return Ok(());
        }
        tracing::info!(%relay, remote, session = id, "tunnel up");
        self.record_up();
        // What an older session had registered is gone.
        self.registrar.handle_down();
        self.registrar.handle_up(session, now);
        let commands = self.outward.handle_up(session, &self.inbox)?;
        commands.into_iter().try_for_each(|command| self.tell(command))
    }

    fn handle_lost(&mut self, why: &Down, now: Instant) {
        let again_in = self.tunnel.handle_lost(now);
        tracing::warn!(relay = %self.name, ?again_in, "connection lost, flows wait: {why}");
        self.last_error = Some(why.to_string());
    }

    fn handle_dropped(&mut self, why: &Down, now: Instant) {
        let again_in = self.tunnel.handle_dropped(now);
        match why {
            Down::Spare => tracing::debug!("a new connection was not needed: {why}"),
            why => tracing::warn!(relay = %self.name, ?again_in, "no tunnel: {why}"),
        }
    }

    fn handle_down(&mut self, why: &Down, now: Instant) {
        let was_up = self.tunnel.id().is_some();
        self.record_down(was_up, why);
        let again_in = self.tunnel.handle_down(why, now);
        self.registrar.handle_down();
        self.last_error = Some(why.to_string());
        let (relay, key) = (&self.name, self.key.public());
        match why {
            _ if self.ending.is_some() => tracing::info!(%relay, "tunnel closed"),
            Down::Denied => tracing::error!(
                ?again_in,
                "the relay {relay} does not accept this key: add it there, as a [[forwarder]] with \
                 key = \"{key}\", then reload the relay (kill -HUP)"
            ),
            Down::Goaway(GoawayReason::Superseded, _) => tracing::error!(
                ?again_in,
                "another forwarder with this key has taken over at {relay}: give each its own key \
                 (adit keygen)"
            ),
            _ if was_up => tracing::warn!(%relay, ?again_in, "tunnel down: {why}"),
            _ => tracing::warn!(%relay, ?again_in, "no tunnel: {why}"),
        }
    }

    fn terminate(&mut self, now: Instant) -> Result<(), Failed> {
        let is_second = self.ending.is_some();
        if is_second {
            return self.close(now);
        }
        self.service.stopping();
        tracing::info!("ending when the last flow has ended, or in {} s", DRAIN_MAX.as_secs());
        self.ending = Some(Ending::Draining { until: now + DRAIN_MAX });
        match self.tunnel.session() {
            Some(session) => self.tell(Command::Drain { session }),
            None => Ok(()),
        }
    }

    fn close(&mut self, now: Instant) -> Result<(), Failed> {
        self.ending = Some(Ending::Closing { until: now + CLOSE_MAX });
        let Some(session) = self.tunnel.session() else { return Ok(()) };
        let (reason, why) = (GoawayReason::Ending, "the forwarder is ending".to_owned());
        self.tell(Command::Close { session, reason, why })
    }

    fn has_ended(&self) -> bool {
        let is_over = self.tunnel.session().is_none();
        match self.ending {
            None => false,
            Some(Ending::Draining { .. }) => is_over,
            Some(Ending::Closing { until }) => is_over || Instant::now() >= until,
        }
    }

    fn poll_timeout(&self) -> Instant {
        let tunnel = self.tunnel.poll_timeout().filter(|_| !self.upgrade.is_still());
        let ending = self.ending.map(|ending| match ending {
            Ending::Draining { until } | Ending::Closing { until } => until,
        });
        if self.upgrade.is_held() {
            return self.upgrade.poll_timeout().unwrap_or(Instant::now() + IDLE_MAX);
        }
        let asked = [
            self.gathering.poll_timeout(),
            self.live.poll_timeout(),
            self.service.poll_timeout(),
            self.upgrade.poll_timeout(),
        ];
        let others = [self.registrar.poll_timeout(), tunnel, ending].into_iter().chain(asked);
        let idle = Instant::now() + IDLE_MAX;
        others.flatten().fold(idle, Instant::min)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Failed> {
        let deed = self.upgrade.handle_timeout(now);
        self.perform(deed, now)?;
        if self.upgrade.is_held() {
            return Ok(());
        }
        self.registrar.handle_timeout(now);
        self.report(now)?;
        if let Some(Ending::Draining { until }) = self.ending
            && until <= now
        {
            self.close(now)?;
        }
        // Flows that are to end in peace need a carrier, too.
        let is_wanted = self.ending.is_none() || self.tunnel.session().is_some();
        let may_dial = is_wanted && !self.upgrade.is_still();
        if may_dial && let Some(attempt) = self.tunnel.poll_dial(now) {
            self.dial(attempt);
        }
        Ok(())
    }
}
