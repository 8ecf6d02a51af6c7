//! Many forwarders in one process, each with a key, a source address and a session of its own at one
//! relay. Dialling, handshakes, sessions and the waits between attempts are the product's; only what
//! `adit run` has around them (peers, the local API, a pump for each) is left out, so that thousands fit
//! on one machine.
//!
//! It writes the keys to where the relay reads who is let in, and says `ready`; it is told `go`, and
//! `mark`, to which it answers `mark N up N dials N .`. Whenever all forwarders are up it says
//! `complete begun N in_ms N dials N N … .`: the sessions begun since the start; how long ago the first
//! forwarder was lost; and the dials since then, see [`Counts::dials_by_wait`]. It ends with its input.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit::config::{Admitted, Bind, GatewayConfig, Place, Places, Role};
use adit::forwarder::Tunnel;
use adit::gateway::{DialError, Gateway};
use adit::handoff::{
    self, Arrival, Carrier, Command, Event, PumpHandle, Quota, SessionKey, Volume,
};
use adit::key::{PrivateKey, PublicKey};
use adit::{net, pump};
use adit_proto::id::Side;
use adit_proto::limits::GRACE;
use clap::Parser;
use tokio::sync::mpsc;

/// Dials are counted together whose forwarders had waited for so long, less than one more of it.
const BUCKET: Duration = Duration::from_millis(100);
/// A session's number has its forwarder's above so many bits, and below them which of the forwarder's
/// sessions it is: all of them live on one pump.
const SESSIONS_BITS: u32 = 32;
/// Hosts of a network of 256 that are used.
const HOSTS: u32 = 254;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
struct Arguments {
    /// The relay.
    relay: Place,
    /// Its key.
    relay_key: PublicKey,
    /// How many forwarders.
    count: usize,
    /// The first of the networks of 256 addresses that they come from in turn …
    first: Ipv4Addr,
    /// … and how many of those there are.
    networks: u32,
    /// The relay's file of enrolled keys.
    enrolled: PathBuf,
}

impl Arguments {
    /// Where the forwarder with this number is.
    fn address(&self, number: usize) -> Outcome<Ipv4Addr> {
        let number = u32::try_from(number)?;
        let (network, host) = (number % self.networks, 1 + number / self.networks % HOSTS);
        Ok(Ipv4Addr::from(u32::from(self.first) + (network << 8) + host))
    }
}

/// Everything that can happen to the herd.
#[derive(Debug)]
enum Input {
    Event(Event),
    /// What came of a forwarder's attempt with this number.
    Dialled(usize, u64, Result<Carrier, DialError>),
    Told(String),
    /// Nobody will tell it any more.
    Enough,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// One forwarder.
#[derive(Debug)]
struct Member {
    key: PublicKey,
    gateway: Rc<Gateway>,
    tunnel: Tunnel,
    dialling: Option<net::Task>,
    is_up: bool,
    /// How long it was told to wait since it was up, all waits together.
    waited: Duration,
    /// When it is to be looked after next.
    due: Option<Instant>,
}

impl Member {
    fn new(arguments: &Arguments, number: usize) -> Outcome<Self> {
        let key = PrivateKey::generate()?;
        let relay = Places::from(arguments.relay.clone());
        let bind = Some(Bind::Address(arguments.address(number)?.into()));
        let gateway = Gateway::new(relay, &key, arguments.relay_key)?
            .through(&GatewayConfig { bind, ..GatewayConfig::default() })?;
        let mut tunnel = Tunnel::new(Instant::now());
        tunnel.take_over(None, (number as u64) << SESSIONS_BITS);
        Ok(Self {
            key: key.public(),
            gateway: Rc::new(gateway),
            tunnel,
            dialling: None,
            is_up: false,
            waited: Duration::ZERO,
            due: None,
        })
    }

