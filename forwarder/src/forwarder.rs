//! The daemon `adit run`: the internal contact point. One loop takes every input in turn; what
//! takes time runs beside it and reports through the same inbox.

mod daemon;
mod listeners;
mod outward;
mod socks;
mod stdio;
mod tunnel;

use std::path::{Path, PathBuf};

use adit_ring::Features;
use tokio::sync::mpsc;

use crate::api;
use crate::config::ForwarderConfig;
use crate::exit::{Exit, Failed};
use crate::gateway::Gateway;
use crate::handoff::{self, EventReceiver, PumpHandle};
use crate::key::PrivateKey;
use crate::pump;
use crate::upgrade::Predecessor;
use crate::{logging, net, privilege, status};
use daemon::{Daemon, Input};

pub use tunnel::Tunnel;

/// What the daemon is for.
#[derive(Clone, Debug)]
enum Role {
    /// The internal contact point, with its configuration's file.
    Contact(PathBuf),
    /// An external peer that calls by name, for its user alone.
    Caller {
        /// The name that standard input and output are joined to.
        stdio: Option<String>,
    },
}

/// Runs a forwarder with the configuration of `file` until it is told to end.
///
/// # Errors
/// When the configuration, the key, the kernel or the socket does not allow it.
pub fn run(file: &Path) -> Result<(), Failed> {
    run_after(None, file)
}

/// The same, but it goes on with what the process has that started this one.
///
/// # Errors
/// As of [`run`], or when that process has nothing for this one.
pub fn take_over(file: &Path) -> Result<(), Failed> {
    run_after(Some(Predecessor::meet()?), file)
}

fn run_after(predecessor: Option<Predecessor>, file: &Path) -> Result<(), Failed> {
    let config = ForwarderConfig::load(file)?;
    let key = PrivateKey::load(&config.key)?;
    logging::follow(config.log_level);
    let folder = config.socket.parent().unwrap_or(Path::new(""));
    privilege::drop_to(config.user.as_deref(), file, &[folder])?;
    let (inbox, inputs) = mpsc::channel(net::INBOX_MAX);
    let routes = || {
        let shared = api::routes().merge(api::histogram_routes()).merge(api::reload_routes());
        shared.merge(api::peers_routes()).merge(api::upgrade_routes())
    };
    let _socket = api::serve(&config.socket, inbox.clone(), routes())
        .map_err(|error| Failed::new(Exit::Failure, error))?;
    if let Some(listen) = config.api {
        api::serve_lan(listen, inbox.clone(), routes()).map_err(|error| {
            Failed::new(Exit::Failure, format!("[api]: cannot listen on {listen}: {error}"))
        })?;
    }
    if let Some(listen) = config.metrics.listen {
        api::serve_metrics(listen, inbox.clone()).map_err(|error| {
            Failed::new(Exit::Failure, format!("[metrics]: cannot listen on {listen}: {error}"))
        })?;
    }
    let (version, peers) = (status::VERSION, config.peers.len());
    tracing::info!(key = %key.public(), relay = %config.relay, peers, "adit {version} starts");
    start((Role::Contact(file.into()), predecessor), config, &key, inbox, inputs)
}

/// Calls a private contact point, or offers some, as an external peer: the listeners of `config` are
/// this host's own, and with `stdio` standard input and output lead to that name.
///
/// # Errors
/// When the kernel does not allow it; with `stdio` also when there is no way to the name.
pub fn call(
    config: ForwarderConfig,
    key: &PrivateKey,
    stdio: Option<String>,
) -> Result<(), Failed> {
    let (inbox, inputs) = mpsc::channel(net::INBOX_MAX);
    start((Role::Caller { stdio }, None), config, key, inbox, inputs)
}

fn start(
    (role, predecessor): (Role, Option<Predecessor>),
    config: ForwarderConfig,
    key: &PrivateKey,
    inbox: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
) -> Result<(), Failed> {
    let features = pump::probe()?;
    net::raise_descriptor_limit();
    let gateway = Gateway::new(config.relay.clone(), key, config.relay_keys)
        .map_err(|error| Failed::new(Exit::Failure, error))?
        .through(&config.gateway)
        .map_err(|error| Failed::new(Exit::Config, error))?;
    let (pump, events) = spawn_pump(features)?;
    let key = key.clone();
    net::run(async move {
        let failed = |error| Failed::new(Exit::Failure, error);
        // First: a signal to one that takes over is heeded once it has.
        net::forward_signals(&inbox).map_err(failed)?;
        let mut daemon = Daemon::new(role, config, key, gateway, pump, inbox.clone())?;
        // It begins with the loop; what can fail comes before another process ends.
        listen_to(events.clone(), &inbox).map_err(failed)?;
        if let Some(predecessor) = predecessor {
            daemon.take_over(predecessor, &events)?;
        }
        daemon.run(inputs).await
    })
}

fn spawn_pump(features: Features) -> Result<(PumpHandle, EventReceiver), Failed> {
    let (sender, receiver) =
        handoff::events().map_err(|error| Failed::new(Exit::Failure, error))?;
    Ok((pump::spawn(features, sender)?, receiver))
}

fn listen_to(events: EventReceiver, inbox: &mpsc::Sender<Input>) -> std::io::Result<()> {
    net::forward_events(events, inbox.clone())?;
    net::forward_network_changes(inbox)
}
