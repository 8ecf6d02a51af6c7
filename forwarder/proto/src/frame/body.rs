//! The bodies of the frames that have one: what each field means, in the order of the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BufMut};

use serde::{Deserialize, Serialize};

use crate::id::{ContactId, SessionId};
use crate::limits::{NAME_MAX, PATH_SECRET, TEXT_MAX};

/// `HELLO` and `WELCOME`: who continues what, and how far it had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol's version, [`crate::limits::VERSION`].
    pub version: u16,
    /// The session to resume, or [`SessionId::NONE`] in a `HELLO` that starts one.
    pub session: SessionId,
    /// Counts the session's carriers; the newest wins.
    pub epoch: u64,
    /// Reliable records received in this session so far.
    pub received: u64,
    /// In `WELCOME`: how many reliable records come before the first that this carrier brings.
    pub replays_from: u64,
    /// How many stream bytes the sender of this frame will take in all, as in `POLL`.
    pub grant: u64,
    /// A flow's credit at its opening, in bytes.
    pub flow_window: u64,
    /// How long the session outlives the loss of a carrier; the relay decides, so that both ends
    /// give up at the same time. Without meaning in `HELLO`.
    pub grace: Duration,
    /// In `WELCOME`: the datagram path that the relay offers, if it does.
    pub path: Option<PathOffer>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.version);
        out.put_slice(&self.session.0);
        out.put_u64(self.epoch);
        out.put_u64(self.received);
        out.put_u64(self.replays_from);
        out.put_u64(self.grant);
        out.put_u64(self.flow_window);
        out.put_u32(u32::try_from(self.grace.as_millis()).unwrap_or(u32::MAX));
        put_bytes(out, &self.path.as_ref().map(PathOffer::to_bytes).unwrap_or_default());
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        Some(Self {
            version: body.try_get_u16().ok()?,
            session: SessionId(take_array(body)?),
            epoch: body.try_get_u64().ok()?,
            received: body.try_get_u64().ok()?,
            replays_from: body.try_get_u64().ok()?,
            grant: body.try_get_u64().ok()?,
            flow_window: body.try_get_u64().ok()?,
            grace: Duration::from_millis(body.try_get_u32().ok()?.into()),
            path: PathOffer::parse(take_bytes(body, TEXT_MAX)?)?,
        })
    }
}

/// The datagram path as `WELCOME` offers it: where it is, and what its keys are made from.
#[derive(Clone, PartialEq, Eq)]
pub struct PathOffer {
    /// Stands in front of every packet: by it the relay finds the session.
    pub id: u32,
    /// The relay's UDP port, at the address of the carrier.
    pub port: u16,
    /// How packets are sealed.
    pub cipher: PathCipher,
    /// The secret that both directions' keys are derived from.
    pub secret: [u8; PATH_SECRET],
}

/// How packets are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PathCipher {
    /// AES-128-GCM.
    Aes128Gcm = 1,
    /// AES-256-GCM.
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305 = 3,
}

impl std::fmt::Debug for PathOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PathOffer({:08x}, port {}, {:?})", self.id, self.port, self.cipher)
    }
}

impl PathOffer {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(7 + PATH_SECRET);
        out.put_u32(self.id);
        out.put_u16(self.port);
        out.put_u8(self.cipher as u8);
        out.put_slice(&self.secret);
        out
    }

    /// `Some(None)` of no bytes at all.
    pub(crate) fn parse(mut body: &[u8]) -> Option<Option<Self>> {
        if body.is_empty() {
            return Some(None);
        }
        let (id, port) = (body.try_get_u32().ok()?, body.try_get_u16().ok()?);
        let cipher = match body.try_get_u8().ok()? {
            1 => PathCipher::Aes128Gcm,
            2 => PathCipher::Aes256Gcm,
            3 => PathCipher::Chacha20Poly1305,
            _ => return None,
        };
        let secret = take_array(&mut body)?;
        body.is_empty().then_some(Some(Self { id, port, cipher, secret }))
    }
}

/// What a contact point carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Protocol {
    /// TCP connections.
    Tcp = 6,
    /// UDP datagrams.
    Udp = 17,
}

