//! The daemon `adit-relay run`. One loop takes every input in turn; handshakes run beside it and
//! report through the same inbox.

mod calls;
mod doors;
mod enrolment;
mod paths;
mod probe;
mod registration;
mod reload;
mod report;
mod sessions;
mod upgrade;
mod volumes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit::api::{self, Reply};
use adit::config::{Admitted, Place, RelayConfig, Reloaded};
use adit::exit::{Exit, Failed};
use adit::handoff::{
    self, Arrival, Command, ContactSocket, Event, GoawayReason, PumpHandle, SessionKey,
};
use adit::histogram::{Live, TimesRequest};
use adit::invitation::UnixTime;
use adit::key::{PrivateKey, PublicKey};
use adit::net::{self, Shaken, Signal};
use adit::service::ServiceManager;
use adit::status::{Ask, Gathering, VERSION};
use adit::tls::ServerTls;
use adit::upgrade::{Predecessor, Upgrade, UpgradeStep};
use adit::{logging, privilege, pump};
use adit_proto::id::{SessionId, Side};
use tokio::sync::mpsc;

use calls::Asked;

use crate::absence::Absence;
use crate::api::routes;
use crate::beat::Beat;
use crate::door::Door;
use crate::invitations::Invitations;
use crate::lookups::Lookups;
use crate::own::OwnAddresses;
use crate::policy::Policy;
use crate::probe::Probes;
use crate::reception::Admission;
use crate::refused::{Cause, Refusals};
use crate::registrar::Registrar;
use crate::volumes::Volumes;

pub(crate) use enrolment::{Enrol, Joining};
pub(crate) use probe::{Look, Probing, Ways};

/// How long flows may take to end after the first signal …
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// … and the sessions to say goodbye after that.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long it is waited for a slow disk then, which nobody but who starts the relay again minds.
const KEEP_MAX: Duration = Duration::from_secs(10);
/// A loop without any input still looks around so often.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Everything that can happen to a relay.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    Arrived(Box<Shaken>),
    Ask(Ask),
    Times(TimesRequest),
    Enrol(Enrol),
    Probe(Probing),
    Reload(Option<Reply<Reloaded>>),
    Terminate,
    Upgrade(UpgradeStep),
    Resolved { asked: Asked, place: Place, found: io::Result<Vec<SocketAddr>> },
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

/// A session, or a carrier whose `HELLO` has yet to say which session it is for.
#[derive(Debug)]
struct Session {
    key: PublicKey,
    name: Arc<str>,
    pump: usize,
    remote: SocketAddr,
    /// Our own address as the forwarder dialled it.
    local: IpAddr,
    id: Option<SessionId>,
    /// Whether it has a carrier, or waits for one.
    is_carried: bool,
}

/// The way to the end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Draining { until: Instant },
    Closing { until: Instant },
}

struct Daemon {
    file: PathBuf,
    config: RelayConfig,
    key: PublicKey,
    pumps: Vec<PumpHandle>,
    admission: Arc<Admission>,
    policies: BTreeMap<PublicKey, Policy>,
    invitations: Invitations,
    volumes: Volumes,
    /// Keys that may move nothing more in this month.
    spent: BTreeSet<PublicKey>,
    /// Carriers that have not said `HELLO` yet, by the name of the session that may begin.
    arrivals: BTreeMap<SessionKey, Session>,
    sessions: BTreeMap<SessionKey, Session>,
    /// The newest session of each key: the one whose frames count.
    sessions_by_key: BTreeMap<PublicKey, SessionKey>,
    last_session: u64,
    registrar: Registrar<ContactSocket>,
    beat: Beat<Asked>,
    absence: Absence<Asked>,
    /// Calls whose owner's peer is being connected, by number, with the caller's end.
    calls: BTreeMap<u64, (Asked, OwnedFd)>,
    last_call: u64,
    lookups: Lookups,
    own: OwnAddresses,
    inbox: mpsc::Sender<Input>,
    door: Rc<RefCell<Door>>,
    refusals: Rc<RefCell<Refusals>>,
    probes: Rc<RefCell<Probes>>,
    /// Probes whose packets the pumps send back, by number.
    echoes: BTreeSet<u32>,
    listeners: Vec<TcpListener>,
    /// The port of datagram paths, where they are offered.
    path_port: Option<u16>,
    path_sockets: Vec<UdpSocket>,
    gathering: Gathering,
    live: Live,
    service: ServiceManager,
    upgrade: Upgrade<Input>,
    ending: Option<Ending>,
}

