//! The internal peers of the forwarder's file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::limits::CONTACTS_MAX;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::file::{File, OneOrMany, Seen};
use super::forwarder::checked_name;
use super::{ConfigError, Contact, Net, Place, Problem, beside, quota};
use crate::handoff::{Protocol, ProxyVersion, Quota};
use crate::sources::Sources;

/// The keys of `[[peer]]`.
pub(super) const PEER_KEYS: &[&str] = &[
    "name",
    "tcp",
    "udp",
    "unix",
    "contact",
    "proxy_protocol",
    "allow",
    "deny",
    "health_s",
    "flows_max",
    "flows_per_s",
    "bytes_per_s",
];

/// The longest path of a unix socket: what the kernel's `sun_path` holds (unix(7)).
const UNIX_PATH_MAX: usize = 107;
/// How often a peer may be checked, in seconds: every …
const HEALTH_S_MIN: u64 = 1;
/// … up to once an hour.
const HEALTH_S_MAX: u64 = 3_600;

/// An internal peer, and the contact point that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name, unique at the forwarder.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Where it is to be reached.
    pub contact: Contact,
    /// Whether it is told who calls.
    pub proxy: Option<ProxyVersion>,
    /// Which external peers may reach it.
    pub sources: Arc<Sources>,
    /// How often it is checked.
    pub health: Option<Duration>,
    /// How much all that reach it may use together.
    pub quota: Quota,
}

impl Peer {
    /// A peer that everybody may reach, that is not told who calls and is not checked.
    pub fn new(name: String, address: Address, contact: Contact) -> Self {
        let (proxy, sources, health) = (None, Arc::new(Sources::any()), None);
        let quota = Quota::default();
        Self { name, address, contact, proxy, sources, health, quota }
    }

    /// What it speaks: streams are TCP's.
    pub fn protocol(&self) -> Protocol {
        match self.address {
            Address::Tcp(_) | Address::Unix(_) => Protocol::Tcp,
            Address::Udp(_) => Protocol::Udp,
        }
    }
}

/// Where an internal peer listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Address {
    /// A TCP port.
    Tcp(Place),
    /// A UDP port.
    Udp(Place),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(place) => place.fmt(f),
            Self::Udp(place) => write!(f, "{place}/udp"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is wrong with a peer's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPeer {
    /// The path is none that a socket can have.
    #[error(
        "{0:?} is no path of a unix socket: 1 to {UNIX_PATH_MAX} bytes without control characters"
    )]
    Path(PathBuf),
    /// An unknown form of the PROXY protocol.
    #[error("{0:?} is no form of the PROXY protocol: write \"v1\" or \"v2\"")]
    Proxy(String),
    /// A form of the PROXY protocol that datagrams do not have.
    #[error("datagrams have the form \"v2\" alone: write that, or leave proxy_protocol out")]
    DatagramProxy,
    /// What nobody answers for.
    #[error("whether a UDP port is there cannot be checked: leave health_s out")]
    DatagramHealth,
    /// Checked too often, or hardly ever.
    #[error("{0} is out of range: write {HEALTH_S_MIN} to {HEALTH_S_MAX} seconds")]
    Health(u64),
}

impl Address {
    /// A unix socket.
    ///
    /// # Errors
    /// When no socket can have that path.
    pub fn unix(path: PathBuf) -> Result<Self, BadPeer> {
        let text = path.to_str().unwrap_or_default();
        let is_one = (1..=UNIX_PATH_MAX).contains(&text.len());
        // It ends up in logs and terminals.
        if is_one && !text.chars().any(char::is_control) {
            return Ok(Self::Unix(path));
        }
        Err(BadPeer::Path(path))
    }
}

impl FromStr for ProxyVersion {
    type Err = BadPeer;

    fn from_str(text: &str) -> Result<Self, BadPeer> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(BadPeer::Proxy(text.to_owned())),
        }
    }
}