    /// The attempt that counts has ended; returns the session to offer its carrier to.
    fn handle_dialled(&mut self, dialled: &Result<Carrier, DialError>) -> Option<SessionKey> {
        match dialled {
            Ok(carrier) => Some(self.tunnel.handle_dialled(carrier.remote, carrier.peer)),
            Err(error) => {
                let wait = self.tunnel.handle_not_dialled(error.ended(), Instant::now());
                self.waited += wait.unwrap_or_default();
                None
            }
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        let wait = match event {
            Event::Up { id, .. } => {
                self.tunnel.handle_up(id, now);
                (self.is_up, self.waited) = (true, Duration::ZERO);
                None
            }
            Event::Lost { .. } => {
                self.is_up = false;
                self.tunnel.handle_lost(now)
            }
            Event::Down { why, .. } => {
                self.is_up = false;
                Some(self.tunnel.handle_down(&why, now))
            }
            Event::Dropped { .. } => self.tunnel.handle_dropped(now),
            Event::Suspect { is_suspect, .. } => {
                self.tunnel.handle_suspect(is_suspect, now);
                None
            }
            _ => None,
        };
        self.waited += wait.unwrap_or_default();
    }
}

/// What is counted.
#[derive(Debug)]
struct Counts {
    members: usize,
    up: usize,
    begun: usize,
    dials: usize,
    /// When the first was lost of those that were up, all of them.
    since: Instant,
    /// The dials since then, in buckets by how long the forwarder had been told to wait before, all its
    /// waits together. So forwarders would dial if nothing but the waits took time: on a machine that
    /// is too slow for all of them they are spread by that alone.
    dials_by_wait: Vec<usize>,
}

impl Counts {
    fn new(members: usize) -> Self {
        let (since, dials_by_wait) = (Instant::now(), Vec::new());
        Self { members, up: 0, begun: 0, dials: 0, since, dials_by_wait }
    }

    fn handle_dial(&mut self, waited: Duration) {
        self.dials += 1;
        let bucket = usize::try_from(waited.as_millis() / BUCKET.as_millis()).unwrap_or(0);
        if self.dials_by_wait.len() <= bucket {
            self.dials_by_wait.resize(bucket + 1, 0);
        }
        self.dials_by_wait[bucket] += 1;
    }

    fn handle_up(&mut self) {
        self.up += 1;
        if self.up == self.members {
            let (begun, ms) = (self.begun, self.since.elapsed().as_millis());
            let dials = self.dials_by_wait.iter().map(|dials| format!("{dials} "));
            println!("complete begun {begun} in_ms {ms} dials {}.", dials.collect::<String>());
        }
    }

    fn handle_lost(&mut self, now: Instant) {
        if self.up == self.members {
            self.since = now;
            self.dials_by_wait.clear();
        }
        self.up -= 1;
    }
}

struct Herd {
    relay_key: PublicKey,
    name: Arc<str>,
    pump: PumpHandle,
    inbox: mpsc::Sender<Input>,
    members: Vec<Member>,
    /// Who is to be looked after, by when.
    agenda: BTreeSet<(Instant, usize)>,
    counts: Counts,
    marks: usize,
}

impl Herd {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Outcome<()> {
        loop {
            self.dial_due(Instant::now());
            let until = self.agenda.first().map(|(until, _)| *until);
            let input = match until {
                Some(until) => tokio::time::timeout_at(until.into(), inputs.recv()).await,
                None => Ok(inputs.recv().await),
            };
            match input {
                Ok(Some(Input::Event(event))) => self.handle_event(event, Instant::now()),
                Ok(Some(Input::Dialled(number, attempt, dialled))) => {
                    self.handle_dialled(number, attempt, dialled)?;
                }
                Ok(Some(Input::Told(word))) => self.handle_word(&word),
                Ok(Some(Input::Enough) | None) => return Ok(()),
                Err(_due) => {}
            }
        }
    }

    fn handle_word(&mut self, word: &str) {
        if word == "go" {
            self.counts.since = Instant::now();
            (0..self.members.len()).for_each(|number| self.schedule(number));
        } else {
            self.marks += 1;
            println!("mark {} up {} dials {} .", self.marks, self.counts.up, self.counts.dials);
        }
    }