/// Runs a relay with the configuration of `file` until it is told to end; one that `is_takeover` goes on
/// with what the process has that started it.
pub(crate) fn run(file: &Path, is_takeover: bool) -> Result<(), Failed> {
    let predecessor = is_takeover.then(Predecessor::meet).transpose()?;
    let failed = |error: &dyn std::fmt::Display| Failed::new(Exit::Failure, error);
    let config = RelayConfig::load(file)?;
    let key = PrivateKey::load(&config.key)?;
    logging::follow(config.log_level);
    let folder = config.socket.parent().unwrap_or(Path::new(""));
    privilege::drop_to(config.user.as_deref(), file, &[folder, &config.state])?;
    let features = pump::probe()?;
    net::raise_descriptor_limit();
    let admission = Arc::new(Admission::default());
    let tls = ServerTls::with_joiners(&key, admission.clone()).map_err(|error| failed(&error))?;
    let (sender, events) = handoff::events().map_err(|error| failed(&error))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = predecessor.as_ref().map_or(cores, Predecessor::pumps);
    let spawn = |_| pump::spawn(features, sender.clone());
    let pumps = (0..cores).map(spawn).collect::<Result<Vec<_>, _>>()?;
    let (inbox, inputs) = mpsc::channel(net::INBOX_MAX);
    let _socket =
        api::serve(&config.socket, inbox.clone(), routes()).map_err(|error| failed(&error))?;
    if let Some(listen) = config.metrics.listen {
        let cannot = |error| format!("[metrics]: cannot listen on {listen}: {error}");
        api::serve_metrics(listen, inbox.clone()).map_err(|error| failed(&cannot(error)))?;
    }
    let forwarders = config.admitted.len();
    tracing::info!(key = %key.public(), pumps = cores, forwarders, "adit-relay {VERSION} starts");
    net::run(async move {
        let mut daemon = Daemon::new(file, config, key.public(), pumps, admission, inbox)?;
        // First: a signal to one that takes over is heeded once it has.
        net::forward_signals(&daemon.inbox).map_err(|error| failed(&error))?;
        // It begins with the loop; what can fail comes before another process ends.
        net::forward_events(events.clone(), daemon.inbox.clone())
            .map_err(|error| failed(&error))?;
        daemon.listen(tls)?;
        match predecessor {
            Some(predecessor) => daemon.take_over(predecessor, &events)?,
            None => daemon.offer_paths()?,
        }
        daemon.run(inputs).await
    })
}

fn policies(forwarders: &[Admitted]) -> BTreeMap<PublicKey, Policy> {
    forwarders.iter().map(|admitted| (admitted.key, Policy::from(admitted.clone()))).collect()
}

impl Daemon {
    fn new(
        file: &Path,
        config: RelayConfig,
        key: PublicKey,
        pumps: Vec<PumpHandle>,
        admission: Arc<Admission>,
        inbox: mpsc::Sender<Input>,
    ) -> Result<Self, Failed> {
        let invitations = Invitations::load(&config.state);
        let invitations = invitations.map_err(|error| Failed::new(Exit::Config, error))?;
        let volumes = Volumes::load(&config.state, UnixTime::now(), Instant::now());
        let volumes = volumes.map_err(|error| Failed::new(Exit::Config, error))?;
        let policies = policies(&config.admitted);
        admission.set(policies.keys().copied().collect());
        let (metrics, refusals) =
            (config.metrics.clone(), Refusals::shared(config.audit.as_deref())?);
        Ok(Self {
            file: file.into(),
            config,
            key,
            gathering: Gathering::new(pumps.len()),
            service: ServiceManager::from_environment(pumps.len(), Instant::now()),
            live: Live::new("adit_relay", pumps.len(), &metrics, Instant::now()),
            upgrade: Upgrade::new(pumps.len(), inbox.clone()),
            pumps,
            admission,
            policies,
            invitations,
            volumes,
            spent: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sessions_by_key: BTreeMap::new(),
            last_session: 0,
            registrar: Registrar::default(),
            beat: Beat::new(Instant::now()),
            absence: Absence::default(),
            calls: BTreeMap::new(),
            last_call: 0,
            lookups: Lookups::default(),
            own: OwnAddresses::default(),
            inbox,
            door: Rc::default(),
            refusals,
            probes: Rc::default(),
            echoes: BTreeSet::new(),
            listeners: Vec::new(),
            path_port: None,
            path_sockets: Vec::new(),
            ending: None,
        })
    }

