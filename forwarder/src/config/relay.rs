//! The relay's file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use adit_proto::limits::{GRACE, GRACE_MAX, GRACE_MIN};
use serde::Deserialize;
use toml::Spanned;

use super::file::{File, OneOrMany, Schema};
use super::forwarder::checked_name;
use super::{ConfigError, PortRange, Ports, Problem, RELAY_SOCKET, beside};
use crate::key::PublicKey;

const SCHEMA: Schema = Schema {
    top: &["key", "listen", "contact_address", "socket", "session", "forwarder"],
    tables: &[("session", &["grace_s"]), ("forwarder", &["name", "key", "ports"])],
};

/// What the relay is told by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Where its private key lies.
    pub key: PathBuf,
    /// Where forwarders dial.
    pub listen: Vec<SocketAddr>,
    /// Where public contact points listen; every address of both families without it.
    pub contact_address: Option<IpAddr>,
    /// Where `adit-relay status` asks.
    pub socket: PathBuf,
    /// How long a session waits for its forwarder to come back.
    pub grace: Duration,
    /// Who may register what.
    pub forwarders: Vec<Admitted>,
}

/// A forwarder that the relay lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its name in logs, unique in the file.
    pub name: String,
    /// Its key: who it is.
    pub key: PublicKey,
    /// The ports that its contact points may have.
    pub ports: Ports,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    key: Spanned<String>,
    listen: Spanned<OneOrMany>,
    contact_address: Option<Spanned<String>>,
    socket: Option<String>,
    #[serde(default)]
    session: RawSession,
    #[serde(default)]
    forwarder: Vec<RawForwarder>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSession {
    grace_s: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForwarder {
    name: Spanned<String>,
    key: Spanned<String>,
    ports: Spanned<OneOrMany>,
}

impl RelayConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// With the file, the line, and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = File::read(path)?;
        let raw: Raw = file.parse(&SCHEMA)?;
        let contact_address = match &raw.contact_address {
            Some(address) => Some(file.value::<Ip>("contact_address", address)?.0),
            None => None,
        };
        Ok(Self {
            key: beside(path, raw.key.get_ref()),
            listen: listen(&file, &raw.listen)?,
            contact_address,
            socket: beside(path, raw.socket.as_deref().unwrap_or(RELAY_SOCKET)),
            grace: grace(&file, raw.session.grace_s.as_ref())?,
            forwarders: forwarders(&file, &raw.forwarder)?,
        })
    }
}

fn grace(file: &File, raw: Option<&Spanned<u64>>) -> Result<Duration, ConfigError> {
    let Some(raw) = raw else { return Ok(GRACE) };
    let grace = Duration::from_secs(*raw.get_ref());
    if (GRACE_MIN..=GRACE_MAX).contains(&grace) {
        return Ok(grace);
    }
    let (min, max) = (GRACE_MIN.as_secs(), GRACE_MAX.as_secs());
    let reason = format!("{} is out of range: write {min} to {max} seconds", raw.get_ref());
    Err(file.error(raw.span(), Problem::Value { key: "grace_s", reason }))
}

fn listen(file: &File, raw: &Spanned<OneOrMany>) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut seen = BTreeMap::new();
    let mut addresses = Vec::new();
    for address in raw.get_ref().values::<ListenAddress>(file, "listen", raw.span())? {
        let ListenAddress(at) = *address.get_ref();
        file.unique(&mut seen, ("address", "name it once"), &at, address.span())?;
        addresses.push(at);
    }
    if addresses.is_empty() {
        let reason = "the list is empty: name at least one address".to_owned();
        return Err(file.error(raw.span(), Problem::Value { key: "listen", reason }));
    }
    Ok(addresses)
}

fn forwarders(file: &File, raw: &[RawForwarder]) -> Result<Vec<Admitted>, ConfigError> {
    let (mut names, mut keys) = (BTreeMap::new(), BTreeMap::new());
    let mut forwarders = Vec::with_capacity(raw.len());
    for forwarder in raw {
        let name = checked_name(file, &forwarder.name)?;
        let unique = ("forwarder", "give each its own name");
        file.unique(&mut names, unique, &name, forwarder.name.span())?;
        let key: PublicKey = file.value("key", &forwarder.key)?;
        let unique = ("key", "each forwarder needs a key of its own");
        file.unique(&mut keys, unique, &key, forwarder.key.span())?;
        let ports = &forwarder.ports;
        let ranges = ports.get_ref().values::<PortRange>(file, "ports", ports.span())?;
        let ports = ranges.into_iter().map(Spanned::into_inner).collect();
        forwarders.push(Admitted { name, key, ports });
    }
    Ok(forwarders)
}

/// An address to listen on, with an error that shows what one looks like.
struct ListenAddress(SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            _ => Err(format!(
                "{text:?} is no address to listen on: write 0.0.0.0:443 or [::]:443, ports 1 to 65535"
            )),
        }
    }
}

/// An address without a port.
struct Ip(IpAddr);

impl FromStr for Ip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_no_ip: std::net::AddrParseError| {
            format!("{text:?} is no address: write it without a port, such as 203.0.113.20 or ::")
        })
    }
}
