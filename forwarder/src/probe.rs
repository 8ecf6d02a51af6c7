//! What `adit doctor` and the relay say to each other: over TLS, by its own ALPN, with keys that are
//! let in; and over UDP, by datagrams that carry a token which only the two know.
//!
//! ```text
//!   Look   ─▶ Looked    who are we to you, where do we come from, may we have these contact points?
//!   Open   ─▶ Opened    sockets for datagrams, and the token
//!   Heard  ─▶ Heard     which datagrams came, from where
//!   Send   ─▶ Sent      send one from this socket to where that one came from
//!   Fill … Filled ─▶ Filled      how many bytes arrived
//!   Give   ─▶ Fill …             so many bytes the other way
//!   Still  ─▶ Still              is this connection still there?
//! ```
//!
//! Each message is one record's content, in postcard's encoding, and read whole or not at all.
//! Addresses go over TLS alone: there are gateways that rewrite those that they find in datagrams.
//!
//! Deliberately absent: sockets and clocks.

mod ping;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use adit_proto::frame::{Protocol, is_name};
use adit_proto::limits::{PROBE_CONTACTS_MAX, PROBE_FILL, PROBE_SOURCES_MAX, TEXT_MAX};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tls::MESSAGE_BYTES_MAX;

pub use ping::{BadPing, PING_LEN, Ping, TOKEN_LEN, Token, random_number};

/// Sockets for datagrams that one probe may have: two at one address, and one at another.
pub const SOCKETS_MAX: usize = 3;

/// A contact point that a peer of the configuration is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The peer's name; the contact point's, when it is private.
    pub name: String,
    /// Whether it takes datagrams.
    pub is_udp: bool,
    /// The public port; 0 when it is private.
    pub port: u16,
}

impl Asked {
    /// What it carries.
    pub fn protocol(&self) -> Protocol {
        if self.is_udp { Protocol::Udp } else { Protocol::Tcp }
    }
}

/// What the prober asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who we are, and whether these contact points could be had.
    Look(Vec<Asked>),
    /// Sockets for datagrams.
    Open,
    /// Which datagrams have come.
    Heard,
    /// One datagram from a socket to where the datagram of that number came from.
    Send {
        /// The socket, by its place in [`Opened::sockets`].
        socket: u8,
        /// The number of a datagram that has come.
        number: u16,
    },
    /// Bytes that mean nothing; not answered.
    Fill(Vec<u8>),
    /// How many bytes have come.
    Filled,
    /// So many bytes are to be sent.
    Give(u32),
    /// A sign of life.
    Still,
}

/// What the relay answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Look`].
    Looked(Looked),
    /// To [`Request::Open`].
    Opened(Opened),
    /// To [`Request::Heard`].
    Heard(Vec<Heard>),
    /// To [`Request::Send`]: whether there was such a socket and such a datagram.
    Sent(bool),
    /// Bytes that mean nothing.
    Fill(Vec<u8>),
    /// To [`Request::Filled`].
    Filled(u64),
    /// To [`Request::Still`].
    Still,
    /// The relay does not go on, and says why.
    Refused(String),
}

/// How the relay sees the prober.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// The name that the key is let in under.
    pub name: String,
    /// Where the connection comes from.
    pub observed: SocketAddr,
    /// Of each contact point asked for, in their order, why it could not be had.
    pub verdicts: Vec<Option<String>>,
}

/// Where datagrams may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What they have to carry.
    pub token: Token,
    /// The sockets: two at the address that the connection leads to, and one at another if there is any.
    pub sockets: Vec<Place>,
    /// The socket of the datagram paths, where there are any.
    pub path: Option<PathPort>,
}

/// A socket of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its address, unless it is the one that the connection leads to, which the prober knows better.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// The socket that datagram paths have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPort {
    /// Its port.
    pub port: u16,
    /// What has to stand in front of a datagram there.
    pub id: u32,
}

/// A datagram that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Its number.
    pub number: u16,
    /// The socket that it came to.
    pub socket: u8,
    /// Where it came from.
    pub source: SocketAddr,
}

/// Why bytes are no message of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// More than a message may have.
    #[error("a message of {0} bytes: {MESSAGE_BYTES_MAX} are the most")]
    TooLong(usize),
    /// Not in this encoding, or cut.
    #[error("a message that this version does not understand")]
    Malformed,
    /// More behind the message.
    #[error("{0} bytes behind the message")]
    Trailing(usize),
    /// A list is longer than agreed.
    #[error("a list of {0}: that is more than agreed")]
    List(usize),
    /// A text that cannot be shown, or a name that is none.
    #[error("a text with strange characters, or a name that is none")]
    Text,
    /// A number that cannot be.
    #[error("a port 0")]
    Port,
}

impl Request {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    /// As it was received.
    ///
    /// # Errors
    /// When it is none, or asks for more than agreed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        let request: Self = whole(bytes)?;
        match &request {
            Self::Look(asked) => {
                within(asked.len(), PROBE_CONTACTS_MAX)?;
                if !asked.iter().all(|asked| is_name(&asked.name)) {
                    return Err(BadMessage::Text);
                }
            }
            Self::Fill(bytes) => within(bytes.len(), PROBE_FILL)?,
            Self::Open | Self::Heard | Self::Send { .. } => {}
            Self::Filled | Self::Give(_) | Self::Still => {}
        }
        Ok(request)
    }
}

impl Answer {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    /// As it was received: with texts that can be shown.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        let mut answer: Self = whole(bytes)?;
        match &mut answer {
            Self::Looked(looked) => {
                within(looked.verdicts.len(), PROBE_CONTACTS_MAX)?;
                if !is_name(&looked.name) {
                    return Err(BadMessage::Text);
                }
                looked.verdicts.iter_mut().flatten().for_each(tidy);
            }
            Self::Opened(opened) => {
                within(opened.sockets.len(), SOCKETS_MAX)?;
                let mut ports = opened.sockets.iter().map(|place| place.port);
                if ports.any(|port| port == 0) || opened.path.is_some_and(|path| path.port == 0) {
                    return Err(BadMessage::Port);
                }
            }
            Self::Heard(heard) => within(heard.len(), PROBE_SOURCES_MAX)?,
            Self::Fill(bytes) => within(bytes.len(), PROBE_FILL)?,
            Self::Refused(text) => tidy(text),
            Self::Sent(_) | Self::Filled(_) | Self::Still => {}
        }
        Ok(answer)
    }
}

/// For [`fmt::Display`] in errors: what an answer is, without what it says.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Looked(_) => "looked",
            Self::Opened(_) => "opened",
            Self::Heard(_) => "heard",
            Self::Sent(_) => "sent",
            Self::Fill(_) => "fill",
            Self::Filled(_) => "filled",
            Self::Still => "still",
            Self::Refused(text) => text,
        })
    }
}

fn bytes(message: &impl Serialize) -> Vec<u8> {
    // Plain values into memory: nothing to fail with.
    postcard::to_allocvec(message).unwrap_or_default()
}

fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadMessage> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(BadMessage::TooLong(bytes.len()));
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(BadMessage::Trailing(rest.len())),
        // postcard says nothing that would help.
        Err(_malformed) => Err(BadMessage::Malformed),
    }
}

fn within(len: usize, max: usize) -> Result<(), BadMessage> {
    if len <= max { Ok(()) } else { Err(BadMessage::List(len)) }
}

/// It ends up in a terminal.
fn tidy(text: &mut String) {
    let is_shown = |c: &char| !c.is_control();
    *text = text.chars().filter(is_shown).take(TEXT_MAX).collect();
}

#[cfg(test)]
mod tests;