    /// Puts a forwarder's next dial on the agenda.
    fn schedule(&mut self, number: usize) {
        let Some(member) = self.members.get_mut(number) else { return };
        let due = member.tunnel.poll_timeout();
        if let Some(before) = mem::replace(&mut member.due, due) {
            self.agenda.remove(&(before, number));
        }
        self.agenda.extend(due.map(|due| (due, number)));
    }

    fn dial_due(&mut self, now: Instant) {
        while let Some(&(due, number)) = self.agenda.first()
            && due <= now
        {
            self.dial(number, now);
            self.schedule(number);
        }
    }

    fn dial(&mut self, number: usize, now: Instant) {
        let Some(member) = self.members.get_mut(number) else { return };
        let Some(attempt) = member.tunnel.poll_dial(now) else { return };
        let (gateway, inbox) = (Rc::clone(&member.gateway), self.inbox.clone());
        member.dialling = Some(net::spawn_until_dropped(async move {
            let dialled = gateway.dial().await;
            inbox.send(Input::Dialled(number, attempt, dialled)).await.ok();
        }));
        self.counts.handle_dial(member.waited);
    }

    fn handle_dialled(
        &mut self,
        number: usize,
        attempt: u64,
        dialled: Result<Carrier, DialError>,
    ) -> Outcome<()> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        if !member.tunnel.is_awaited(attempt) {
            return Ok(());
        }
        if let (Some(session), Ok(carrier)) = (member.handle_dialled(&dialled), dialled) {
            let (name, key, grace) = (Arc::clone(&self.name), self.relay_key, GRACE);
            let (quota, volume) = (Quota::default(), Volume::default());
            let arrival = Arrival {
                session,
                key,
                name,
                grace,
                sessions_max: 1,
                quota,
                volume,
                has_path: true,
            };
            let (side, carrier) = (Side::Forwarder, Box::new(carrier));
            self.pump.send(Command::Carry { side, arrival, carrier })?;
        }
        self.schedule(number);
        Ok(())
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        let (Event::Up { session, .. }
        | Event::Lost { session, .. }
        | Event::Suspect { session, .. }
        | Event::Dropped { session, .. }
        | Event::Down { session, .. }) = event
        else {
            return;
        };
        let number = usize::try_from(session.0 >> SESSIONS_BITS).unwrap_or(usize::MAX);
        let Some(member) = self.members.get_mut(number) else { return };
        if !member.tunnel.is_current(session) {
            return;
        }
        let was_up = member.is_up;
        self.counts.begun += usize::from(matches!(event, Event::Up { is_resumed: false, .. }));
        member.handle_event(event, now);
        match (was_up, member.is_up) {
            (false, true) => self.counts.handle_up(),
            (true, false) => self.counts.handle_lost(now),
            _ => {}
        }
        self.schedule(number);
    }
}

/// Passes on what the test says.
fn listen(inbox: &mpsc::Sender<Input>) {
    let words = io::stdin().lines().map_while(Result::ok).map(Input::Told);
    for input in words.chain([Input::Enough]) {
        if inbox.blocking_send(input).is_err() {
            return;
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    net::raise_descriptor_limit();
    let (sender, events) = handoff::events()?;
    let pump = pump::spawn(pump::probe()?, sender)?;
    let members = (0..arguments.count).map(|number| Member::new(arguments, number));
    let members = members.collect::<Outcome<Vec<_>>>()?;
    let admitted = |(number, member): (usize, &Member)| {
        Admitted::new(format!("herd-{number}"), member.key, Role::Forwarder).to_string()
    };
    fs::write(&arguments.enrolled, members.iter().enumerate().map(admitted).collect::<String>())?;
    println!("ready");
    net::run(async move {
        let (inbox, inputs) = mpsc::channel(net::INBOX_MAX);
        net::forward_events(events, inbox.clone())?;
        let ear = inbox.clone();
        thread::spawn(move || listen(&ear));
        let herd = Herd {
            relay_key: arguments.relay_key,
            name: arguments.relay.to_string().into(),
            pump,
            inbox,
            counts: Counts::new(members.len()),
            members,
            agenda: BTreeSet::new(),
            marks: 0,
        };
        herd.run(inputs).await
    })
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}
