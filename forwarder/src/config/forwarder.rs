//! The forwarder's file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::audit::{AUDIT_KEYS, RawAudit};
use super::file::{File, OneOrMany, Schema};
use super::gateway::{self, GATEWAY_KEYS, GatewayConfig, RawGateway};
use super::metrics::{METRICS_KEYS, Metrics, RawMetrics};
use super::outward::{self, Outward, RawListener, RawSocks};
use super::peer::{PEER_KEYS, RawPeer, peers};
use super::place::ListenAddress;
use super::token::{RawToken, TOKEN_KEYS, tokens};
use super::{
    ConfigError, FORWARDER_SOCKET, LogLevel, PLACES_MAX, Peer, Place, Places, Problem, Reloaded,
    Token, beside,
};
use crate::key::{PINS_MAX, Pins, PublicKey};

pub(super) static SCHEMA: Schema = Schema {
    top: &[
        "key",
        "relay",
        "relay_key",
        "socket",
        "user",
        "log_level",
        "datagram_path",
        "gateway",
        "peer",
        "api",
        "token",
        "listener",
        "socks",
        "metrics",
        "audit",
    ],
    tables: &[
        ("gateway", GATEWAY_KEYS),
        ("peer", PEER_KEYS),
        ("api", &["listen"]),
        ("token", TOKEN_KEYS),
        ("listener", &["name", "listen", "protocol", "to"]),
        ("socks", &["listen"]),
        ("metrics", METRICS_KEYS),
        ("audit", AUDIT_KEYS),
    ],
};

/// What to do about a file of comments.
const HOW_TO_FILL: &str = "let `adit join` write it, with a line from the relay's operator, or write \
    key, relay and relay_key";

/// What the forwarder is told by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwarderConfig {
    /// Where its private key lies.
    pub key: PathBuf,
    /// Where the one relay listens: each place leads to it.
    pub relay: Places,
    /// The key that the relay must have; two while it is being changed.
    pub relay_keys: Pins,
    /// Where `adit status` asks.
    pub socket: PathBuf,
    /// Who it becomes when it is started as root.
    pub user: Option<String>,
    /// How much it logs, unless its command line or its environment say so.
    pub log_level: Option<LogLevel>,
    /// Whether datagrams may have a path of their own over UDP.
    pub datagram_path: bool,
    /// How the gateway is left.
    pub gateway: GatewayConfig,
    /// The internal peers to register.
    pub peers: Vec<Peer>,
    /// Where peers of the LAN register themselves, if they may.
    pub api: Option<SocketAddr>,
    /// Who may do so.
    pub tokens: Vec<Token>,
    /// What internal peers may connect to, to reach out.
    pub listeners: Vec<Outward>,
    /// Where registered peers are offered SOCKS5.
    pub socks: Option<SocketAddr>,
    /// How what it measures leaves it.
    pub metrics: Metrics,
    /// Where what happens to registrations and keys is written down, if it is.
    pub audit: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    key: Spanned<String>,
    relay: Spanned<OneOrMany>,
    relay_key: Spanned<OneOrMany>,
    socket: Option<String>,
    user: Option<Spanned<String>>,
    log_level: Option<Spanned<String>>,
    datagram_path: Option<bool>,
    gateway: Option<RawGateway>,
    #[serde(default)]
    peer: Vec<RawPeer>,
    #[serde(default)]
    listener: Vec<RawListener>,
    socks: Option<RawSocks>,
    api: Option<RawApi>,
    #[serde(default)]
    token: Vec<RawToken>,
    #[serde(default)]
    metrics: RawMetrics,
    audit: Option<RawAudit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApi {
    listen: Spanned<String>,
}

impl ForwarderConfig {
    /// What is needed to dial a relay, and nothing to register there.
    pub fn new(key: PathBuf, relay: Places, relay_keys: impl Into<Pins>) -> Self {
        Self {
            key,
            relay,
            relay_keys: relay_keys.into(),
            socket: FORWARDER_SOCKET.into(),
            user: None,
            log_level: None,
            datagram_path: true,
            gateway: GatewayConfig::default(),
            peers: Vec::new(),
            api: None,
            tokens: Vec::new(),
            listeners: Vec::new(),
            socks: None,
            metrics: Metrics::default(),
            audit: None,
        }
    }

