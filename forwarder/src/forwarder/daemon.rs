//! The forwarder's loop and its state.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::id::{ContactId, SessionId, Side};
use tokio::sync::mpsc;

use crate::config::ForwarderConfig;
use crate::exit::{Exit, Failed};
use crate::gateway::{DialError, Ended, Gateway, Redial};
use crate::handoff::{Carrier, Command, Down, Event, PumpHandle, Report, SessionKey};
use crate::key::PublicKey;
use crate::net::{self, Signal};
use crate::registrar::{Action, Registrar};
use crate::status::{Ask, CarrierStatus, ForwarderStatus, Gathering, Memory, Traffic, VERSION};

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
    Dialled(Result<Carrier, DialError>),
    Resolved(ContactId, io::Result<SocketAddr>),
    Ask(Ask),
    Signal(Signal),
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

impl From<Signal> for Input {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

impl From<Ask> for Input {
    fn from(ask: Ask) -> Self {
        Self::Ask(ask)
    }
}

/// How far the tunnel has come.
#[derive(Debug)]
enum Tunnel {
    Waiting { until: Instant },
    Dialling,
    Carried { session: SessionKey, remote: SocketAddr, up: Option<Up> },
}

#[derive(Clone, Copy, Debug)]
struct Up {
    id: SessionId,
    since: Instant,
}

/// The way to the end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Draining { until: Instant },
    Closing { until: Instant },
}

pub(super) struct Daemon {
    file: PathBuf,
    config: ForwarderConfig,
    key: PublicKey,
    gateway: Rc<Gateway>,
    pump: PumpHandle,
    inbox: mpsc::Sender<Input>,
    registrar: Registrar,
    tunnel: Tunnel,
    redial: Redial,
    last_session: u64,
    last_error: Option<String>,
    gathering: Gathering,
    ending: Option<Ending>,
}

impl Daemon {
    pub(super) fn new(
        file: &Path,
        config: ForwarderConfig,
        key: PublicKey,
        gateway: Gateway,
        pump: PumpHandle,
        inbox: mpsc::Sender<Input>,
    ) -> Self {
        Self {
            file: file.into(),
            registrar: Registrar::new(config.peers.clone()),
            config,
            key,
            gateway: Rc::new(gateway),
            pump,
            inbox,
            tunnel: Tunnel::Waiting { until: Instant::now() },
            redial: Redial::default(),
            last_session: 0,
            last_error: None,
            gathering: Gathering::new(1),
            ending: None,
        }
    }

