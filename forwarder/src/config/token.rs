//! Who may register on the local API's LAN address: one token for each peer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::file::{File, OneOrMany, Seen};
use super::forwarder::checked_name;
use super::{BadPorts, ConfigError, Contact, PortRange, Ports, Problem};

/// The keys of `[[token]]`.
pub(super) const TOKEN_KEYS: &[&str] = &["peer", "sha256", "contacts"];

/// Tokens that a forwarder may know: each request compares with all of them.
const TOKENS_MAX: usize = 1_024;

/// A token, known by its hash, and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The one name that it may register.
    pub peer: String,
    /// What the token hashes to.
    pub sha256: Sha256,
    /// The contact points that it may ask for.
    pub contacts: Contacts,
}

/// A SHA-256, in 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sha256(pub [u8; 32]);

/// Why a text is no SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no SHA-256: 64 hexadecimal digits, as `adit token PEER` prints them")]
pub struct BadSha256;

impl FromStr for Sha256 {
    type Err = BadSha256;

    fn from_str(text: &str) -> Result<Self, BadSha256> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_no_hex| BadSha256)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Contact points that may be asked for: `8000-8010`, `private`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contacts {
    /// Public ports.
    pub ports: Ports,
    /// Private ones, known by the peer's name.
    pub are_private: bool,
}

impl Contacts {
    /// Whether `contact` is one of them.
    pub fn contain(&self, contact: Contact) -> bool {
        match contact {
            Contact::Public(port) => self.ports.contain(port),
            Contact::Private => self.are_private,
        }
    }
}

/// One item of such a list.
enum Item {
    Ports(PortRange),
    Private,
}

impl FromStr for Item {
    type Err = BadPorts;

    fn from_str(text: &str) -> Result<Self, BadPorts> {
        match text {
            "private" => Ok(Self::Private),
            ports => Ok(Self::Ports(ports.parse()?)),
        }
    }
}

impl FromIterator<Item> for Contacts {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let (mut ranges, mut are_private) = (Vec::new(), false);
        for item in items {
            match item {
                Item::Ports(range) => ranges.push(range),
                Item::Private => are_private = true,
            }
        }
        Self { ports: ranges.into_iter().collect(), are_private }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawToken {
    peer: Spanned<String>,
    sha256: Spanned<String>,
    contacts: Spanned<OneOrMany>,
}

pub(super) fn tokens(file: &File, raw: &[RawToken]) -> Result<Vec<Token>, ConfigError> {
    let mut hashes: Seen<Sha256> = Seen::new();
    let mut tokens = Vec::with_capacity(raw.len());
    for raw in raw {
        let sha256 = file.value("sha256", &raw.sha256)?;
        let unique = ("token", "give each peer a token of its own");
        file.unique(&mut hashes, unique, &sha256, raw.sha256.span())?;
        if tokens.len() >= TOKENS_MAX {
            let reason = format!("more than {TOKENS_MAX} tokens");
            return Err(file.error(raw.sha256.span(), Problem::Value { key: "token", reason }));
        }
        let contacts = file.list::<Item>("contacts", Some(&raw.contacts))?;
        let peer = checked_name(file, &raw.peer)?;
        tokens.push(Token { peer, sha256, contacts: contacts.into_iter().collect() });
    }
    Ok(tokens)
}
