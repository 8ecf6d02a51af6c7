//! The way out: what internal peers may connect to inside, and where it leads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use adit_proto::frame::{Destination, Protocol};
use adit_proto::limits::TEXT_MAX;
use serde::Deserialize;
use toml::Spanned;

use super::file::File;
use super::forwarder::checked_name;
use super::place::ListenAddress;
use super::{BadName, ConfigError, Place, Problem, name};

/// The most listeners of one forwarder.
pub const LISTENERS_MAX: usize = 1_024;

/// A listener inside, `[[listener]]`: internal peers that connect to it reach its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outward {
    /// Its name, for logs.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it takes: connections, or datagrams.
    pub protocol: Protocol,
    /// Where its flows lead.
    pub to: Destination,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    name: Spanned<String>,
    listen: Spanned<String>,
    protocol: Option<Spanned<String>>,
    to: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSocks {
    listen: Spanned<String>,
}

/// The listeners of a file.
pub(super) fn listeners(file: &File, raw: &[RawListener]) -> Result<Vec<Outward>, ConfigError> {
    let (mut names, mut places) = (BTreeMap::new(), BTreeMap::new());
    let mut listeners = Vec::with_capacity(raw.len());
    for listener in raw {
        let name = checked_name(file, &listener.name)?;
        let unique = ("listener", "give each its own name");
        file.unique(&mut names, unique, &name, listener.name.span())?;
        let ListenAddress(listen) = file.value("listen", &listener.listen)?;
        let unique = ("address", "one address leads to one destination");
        let Known(protocol) = match &listener.protocol {
            Some(protocol) => file.value("protocol", protocol)?,
            None => Known(Protocol::Tcp),
        };
        file.unique(&mut places, unique, &Listened { listen, protocol }, listener.listen.span())?;
        let To(to) = file.value("to", &listener.to)?;
        if listeners.len() >= LISTENERS_MAX {
            let reason = format!("more than {LISTENERS_MAX} listeners");
            return Err(
                file.error(listener.name.span(), Problem::Value { key: "listener", reason })
            );
        }
        listeners.push(Outward { name, listen, protocol, to });
    }
    Ok(listeners)
}

/// A protocol as it is written.
struct Known(Protocol);

impl FromStr for Known {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self(Protocol::Tcp)),
            "udp" => Ok(Self(Protocol::Udp)),
            _ => Err(format!("{text:?} is no protocol: write \"tcp\" or \"udp\"")),
        }
    }
}

/// An address of one protocol: the same one of the other is another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listened {
    listen: SocketAddr,
    protocol: Protocol,
}

impl fmt::Display for Listened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listen.fmt(f)
    }
}

/// Where SOCKS5 is offered, if it is.
pub(super) fn socks(
    file: &File,
    raw: Option<&RawSocks>,
) -> Result<Option<SocketAddr>, ConfigError> {
    let listen = raw.map(|socks| file.value::<ListenAddress>("listen", &socks.listen));
    Ok(listen.transpose()?.map(|ListenAddress(listen)| listen))
}

/// A destination as it is written: `name:NAME` or `address:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To(pub Destination);

/// Why a text names no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDestination {
    /// Neither form.
    #[error("{0:?} is no destination: write name:NAME or address:HOST:PORT")]
    Shape(String),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The address is none.
    #[error(transparent)]
    Address(#[from] super::BadPlace),
    /// The address has no room in a frame.
    #[error("{0:?} is too long: an address may have {TEXT_MAX} bytes with its port")]
    Long(String),
}

impl FromStr for To {
    type Err = BadDestination;

    fn from_str(text: &str) -> Result<Self, BadDestination> {
        if let Some(text) = text.strip_prefix("name:") {
            return Ok(Self(Destination::Name(name(text)?)));
        }
        let Some(address) = text.strip_prefix("address:") else {
            return Err(BadDestination::Shape(text.to_owned()));
        };
        let address = address.parse::<Place>()?.to_string();
        if address.len() > TEXT_MAX {
            return Err(BadDestination::Long(address));
        }
        Ok(Self(Destination::Address(address)))
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Destination::Contact => f.write_str("contact"),
            Destination::Name(name) => write!(f, "name:{name}"),
            Destination::Address(address) => write!(f, "address:{address}"),
        }
    }
}