impl Protocol {
    fn parse(body: &mut &[u8]) -> Option<Self> {
        match body.try_get_u8().ok()? {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// `REGISTER`: the contact point that an internal peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The public port; 0 asks for a private contact point, reached by name alone.
    pub port: u16,
    /// The internal peer's name.
    pub name: String,
}

impl Registration {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.protocol as u8);
        out.put_u16(self.port);
        put_text(out, &self.name);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        let protocol = Protocol::parse(body)?;
        let port = body.try_get_u16().ok()?;
        let name = take_text(body, NAME_MAX)?;
        is_name(&name).then_some(Self { protocol, port, name })
    }
}

/// Whether `name` may name an internal peer: 1 to 64 letters, digits, `-`, `_` and `.`.
///
/// Names end up in logs and terminals of the other side, so nothing else is let in.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `REGISTERED`: where the contact point stands, and for how long without renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// How long the relay keeps the contact point for the key after its session ended.
    pub lease: Duration,
    /// The contact address outside, as text, `203.0.113.20:8080`.
    pub address: String,
}

impl Registered {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(u32::try_from(self.lease.as_secs()).unwrap_or(u32::MAX));
        put_text(out, &self.address);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        let lease = Duration::from_secs(body.try_get_u32().ok()?.into());
        Some(Self { lease, address: take_text(body, TEXT_MAX)? })
    }
}

/// `REFUSED`: why there is no contact point, in words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whether asking again later can help: a taken port may become free, a forbidden one not.
    pub may_retry: bool,
    /// The reason.
    pub text: String,
}

impl Refused {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.may_retry.into());
        put_text(out, &self.text);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        let may_retry = body.try_get_u8().ok()? != 0;
        Some(Self { may_retry, text: take_text(body, TEXT_MAX)? })
    }
}

/// Where a flow is to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To what is registered under the contact point.
    Contact,
    /// To the private contact point of this name.
    Name(String),
    /// To an address outside, `host:port`, which the relay is to dial.
    Address(String),
}

impl Destination {
    /// Whether the other end would take it: a name that is one, an address of a bounded length
    /// that may be shown.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Contact => true,
            Self::Name(name) => is_name(name),
            Self::Address(address) => {
                address.len() <= TEXT_MAX && !address.chars().any(char::is_control)
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, text) = match self {
            Self::Contact => return out.put_u8(0),
            Self::Name(name) => (1, name),
            Self::Address(address) => (2, address),
        };
        out.put_u8(kind);
        put_text(out, text);
    }

    fn parse(body: &mut &[u8]) -> Option<Self> {
        match body.try_get_u8().ok()? {
            0 => Some(Self::Contact),
            1 => take_text(body, NAME_MAX).filter(|name| is_name(name)).map(Self::Name),
            2 => take_text(body, TEXT_MAX).map(Self::Address),
            _ => None,
        }
    }
}

/// `OPEN`: a new flow, where it is to lead, and who is at its far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The contact point that was called; for another destination, what the opener counts it to.
    pub contact: ContactId,
    /// The caller's address, as the opening side saw it.
    pub source: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it is to lead.
    pub to: Destination,
}

impl Open {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.contact.0);
        match self.source.ip() {
            IpAddr::V4(ip) => {
                out.put_u8(4);
                out.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.put_u8(6);
                out.put_slice(&ip.octets());
            }
        }
        out.put_u16(self.source.port());
        out.put_u8(self.protocol as u8);
        self.to.encode(out);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        let contact = ContactId(body.try_get_u32().ok()?);
        let ip = match body.try_get_u8().ok()? {
            4 => IpAddr::V4(Ipv4Addr::from(take_array::<4>(body)?)),
            6 => IpAddr::V6(Ipv6Addr::from(take_array::<16>(body)?)),
            _ => return None,
        };
        let source = SocketAddr::new(ip, body.try_get_u16().ok()?);
        let protocol = Protocol::parse(body)?;
        Some(Self { contact, source, protocol, to: Destination::parse(body)? })
    }
}

/// `DATAGRAM`: datagrams of a flow, or a part of one that is too long for its packet or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// One or several.
    Whole {
        /// Size of each datagram in the payload but the last, which may be shorter; 0 when there is
        /// only one.
        segment: u16,
        /// The datagrams' bytes.
        payload: &'a [u8],
    },
    /// A part. Parts may come in any order, since packets may.
    Part {
        /// Which of the flow's datagrams that were cut.
        number: u16,
        /// Where in the datagram it belongs.
        offset: u16,
        /// The datagram's length.
        total: u16,
        /// The part's bytes.
        payload: &'a [u8],
    },
}