    /// Runs until the end. Fails only when a pump does.
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Failed> {
        self.service.ready();
        loop {
            self.handle_timeout(Instant::now())?;
            if self.has_ended() {
                if let Err(error) = self.volumes.write_now(KEEP_MAX, Instant::now()) {
                    tracing::error!("what keys have moved is forgotten in part: {error}");
                }
                return self.tell_all(|| Command::Stop);
            }
            let until = self.poll_timeout();
            if let Ok(Some(input)) = tokio::time::timeout_at(until.into(), inputs.recv()).await
                && let Some(input) = self.upgrade.admit(input)
            {
                self.handle(input, Instant::now())?;
            }
        }
    }

    fn handle(&mut self, input: Input, now: Instant) -> Result<(), Failed> {
        match input {
            Input::Event(event) => self.handle_event(event, now),
            Input::Arrived(shaken) => self.start(*shaken, now),
            Input::Times(request) => self.measure(request, now),
            Input::Ask(ask) => {
                let mut asked = self.gathering.handle_ask(ask, now).into_iter();
                asked.try_for_each(|asked| self.tell(asked.pump, Command::Report(asked)))
            }
            Input::Resolved { asked, place, found } => {
                self.handle_resolved(asked, &place, found, now)
            }
            Input::Enrol(enrol) => self.handle_enrol(enrol, UnixTime::now(), now),
            Input::Probe(probing) => self.handle_probe(probing, now),
            Input::Reload(reply) => self.handle_reload(reply),
            Input::Terminate => self.terminate(now),
            Input::Upgrade(step) => self.handle_upgrade(step, now),
        }
    }

