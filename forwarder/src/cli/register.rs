//! `adit register`, `unregister`, `peers` and `token`: what concerns the peers of the running forwarder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{SocketArgs, parsed, say};
use crate::api::{self, Client, ClientError, NewPeer, StatusCode};
use crate::config::{self, PortRange};
use crate::exit::{Exit, Failed};
use crate::status::{PeerStatus, peers_table};

/// Bytes of chance in a token.
const TOKEN_BYTES: usize = 32;
/// A kept peer is renewed this often in the time of its lease, so that two may fail.
const RENEWALS_PER_LEASE: u32 = 3;
/// How long until a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// A peer to be registered.
#[derive(Clone, Debug, Args)]
pub(super) struct RegisterArgs {
    /// The peer's name.
    name: String,
    /// What kind of socket it listens on.
    kind: Kind,
    /// Where it listens: host:port, or the socket's path.
    address: String,
    /// Where it is to be reached: public:PORT, or private, by its name alone.
    #[arg(long, value_name = "CONTACT", default_value = "private")]
    contact: String,
    /// For how long, as 30s, 5m or 2h; 10 seconds to 24 hours.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    lease: humantime::Duration,
    /// Renew it until TERM or INT comes, then unregister it.
    #[arg(long)]
    keep: bool,
    /// Tell the peer who calls, by the PROXY protocol: v1 or v2.
    #[arg(long, value_name = "VERSION")]
    proxy_protocol: Option<String>,
    /// Check so often that the peer accepts connections, as 10s.
    #[arg(long, value_name = "TIME")]
    health: Option<humantime::Duration>,
    /// Flows that it may have at once [default: no limit].
    #[arg(long, value_name = "COUNT")]
    flows_max: Option<usize>,
    /// New flows in a second [default: no limit].
    #[arg(long, value_name = "COUNT")]
    flows_per_s: Option<u32>,
    /// Bytes in a second, both ways together [default: no limit].
    #[arg(long, value_name = "BYTES")]
    bytes_per_s: Option<u64>,
    /// External sources that may reach it, as 203.0.113.0/24 [default: all of them].
    #[arg(long, value_name = "NETS", value_delimiter = ',')]
    allow: Option<Vec<String>>,
    /// External sources that may not.
    #[arg(long, value_name = "NETS", value_delimiter = ',')]
    deny: Vec<String>,
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Tcp,
    Udp,
    Unix,
}

