//! `adit connect`: an external peer with a key of its own calls private contact points, and offers
//! some.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use adit_proto::frame::is_name;
use clap::{ArgGroup, Args};

use super::proxy::ProxyArgs;
use crate::config::{
    self, Address, Contact, FORWARDER_FILE, ForwarderConfig, Outward, Peer, Place, Places,
};
use crate::exit::{Exit, Failed};
use crate::forwarder;
use crate::handoff::{Destination, Protocol};
use crate::key::{PrivateKey, PublicKey};

/// Whom to call, how, and what to offer.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("way").args(["listen", "stdio"]).requires("name"))]
#[command(group = ArgGroup::new("purpose").args(["name", "serve"]).required(true).multiple(true))]
pub(super) struct ConnectArgs {
    /// Where the relay listens, as HOST:PORT.
    relay: Place,
    /// The private contact point to call.
    #[arg(requires = "way", value_parser = config::name)]
    name: Option<String>,
    /// Where this host's programs connect to reach it, such as 127.0.0.1:2222.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// It is called with datagrams, over UDP.
    #[arg(long, requires = "listen", conflicts_with = "stdio")]
    udp: bool,
    /// Join standard input and output to it: ssh's ProxyCommand.
    #[arg(long)]
    stdio: bool,
    /// Offer what listens at HOST:PORT to internal peers, as NAME; HOST:PORT/udp of datagrams. May be
    /// given again.
    #[arg(long, value_name = "NAME=HOST:PORT")]
    serve: Vec<Offer>,
    /// The configuration that names this host's key and the relay's.
    #[arg(short, long, value_name = "FILE", default_value = FORWARDER_FILE)]
    config: PathBuf,
    /// This host's private key, in place of the configuration's.
    #[arg(long, value_name = "FILE", requires = "relay_key", conflicts_with = "config")]
    key: Option<PathBuf>,
    /// The relay's public key, in place of the configuration's.
    #[arg(long, value_name = "ed25519:KEY", requires = "key")]
    relay_key: Option<PublicKey>,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Something to offer by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    name: String,
    at: Address,
}

impl FromStr for Offer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is no offer: write NAME=HOST:PORT");
        let (name, at) =
            text.split_once('=').filter(|(name, _)| is_name(name)).ok_or_else(shape)?;
        let (at, is_udp) = at.strip_suffix("/udp").map_or((at, false), |at| (at, true));
        let at: Place = at.parse().map_err(|error: config::BadPlace| error.to_string())?;
        let at = if is_udp { Address::Udp(at) } else { Address::Tcp(at) };
        Ok(Self { name: name.to_owned(), at })
    }
}

impl ConnectArgs {
    /// What is logged unless somebody asks for more: whoever talks to a program over standard input
    /// and output is not to be disturbed by what goes well.
    pub(super) fn log_level(&self) -> &'static str {
        if self.stdio { "warn" } else { "info" }
    }

    /// Calls and offers, until told to end; with standard input and output, until they end.
    ///
    /// # Errors
    /// When the keys or the kernel do not allow it, or there is no way to the name.
    pub(super) fn run(self) -> Result<(), Failed> {
        let called = self.name.clone();
        let known = match (&self.key, self.relay_key) {
            (Some(key), Some(relay_key)) => {
                ForwarderConfig::new(key.clone(), self.relay.clone().into(), relay_key)
            }
            _ => self.known()?,
        };
        let mut gateway = known.gateway.clone();
        if let Some(proxy) = self.proxy.read()? {
            gateway.proxy = proxy.choice().clone();
        }
        let key = PrivateKey::load(&known.key)?;
        let to = called.clone().map(Destination::Name);
        let protocol = if self.udp { Protocol::Udp } else { Protocol::Tcp };
        let listener = self.listen.zip(to).map(|(listen, to)| {
            let name = called.clone().unwrap_or_default();
            Outward { name, listen, protocol, to }
        });
        let offer = |Offer { name, at }| Peer::new(name, at, Contact::Private);
        let config = ForwarderConfig {
            relay: Places::from(self.relay),
            peers: self.serve.into_iter().map(offer).collect(),
            listeners: listener.into_iter().collect(),
            gateway,
            ..ForwarderConfig::new(known.key, known.relay, known.relay_keys)
        };
        forwarder::call(config, &key, called.filter(|_| self.stdio))
    }

    fn known(&self) -> Result<ForwarderConfig, Failed> {
        let is_usual = self.config == Path::new(FORWARDER_FILE);
        ForwarderConfig::load(&self.config).map_err(|error| {
            if !is_usual || !(error.is_missing() || error.is_blank()) {
                return error.into();
            }
            let message = format!(
                "there are no keys to take from {FORWARDER_FILE}: run `adit join` with an \
                 invitation, or name them with --key and --relay-key"
            );
            Failed::new(Exit::Config, message)
        })
    }
}