impl<'a> Datagram<'a> {
    const PART: u8 = 1;

    pub(super) fn flags(self) -> u8 {
        match self {
            Self::Whole { .. } => 0,
            Self::Part { .. } => Self::PART,
        }
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Whole { segment, payload } => {
                out.put_u16(segment);
                out.put_slice(payload);
            }
            Self::Part { number, offset, total, payload } => {
                out.put_u16(number);
                out.put_u16(offset);
                out.put_u16(total);
                out.put_slice(payload);
            }
        }
    }

    pub(super) fn parse(flags: u8, mut body: &'a [u8]) -> Option<Self> {
        match flags {
            0 => {
                let segment = body.try_get_u16().ok()?;
                Some(Self::Whole { segment, payload: body })
            }
            Self::PART => {
                let number = body.try_get_u16().ok()?;
                let (offset, total) = (body.try_get_u16().ok()?, body.try_get_u16().ok()?);
                let end = usize::from(offset) + body.len();
                let is_within = !body.is_empty() && end <= usize::from(total);
                is_within.then_some(Self::Part { number, offset, total, payload: body })
            }
            _ => None,
        }
    }
}

/// `POLL`: the collector's grant to the other end. Both counts are absolute, so that a lost or
/// repeated one does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Reliable records received so far.
    pub records: u64,
    /// How many stream bytes the session may send in all.
    pub bytes: u64,
}

impl Poll {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.records);
        out.put_u64(self.bytes);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        Some(Self { records: body.try_get_u64().ok()?, bytes: body.try_get_u64().ok()? })
    }
}

/// `CREDIT`: how far one flow may send. Both counts are absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// How many bytes the flow may carry in all.
    pub limit: u64,
    /// How many of them the socket has taken.
    pub taken: u64,
}

impl Credit {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.limit);
        out.put_u64(self.taken);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        Some(Self { limit: body.try_get_u64().ok()?, taken: body.try_get_u64().ok()? })
    }
}

/// Why the sender of `GOAWAY` ends the session or lets it run dry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum GoawayReason {
    /// No new flows; the session ends with the last one.
    Draining = 1,
    /// The session ends now, with the daemon.
    Ending = 2,
    /// Somebody else with the same key has begun a session: dialling again at once would only
    /// take it away from them.
    Superseded = 3,
    /// The key is no longer accepted.
    Revoked = 4,
}

impl GoawayReason {
    fn from_wire(reason: u8) -> Self {
        [Self::Draining, Self::Superseded, Self::Revoked]
            .into_iter()
            .find(|known| *known as u8 == reason)
            .unwrap_or(Self::Ending)
    }
}

/// `GOAWAY`: the sender drains, or ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goaway {
    /// Why, for the other end's program.
    pub reason: GoawayReason,
    /// Why, in words for the log.
    pub text: String,
    /// Where to go instead, `host:port`; empty when there is no such place.
    pub place: String,
}

impl Goaway {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.reason as u8);
        put_text(out, &self.text);
        put_text(out, &self.place);
    }

    pub(super) fn parse(body: &mut &[u8]) -> Option<Self> {
        Some(Self {
            reason: GoawayReason::from_wire(body.try_get_u8().ok()?),
            text: take_text(body, TEXT_MAX)?,
            place: take_text(body, TEXT_MAX)?,
        })
    }
}

/// A length of two bytes, then the bytes: at most [`TEXT_MAX`], which is all that `parse` takes.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..TEXT_MAX).unwrap_or(bytes);
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(0));
    out.put_slice(bytes);
}

/// Our own words, cut at a character's boundary where an error's text has grown too long.
fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(TEXT_MAX)]);
}

fn take_bytes<'a>(body: &mut &'a [u8], len_max: usize) -> Option<&'a [u8]> {
    let len = usize::from(body.try_get_u16().ok()?);
    if len > len_max {
        return None;
    }
    let (bytes, rest) = body.split_at_checked(len)?;
    *body = rest;
    Some(bytes)
}

/// Text of the other side, which may reach a terminal: no control characters.
fn take_text(body: &mut &[u8], len_max: usize) -> Option<String> {
    let text = std::str::from_utf8(take_bytes(body, len_max)?).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn take_array<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let mut array = [0; N];
    body.try_copy_to_slice(&mut array).ok()?;
    Some(array)
}