    fn tell(&self, pump: usize, command: Command) -> Result<(), Failed> {
        match self.pumps.get(pump) {
            Some(pump) => pump.send(command).map_err(|gone| Failed::new(Exit::Failure, gone)),
            None => Ok(()),
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) -> Result<(), Failed> {
        (0..self.pumps.len()).try_for_each(|pump| self.tell(pump, command()))
    }

    /// A key keeps to one pump, so that its sessions follow each other in order there.
    fn pump_of(&self, key: &PublicKey) -> usize {
        key.as_bytes().iter().fold(0, |sum, byte| sum + usize::from(*byte))
            % self.pumps.len().max(1)
    }

    /// Hands a carrier to its key's pump, which finds out from `HELLO` whether it resumes the
    /// key's session or begins another.
    fn start(&mut self, shaken: Shaken, now: Instant) -> Result<(), Failed> {
        let Shaken { carrier, peer: key, local, purpose: _ } = shaken;
        if self.ending.is_some() {
            return Ok(());
        }
        let Some(policy) = self.policies.get(&key) else {
            let why = "its key was removed a moment ago";
            self.refusals.borrow_mut().count(Cause::UnknownKey, carrier.remote, why, now);
            return Ok(());
        };
        let (name, sessions_max) = (Arc::clone(&policy.name), policy.sessions_max());
        let (quota, volume, has_path) = (policy.quota, self.volume_of(&key, policy), true);
        self.last_session += 1;
        let session = SessionKey(self.last_session);
        let (pump, remote) = (self.pump_of(&key), carrier.remote);
        let (side, grace) = (Side::Relay, self.config.grace);
        let (id, is_carried) = (None, true);
        let state = Session { key, name: Arc::clone(&name), pump, remote, local, id, is_carried };
        self.arrivals.insert(session, state);
        let arrival = Arrival { session, key, name, grace, sessions_max, quota, volume, has_path };
        self.tell(pump, Command::Carry { side, arrival, carrier: Box::new(carrier) })
    }

    fn close(&self, session: SessionKey, reason: GoawayReason, why: &str) -> Result<(), Failed> {
        let found = self.sessions.get(&session).or_else(|| self.arrivals.get(&session));
        let Some(state) = found else { return Ok(()) };
        self.tell(state.pump, Command::Close { session, reason, why: why.to_owned() })
    }

    fn handle_event(&mut self, event: Event, now: Instant) -> Result<(), Failed> {
        match event {
            Event::Up { session, carrier, id, is_resumed } => {
                return self.handle_up(session, carrier, id, is_resumed);
            }
            Event::Lost { session, why } => self.handle_lost(session, &why, now),
            Event::Dropped { session, why } => self.handle_dropped(session, &why, now),
            Event::Suspect { .. } => {}
            Event::Frame { session, frame } => return self.handle_frame(session, frame, now),
            Event::Heard { call, heard } => return self.handle_heard(call, heard),
            Event::Opened { session, flow, open } => {
                return self.handle_opened(session, flow, open, now);
            }
            Event::Down { session, why } => self.handle_down(session, &why, now),
            Event::Pulse(asked) => self.service.handle_pulse(asked, now),
            Event::Report(report) if report.times.is_some() => self.live.handle_report(report),
            Event::Report(report) => self.gathering.handle_report(report),
            Event::Moved(moved) => {
                moved.into_iter().for_each(|(key, bytes)| self.volumes.handle_moved(key, bytes));
            }
            Event::Quiet => return self.handle_upgrade(UpgradeStep::Quiet, now),
            Event::Packed { pump, packed } => {
                return self.handle_upgrade(UpgradeStep::Packed(pump, packed), now);
            }
            Event::Restored(_) => {}
        }
        Ok(())
    }

    fn terminate(&mut self, now: Instant) -> Result<(), Failed> {
        if self.ending.is_some() {
            return self.close_all(now);
        }
        self.service.stopping();
        tracing::info!("ending when the last flow has ended, or in {} s", DRAIN_MAX.as_secs());
        self.ending = Some(Ending::Draining { until: now + DRAIN_MAX });
        self.listeners.drain(..).for_each(|listener| net::stop_listening(&listener));
        for lease in self.registrar.drain(|_| true) {
            self.close_contact(&lease)?;
        }
        let waiting = self.absence.drain();
        self.refuse_all(waiting)?;
        for (&session, state) in &self.sessions {
            self.tell(state.pump, Command::Drain { session })?;
        }
        Ok(())
    }

    fn close_all(&mut self, now: Instant) -> Result<(), Failed> {
        self.ending = Some(Ending::Closing { until: now + CLOSE_MAX });
        let why = "the relay is ending";
        let mut sessions = self.sessions.keys().chain(self.arrivals.keys());
        sessions.try_for_each(|session| self.close(*session, GoawayReason::Ending, why))?;
        // It may be over before the last of them has said goodbye.
        self.tell_all(|| Command::Moved)
    }

    fn has_ended(&self) -> bool {
        match self.ending {
            None => false,
            Some(Ending::Draining { .. }) => self.sessions.is_empty(),
            Some(Ending::Closing { until }) => self.sessions.is_empty() || Instant::now() >= until,
        }
    }

    fn poll_timeout(&self) -> Instant {
        let ending = self.ending.map(|ending| match ending {
            Ending::Draining { until } | Ending::Closing { until } => until,
        });
        let others = [
            self.registrar.poll_timeout(),
            self.absence.poll_timeout(),
            self.beat.poll_timeout(),
            self.gathering.poll_timeout(),
            self.live.poll_timeout(),
            self.service.poll_timeout(),
            self.volumes.poll_timeout(),
            ending,
        ];
        let others = if self.upgrade.is_held() { [None; 8] } else { others };
        let others = others.into_iter().chain([self.upgrade.poll_timeout()]);
        let idle = Instant::now() + IDLE_MAX;
        others.flatten().fold(idle, Instant::min)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Failed> {
        let deed = self.upgrade.handle_timeout(now);
        self.perform(deed, now)?;
        if self.upgrade.is_held() {
            return Ok(());
        }
        self.end_echoes()?;
        for lease in self.registrar.handle_timeout(now) {
            self.end_lease(&lease)?;
        }
        let waited = self.absence.handle_timeout(now);
        self.refuse_all(waited)?;
        let refused = self.beat.handle_timeout(now);
        self.refuse_all(refused)?;
        self.check_volumes(UnixTime::now(), now)?;
        self.report(now)?;
        match self.ending {
            Some(Ending::Draining { until }) if until <= now => self.close_all(now),
            _ => Ok(()),
        }
    }
}
