//! The daemon `adit run`: the internal contact point. One loop takes every input in turn; what
//! takes time runs beside it and reports through the same inbox.

mod daemon;
mod tunnel;

use std::path::Path;

use adit_ring::Features;
use tokio::sync::mpsc;

use crate::api;
use crate::config::ForwarderConfig;
use crate::exit::{Exit, Failed};
use crate::gateway::Gateway;
use crate::handoff::{self, EventReceiver, PumpHandle};
use crate::key::PrivateKey;
use crate::net;
use crate::pump;
use crate::status;
use daemon::{Daemon, Input};

/// Runs a forwarder with the configuration of `file` until it is told to end.
///
/// # Errors
/// When the configuration, the key, the kernel or the socket does not allow it.
pub fn run(file: &Path) -> Result<(), Failed> {
    let config = ForwarderConfig::load(file)?;
    let key = PrivateKey::load(&config.key)?;
    let features = pump::probe()?;
    net::raise_descriptor_limit();
    let gateway = Gateway::new(config.relay.clone(), &key, config.relay_key)
        .map_err(|error| Failed::new(Exit::Failure, error))?;
    let (pump, events) = spawn_pump(features)?;
    let (inbox, inputs) = mpsc::channel(net::INBOX_MAX);
    let _socket = api::serve(&config.socket, inbox.clone(), api::routes())
        .map_err(|error| Failed::new(Exit::Failure, error))?;
    let (version, peers) = (status::VERSION, config.peers.len());
    tracing::info!(key = %key.public(), relay = %config.relay, peers, "adit {version} starts");
    net::run(async move {
        listen_to(events, &inbox).map_err(|error| Failed::new(Exit::Failure, error))?;
        let daemon = Daemon::new(file, config, key.public(), gateway, pump, inbox);
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
    net::forward_network_changes(inbox)?;
    net::forward_signals(inbox)
}
