//! The forwarder's file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit_proto::frame::is_name;
use adit_proto::limits::{CONTACTS_MAX, NAME_MAX};
use serde::Deserialize;
use toml::Spanned;

use super::file::{File, OneOrMany, Schema};
use super::outward::{self, Outward, RawListener, RawSocks};
use super::{ConfigError, Contact, FORWARDER_SOCKET, PLACES_MAX, Place, Places, Problem, beside};
use crate::key::PublicKey;

const SCHEMA: Schema = Schema {
    top: &["key", "relay", "relay_key", "socket", "peer", "listener", "socks"],
    tables: &[
        ("peer", &["name", "tcp", "contact"]),
        ("listener", &["name", "listen", "to"]),
        ("socks", &["listen"]),
    ],
};

/// What the forwarder is told by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwarderConfig {
    /// Where its private key lies.
    pub key: PathBuf,
    /// Where the one relay listens: each place leads to it.
    pub relay: Places,
    /// The one key that the relay may have.
    pub relay_key: PublicKey,
    /// Where `adit status` asks.
    pub socket: PathBuf,
    /// The internal peers to register.
    pub peers: Vec<Peer>,
    /// What internal peers may connect to, to reach out.
    pub listeners: Vec<Outward>,
    /// Where registered peers are offered SOCKS5.
    pub socks: Option<SocketAddr>,
}

/// An internal peer, and the contact point that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name, unique in the file.
    pub name: String,
    /// Where it listens.
    pub address: Place,
    /// Where it is to be reached.
    pub contact: Contact,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    key: Spanned<String>,
    relay: Spanned<OneOrMany>,
    relay_key: Spanned<String>,
    socket: Option<String>,
    #[serde(default)]
    peer: Vec<RawPeer>,
    #[serde(default)]
    listener: Vec<RawListener>,
    socks: Option<RawSocks>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    name: Spanned<String>,
    tcp: Spanned<String>,
    contact: Spanned<String>,
}

impl ForwarderConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// With the file, the line, and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = File::read(path)?;
        let raw: Raw = file.parse(&SCHEMA)?;
        Ok(Self {
            key: beside(path, raw.key.get_ref()),
            relay: places(&file, "relay", &raw.relay)?,
            relay_key: file.value("relay_key", &raw.relay_key)?,
            socket: beside(path, raw.socket.as_deref().unwrap_or(FORWARDER_SOCKET)),
            peers: peers(&file, &raw.peer)?,
            listeners: outward::listeners(&file, &raw.listener)?,
            socks: outward::socks(&file, raw.socks.as_ref())?,
        })
    }
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

fn peers(file: &File, raw: &[RawPeer]) -> Result<Vec<Peer>, ConfigError> {
    let (mut names, mut contacts) = (BTreeMap::new(), BTreeMap::new());
    let mut peers = Vec::with_capacity(raw.len());
    for (index, peer) in raw.iter().enumerate() {
        let name = checked_name(file, &peer.name)?;
        file.unique(&mut names, ("peer", "give each its own name"), &name, peer.name.span())?;
        let contact: Contact = file.value("contact", &peer.contact)?;
        let unique = ("contact point", "one contact point leads to one peer");
        file.unique(&mut contacts, unique, &contact, peer.contact.span())?;
        if index >= CONTACTS_MAX {
            let reason =
                format!("more than {CONTACTS_MAX} peers: start another forwarder for the rest");
            return Err(file.error(peer.name.span(), Problem::Value { key: "peer", reason }));
        }
        peers.push(Peer { name, address: file.value("tcp", &peer.tcp)?, contact });
    }
    Ok(peers)
}

/// The value of a `name`, which must be fit for the wire and for logs.
pub(super) fn checked_name(file: &File, name: &Spanned<String>) -> Result<String, ConfigError> {
    if is_name(name.get_ref()) {
        return Ok(name.get_ref().clone());
    }
    let reason = format!(
        "{:?} is no name: use 1 to {NAME_MAX} letters, digits, '-', '_' and '.'",
        name.get_ref()
    );
    Err(file.error(name.span(), Problem::Value { key: "name", reason }))
}