    /// Runs until the end. Fails only when the pump does.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Failed> {
        loop {
            self.handle_timeout(Instant::now())?;
            while let Some(action) = self.registrar.poll_action() {
                self.act(action)?;
            }
            if self.has_ended() {
                return self.tell(Command::Stop);
            }
            let until = self.poll_timeout();
            if let Ok(Some(input)) = tokio::time::timeout_at(until.into(), inputs.recv()).await {
                self.handle(input, Instant::now())?;
            }
        }
    }

    fn handle(&mut self, input: Input, now: Instant) -> Result<(), Failed> {
        match input {
            Input::Event(event) => self.handle_event(event, now),
            Input::Dialled(Ok(carrier)) => return self.start(carrier),
            Input::Dialled(Err(error)) => self.handle_no_carrier(&error, now),
            Input::Resolved(id, resolved) => self.registrar.handle_resolved(id, resolved, now),
            Input::Ask(ask) => {
                if self.gathering.handle_ask(ask, now) {
                    return self.tell(Command::Report);
                }
            }
            Input::Signal(Signal::Reload) => self.reload(),
            Input::Signal(Signal::Terminate) => return self.terminate(now),
        }
        Ok(())
    }

    fn tell(&self, command: Command) -> Result<(), Failed> {
        self.pump.send(command).map_err(|gone| Failed::new(Exit::Failure, gone))
    }

    fn act(&self, action: Action) -> Result<(), Failed> {
        match action {
            Action::Tell(command) => return self.tell(command),
            Action::Resolve(id, place) => {
                let inbox = self.inbox.clone();
                net::spawn(async move {
                    let resolved = net::resolve(place).await.and_then(|addresses| {
                        addresses.first().copied().ok_or_else(|| io::ErrorKind::NotFound.into())
                    });
                    // The loop has ended: nobody needs the address.
                    inbox.send(Input::Resolved(id, resolved)).await.ok();
                });
            }
        }
        Ok(())
    }

    fn dial(&mut self) {
        self.tunnel = Tunnel::Dialling;
        let (gateway, inbox) = (Rc::clone(&self.gateway), self.inbox.clone());
        net::spawn(async move {
            let dialled = gateway.dial().await;
            inbox.send(Input::Dialled(dialled)).await.ok();
        });
    }

    fn start(&mut self, carrier: Carrier) -> Result<(), Failed> {
        if self.ending.is_some() {
            return Ok(());
        }
        self.last_session += 1;
        let session = SessionKey(self.last_session);
        self.tunnel = Tunnel::Carried { session, remote: carrier.remote, up: None };
        let name = Arc::from(self.config.relay.to_string());
        let carrier = Box::new(carrier);
        self.tell(Command::Start { session, side: Side::Forwarder, name, carrier })
    }

    fn handle_no_carrier(&mut self, error: &DialError, now: Instant) {
        let wait = self.wait_after(error.ended(), now);
        tracing::warn!(relay = %self.config.relay, again_in = ?wait, "no tunnel: {error}");
        self.last_error = Some(error.to_string());
    }

    fn wait_after(&mut self, ended: Ended, now: Instant) -> Duration {
        let wait = self.redial.wait(ended, false);
        self.tunnel = Tunnel::Waiting { until: now + wait };
        Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// Events of sessions that are no longer ours are late news.
    fn handle_event(&mut self, event: Event, now: Instant) {
        let (current, remote) = match self.tunnel {
            Tunnel::Carried { session, remote, .. } => (Some(session), Some(remote)),
            _ => (None, None),
        };
        match event {
            Event::Up { session, id } if Some(session) == current => {
                if let Tunnel::Carried { up, remote, .. } = &mut self.tunnel {
                    tracing::info!(relay = %self.config.relay, %remote, session = %id, "tunnel up");
                    *up = Some(Up { id, since: now });
                }
                self.last_error = None;
                self.registrar.handle_up(session);
            }
            Event::Frame { session, frame } if Some(session) == current => {
                self.registrar.handle_frame(frame, now);
            }
            Event::Down { session, why } if Some(session) == current => {
                self.handle_down(&why, remote, now);
            }
            Event::Report(report) => self.gathering.handle_report(report),
            Event::Up { .. } | Event::Frame { .. } | Event::Down { .. } => {}
        }
    }

    fn handle_down(&mut self, why: &Down, remote: Option<SocketAddr>, now: Instant) {
        let up_for = match self.tunnel {
            Tunnel::Carried { up: Some(up), .. } => Some(now.duration_since(up.since)),
            _ => None,
        };
        let ended = match (why, up_for) {
            (Down::Denied, _) => Ended::Denied,
            (_, Some(up_for)) => Ended::Lost(up_for),
            (_, None) => Ended::Failed,
        };
        self.registrar.handle_down();
        let wait = self.wait_after(ended, now);
        self.last_error = Some(why.to_string());
        let (relay, key) = (&self.config.relay, self.key);
        match (why, up_for) {
            _ if self.ending.is_some() => tracing::info!(%relay, "tunnel closed"),
            (Down::Denied, _) => tracing::error!(
                again_in = ?wait,
                "the relay {relay} does not accept this key: add it there, as a [[forwarder]] with \
                 key = \"{key}\", then reload the relay (kill -HUP)"
            ),
            (_, Some(_)) => {
                let remote = remote.map(tracing::field::display);
                tracing::warn!(%relay, remote, again_in = ?wait, "tunnel lost: {why}");
            }
            (_, None) => tracing::warn!(%relay, again_in = ?wait, "no tunnel: {why}"),
        }
    }

    /// Only the peers change while the daemon runs; a file that is wrong changes nothing.
    fn reload(&mut self) {
        let config = match ForwarderConfig::load(&self.file) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("nothing is changed: {error}");
                return;
            }
        };
        let peers = config.peers.clone();
        let old = ForwarderConfig { peers: config.peers.clone(), ..self.config.clone() };
        if old != config {
            tracing::warn!(
                "only the peers are reloaded: a change of key, relay, relay_key or socket needs a restart"
            );
        }
        tracing::info!(file = %self.file.display(), peers = peers.len(), "reloaded");
        self.config.peers.clone_from(&peers);
        self.registrar.handle_peers(peers);
    }

    fn terminate(&mut self, now: Instant) -> Result<(), Failed> {
        let is_second = self.ending.is_some();
        if is_second {
            return self.close(now);
        }
        tracing::info!("ending when the last flow has ended, or in {} s", DRAIN_MAX.as_secs());
        self.ending = Some(Ending::Draining { until: now + DRAIN_MAX });
        match self.tunnel {
            Tunnel::Carried { session, .. } => self.tell(Command::Drain { session }),
            _ => Ok(()),
        }
    }

    fn close(&mut self, now: Instant) -> Result<(), Failed> {
        self.ending = Some(Ending::Closing { until: now + CLOSE_MAX });
        let Tunnel::Carried { session, .. } = self.tunnel else { return Ok(()) };
        self.tell(Command::Close { session, why: "the forwarder is ending".to_owned() })
    }

    fn has_ended(&self) -> bool {
        let is_carried = matches!(self.tunnel, Tunnel::Carried { .. });
        match self.ending {
            None => false,
            Some(Ending::Draining { .. }) => !is_carried,
            Some(Ending::Closing { until }) => !is_carried || Instant::now() >= until,
        }
    }

    fn poll_timeout(&self) -> Instant {
        let tunnel = match self.tunnel {
            Tunnel::Waiting { until } => Some(until),
            _ => None,
        };
        let ending = self.ending.map(|ending| match ending {
            Ending::Draining { until } | Ending::Closing { until } => until,
        });
        let others = [self.registrar.poll_timeout(), self.gathering.poll_timeout(), tunnel, ending];
        let idle = Instant::now() + IDLE_MAX;
        others.into_iter().flatten().fold(idle, Instant::min)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Failed> {
        self.registrar.handle_timeout(now);
        if let Some((asks, reports)) = self.gathering.poll_answer(now) {
            let status = serde_json::to_string(&self.status(&reports)).unwrap_or_default();
            for Ask(sender) in asks {
                // Whoever asked may have gone.
                sender.send(status.clone()).ok();
            }
        }
        match (self.ending, &self.tunnel) {
            (Some(Ending::Draining { until }), _) if until <= now => self.close(now)?,
            (None, Tunnel::Waiting { until }) if *until <= now => self.dial(),
            _ => {}
        }
        Ok(())
    }

    fn status(&self, reports: &[Report]) -> ForwarderStatus {
        let (state, session, remote, up) = match self.tunnel {
            Tunnel::Waiting { .. } => ("waiting", None, None, None),
            Tunnel::Dialling => ("dialling", None, None, None),
            Tunnel::Carried { session, remote, up: None } => {
                ("opening", Some(session), Some(remote), None)
            }
            Tunnel::Carried { session, remote, up: Some(up) } => {
                ("up", Some(session), Some(remote), Some(up))
            }
        };
        let mut sessions = reports.iter().flat_map(|report| &report.sessions);
        let report = sessions.find(|report| Some(SessionKey(report.key)) == session);
        ForwarderStatus {
            version: VERSION.to_owned(),
            key: self.key.to_string(),
            relay: self.config.relay.to_string(),
            carrier: CarrierStatus {
                state: state.to_owned(),
                remote: remote.map(|remote| remote.to_string()),
                round_trip_us: report.map_or(0, |report| report.round_trip_us),
                last_error: self.last_error.clone(),
            },
            session: up.map(|up| up.id.to_string()),
            peers: self.registrar.peers(),
            flows: report.map_or(0, |report| report.flows),
            traffic: report.map(Traffic::from).unwrap_or_default(),
            memory: Memory::of(reports),
        }
    }
}