/// How often a peer is checked.
///
/// # Errors
/// When that is too often, or hardly ever.
pub fn health(seconds: u64) -> Result<Duration, BadPeer> {
    match seconds {
        HEALTH_S_MIN..=HEALTH_S_MAX => Ok(Duration::from_secs(seconds)),
        _ => Err(BadPeer::Health(seconds)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    name: Spanned<String>,
    tcp: Option<Spanned<String>>,
    udp: Option<Spanned<String>>,
    unix: Option<Spanned<String>>,
    contact: Spanned<String>,
    proxy_protocol: Option<Spanned<String>>,
    allow: Option<Spanned<OneOrMany>>,
    deny: Option<Spanned<OneOrMany>>,
    health_s: Option<Spanned<u64>>,
    flows_max: Option<Spanned<usize>>,
    flows_per_s: Option<Spanned<u32>>,
    bytes_per_s: Option<Spanned<u64>>,
}

pub(super) fn peers(path: &Path, file: &File, raw: &[RawPeer]) -> Result<Vec<Peer>, ConfigError> {
    let (mut names, mut ports): (Seen<String>, Seen<String>) = Default::default();
    let mut peers = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let peer = raw.checked(path, file)?;
        let unique = ("peer", "give each its own name");
        file.unique(&mut names, unique, &peer.name, raw.name.span())?;
        if let Contact::Public(_) = peer.contact {
            let unique = ("contact point", "one contact point leads to one peer");
            let is_udp = peer.protocol() == Protocol::Udp;
            let contact = format!("{}{}", peer.contact, if is_udp { "/udp" } else { "" });
            file.unique(&mut ports, unique, &contact, raw.contact.span())?;
        }
        if index >= CONTACTS_MAX {
            let reason =
                format!("more than {CONTACTS_MAX} peers: start another forwarder for the rest");
            return Err(file.error(raw.name.span(), Problem::Value { key: "peer", reason }));
        }
        peers.push(peer);
    }
    Ok(peers)
}

impl RawPeer {
    fn checked(&self, path: &Path, file: &File) -> Result<Peer, ConfigError> {
        let name = checked_name(file, &self.name)?;
        let contact = file.value("contact", &self.contact)?;
        let proxy = self.proxy_protocol.as_ref().map(|raw| file.value("proxy_protocol", raw));
        let health = self.health_s.as_ref().map(|raw| {
            let bad =
                |error: BadPeer| Problem::Value { key: "health_s", reason: error.to_string() };
            health(*raw.get_ref()).map_err(|error| file.error(raw.span(), bad(error)))
        });
        Ok(Peer {
            proxy: proxy.transpose()?,
            sources: Arc::new(self.sources(file)?),
            health: health.transpose()?,
            quota: quota::in_file(
                file,
                self.flows_max.as_ref(),
                self.flows_per_s.as_ref(),
                self.bytes_per_s.as_ref(),
            )?,
            ..Peer::new(name, self.address(path, file)?, contact)
        })
    }

    fn address(&self, path: &Path, file: &File) -> Result<Address, ConfigError> {
        let error = |span, key, reason| Err(file.error(span, Problem::Value { key, reason }));
        match (&self.tcp, &self.udp, &self.unix) {
            (Some(tcp), None, None) => Ok(Address::Tcp(file.value("tcp", tcp)?)),
            (None, Some(udp), None) => {
                self.checked_datagrams(file)?;
                Ok(Address::Udp(file.value("udp", udp)?))
            }
            (None, None, Some(unix)) => Address::unix(beside(path, unix.get_ref()))
                .or_else(|bad| error(unix.span(), "unix", bad.to_string())),
            (_, Some(at), None) | (_, _, Some(at)) => {
                let reason = "a peer listens at one place: leave out all but one of tcp, udp and \
                              unix, or write a peer for each";
                error(at.span(), "peer", reason.to_owned())
            }
            (None, None, None) => {
                let reason = "it says neither tcp or udp = \"host:port\" nor unix = \"/path\"";
                error(self.name.span(), "peer", reason.to_owned())
            }
        }
    }

    /// What a peer with datagrams cannot have.
    fn checked_datagrams(&self, file: &File) -> Result<(), ConfigError> {
        let error = |span, key, bad: BadPeer| {
            Err(file.error(span, Problem::Value { key, reason: bad.to_string() }))
        };
        match (&self.proxy_protocol, &self.health_s) {
            (Some(proxy), _) if proxy.get_ref() == "v1" => {
                error(proxy.span(), "proxy_protocol", BadPeer::DatagramProxy)
            }
            (_, Some(health)) => error(health.span(), "health_s", BadPeer::DatagramHealth),
            _ => Ok(()),
        }
    }

    fn sources(&self, file: &File) -> Result<Sources, ConfigError> {
        let nets = |key, raw: &Option<Spanned<OneOrMany>>| {
            let nets = file.list::<Net>(key, raw.as_ref())?;
            Ok(nets.into_iter().map(|net| net.0).collect::<Vec<_>>())
        };
        let allow = nets("allow", &self.allow)?;
        Ok(Sources::new(self.allow.as_ref().map(|_| allow), nets("deny", &self.deny)?))
    }
}