/// A peer that goes.
#[derive(Clone, Debug, Args)]
pub(super) struct UnregisterArgs {
    /// The peer's name.
    name: String,
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// A token for a peer.
#[derive(Clone, Debug, Args)]
pub(super) struct TokenArgs {
    /// The one name that it is to register.
    peer: String,
    /// The contact points that it may ask for, as 8000-8010 or private.
    #[arg(long, value_name = "CONTACTS", value_delimiter = ',', default_value = "private")]
    contacts: Vec<String>,
}

impl RegisterArgs {
    fn peer(&self) -> Result<NewPeer, Failed> {
        let address = || self.address.clone();
        let (tcp, udp, unix) = match self.kind {
            Kind::Tcp => (Some(address()), None, None),
            Kind::Udp => (None, Some(address()), None),
            Kind::Unix => (None, None, Some(absolute(Path::new(&self.address))?)),
        };
        Ok(NewPeer {
            name: self.name.clone(),
            tcp,
            udp,
            unix,
            contact: Some(self.contact.clone()),
            lease_s: Some(self.lease.as_secs()),
            proxy_protocol: self.proxy_protocol.clone(),
            health_s: self.health.map(|every| every.as_secs()),
            flows_max: self.flows_max,
            flows_per_s: self.flows_per_s,
            bytes_per_s: self.bytes_per_s,
            allow: self.allow.clone(),
            deny: self.deny.clone(),
        })
    }
}

/// The daemon has another working directory.
fn absolute(path: &Path) -> Result<PathBuf, Failed> {
    let bad = |error: io::Error| Failed::new(Exit::Usage, format!("{}: {error}", path.display()));
    std::path::absolute(path).map_err(bad)
}

/// Registers a peer, and prints where it is reached.
pub(super) fn register(args: &RegisterArgs, socket: &Path) -> Result<(), Failed> {
    let (client, peer) = (Client::new(socket), args.peer()?);
    // From the start: a signal that comes while the relay is asked must not leave the peer behind.
    let signals = args.keep.then(Signals::new).transpose();
    let signals = signals.map_err(|error| Failed::new(Exit::Failure, error))?;
    let registered: PeerStatus = parsed(&client.post("/v1/peers", &peer)?)?;
    say(&registered.contact);
    if !registered.registered {
        let reason = registered.reason.map_or(String::new(), |reason| format!(": {reason}"));
        eprintln!("not reachable at the moment ({}{reason})", registered.state);
    }
    match signals {
        None => Ok(()),
        Some(signals) => keep(&client, &peer, args.lease.into(), signals),
    }
}

fn keep(
    client: &Client,
    peer: &NewPeer,
    lease: Duration,
    mut signals: Signals,
) -> Result<(), Failed> {
    let mut wait = lease / RENEWALS_PER_LEASE;
    while !signals.wait(wait) {
        // Not only renewed: a forwarder that was restarted has forgotten it.
        wait = match client.post("/v1/peers", peer) {
            Ok(_) => lease / RENEWALS_PER_LEASE,
            Err(error) if is_passing(&error) => {
                eprintln!("not renewed, trying again: {error}");
                RETRY
            }
            Err(error) => return Err(error.into()),
        };
    }
    match client.delete(&format!("/v1/peers/{}", peer.name)) {
        Ok(_) | Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether trying again can help: the forwarder is being restarted, or has no tunnel.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => status.is_server_error(),
        ClientError::Unreachable { .. } | ClientError::Broken { .. } => true,
    }
}

/// The signals that end what is kept.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(inside);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Waits for `time`, or until a signal comes: then it is true.
    fn wait(&mut self, time: Duration) -> bool {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}

/// Removes a peer.
pub(super) fn unregister(args: &UnregisterArgs, socket: &Path) -> Result<(), Failed> {
    Client::new(socket).delete(&format!("/v1/peers/{}", args.name))?;
    Ok(())
}

/// Shows the peers.
pub(super) fn peers(socket: &Path) -> Result<(), Failed> {
    let peers: Vec<PeerStatus> = parsed(&Client::new(socket).get("/v1/peers")?)?;
    say(&peers_table(&peers).to_string());
    Ok(())
}

/// Makes a token, and prints it with what the forwarder's configuration has to say about it.
pub(super) fn token(args: &TokenArgs) -> Result<(), Failed> {
    let bad = |what| Err(Failed::new(Exit::Usage, what));
    config::name(&args.peer).map_err(|bad| Failed::new(Exit::Usage, bad))?;
    for contact in args.contacts.iter().filter(|contact| *contact != "private") {
        if let Err(error) = contact.parse::<PortRange>() {
            return bad(format!("--contacts: {error}"));
        }
    }
    let mut bytes = [0; TOKEN_BYTES];
    rand::fill(&mut bytes).map_err(|error| Failed::new(Exit::Failure, error))?;
    let token = format!("adit-{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let contacts: Vec<_> = args.contacts.iter().map(|contact| format!("\"{contact}\"")).collect();
    let (peer, hash, contacts) = (&args.peer, api::hash(&token), contacts.join(", "));
    say(&format!(
        "# for the peer alone; the forwarder keeps only its hash\n{token}\n\n\
         # for the forwarder's configuration\n[[token]]\npeer = \"{peer}\"\nsha256 = \"{hash}\"\n\
         contacts = [{contacts}]"
    ));
    Ok(())
}