    /// Every key that the file may have, with its table; those at the top have none.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SCHEMA.keys()
    }

    /// Reads and checks `path`.
    ///
    /// # Errors
    /// With the file, the line, and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = File::read(path)?;
        file.refuse_blank(HOW_TO_FILL)?;
        let raw: Raw = file.parse(&SCHEMA)?;
        Ok(Self {
            key: beside(path, raw.key.get_ref()),
            relay: places(&file, "relay", &raw.relay)?,
            relay_keys: relay_keys(&file, &raw.relay_key)?,
            socket: beside(path, raw.socket.as_deref().unwrap_or(FORWARDER_SOCKET)),
            user: user(&file, raw.user.as_ref())?,
            log_level: file.optional("log_level", raw.log_level.as_ref())?,
            datagram_path: raw.datagram_path.unwrap_or(true),
            gateway: gateway::gateway(&file, raw.gateway.as_ref())?,
            peers: peers(path, &file, &raw.peer)?,
            api: raw.api.map(|api| api_address(&file, &api.listen)).transpose()?,
            tokens: tokens(&file, &raw.token)?,
            listeners: outward::listeners(&file, &raw.listener)?,
            socks: outward::socks(&file, raw.socks.as_ref())?,
            metrics: raw.metrics.checked(path, &file)?,
            audit: raw.audit.map(|audit| audit.checked(path)),
        })
    }

    /// Takes what a reload of `path` may change from `new`, and leaves the rest as it was.
    pub fn reload(&mut self, path: &Path, new: Self) -> Reloaded {
        // Each by its name, so that none is forgotten.
        let Self {
            key,
            relay,
            relay_keys,
            socket,
            user,
            log_level,
            datagram_path,
            gateway,
            peers,
            api,
            tokens,
            listeners,
            socks,
            metrics,
            audit,
        } = new;
        let mut reloaded = Reloaded::new(path);
        reloaded.compare(&self.peers, &peers, |peer| &peer.name);
        let in_force = [
            ("relay_key", self.relay_keys != relay_keys),
            ("log_level", self.log_level != log_level),
            ("token", self.tokens != tokens),
        ];
        let at_restart = [
            ("key", self.key != key),
            ("relay", self.relay != relay),
            ("socket", self.socket != socket),
            ("user", self.user != user),
            ("datagram_path", self.datagram_path != datagram_path),
            ("[gateway]", self.gateway != gateway),
            ("[api]", self.api != api),
            ("[[listener]]", self.listeners != listeners),
            ("[socks]", self.socks != socks),
            ("[metrics]", self.metrics != metrics),
            ("[audit]", self.audit != audit),
        ];
        reloaded.settings(&in_force, &at_restart);
        (self.peers, self.tokens) = (peers, tokens);
        (self.relay_keys, self.log_level) = (relay_keys, log_level);
        reloaded
    }
}

/// The name of a user of this host. Whether there is one is seen when the daemon starts.
pub(super) fn user(
    file: &File,
    raw: Option<&Spanned<String>>,
) -> Result<Option<String>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let name = raw.get_ref();
    if name.is_empty() || name.contains(['\0', ':', '/']) {
        let reason = format!("{name:?} is no name of a user: write one of this host, such as adit");
        return Err(file.error(raw.span(), Problem::Value { key: "user", reason }));
    }
    Ok(Some(name.clone()))
}

fn api_address(file: &File, raw: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
    let ListenAddress(address) = file.value("listen", raw)?;
    if !address.ip().is_unspecified() {
        return Ok(address);
    }
    let reason = format!(
        "{address} is every address of this host: name the one on the LAN, such as 192.168.50.2:8300"
    );
    Err(file.error(raw.span(), Problem::Value { key: "listen", reason }))
}

/// The places of one relay, in the order of the list.
pub(super) fn places(
    file: &File,
    key: &'static str,
    raw: &Spanned<OneOrMany>,
) -> Result<Places, ConfigError> {
    let mut seen = BTreeMap::new();
    let mut places = Vec::new();
    let refused = |span, reason| Err(file.error(span, Problem::Value { key, reason }));
    for place in raw.get_ref().values::<Place>(file, key, raw.span())? {
        file.unique(&mut seen, ("place", "name it once"), place.get_ref(), place.span())?;
        if places.len() >= PLACES_MAX {
            return refused(place.span(), format!("more than {PLACES_MAX} places for one relay"));
        }
        places.push(place.into_inner());
    }
    if places.is_empty() {
        return refused(raw.span(), "the list is empty: name at least one place".to_owned());
    }
    Ok(Places::from(places))
}

fn relay_keys(file: &File, raw: &Spanned<OneOrMany>) -> Result<Pins, ConfigError> {
    let mut seen = BTreeMap::new();
    let keys = raw.get_ref().values::<PublicKey>(file, "relay_key", raw.span())?;
    for key in &keys {
        file.unique(&mut seen, ("key", "name it once"), key.get_ref(), key.span())?;
    }
    match keys.as_slice() {
        [key] => Ok((*key.get_ref()).into()),
        [key, next] => Ok(Pins::pair(*key.get_ref(), *next.get_ref())),
        keys => {
            let found = keys.len();
            let reason = format!(
                "{found} keys: a relay has one, or {PINS_MAX} while its key is being changed"
            );
            Err(file.error(raw.span(), Problem::Value { key: "relay_key", reason }))
        }
    }
}

/// The value of a `name`, which must be fit for the wire and for logs.
pub(super) fn checked_name(file: &File, name: &Spanned<String>) -> Result<String, ConfigError> {
    super::name(name.get_ref()).map_err(|bad| {
        file.error(name.span(), Problem::Value { key: "name", reason: bad.to_string() })
    })
}
