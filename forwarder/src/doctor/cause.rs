//! Everything that can be wrong, in the words of those who run networks, and what to change.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::Place;
use crate::net::Rejection;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The configuration, the key or the kernel; the text says it all.
    Here { what: String, cure: String },
    /// Nobody resolves names.
    ResolverSilent { place: String, why: String },
    /// The name has no address.
    NoSuchName { place: String },
    /// This host has no way to any of the relay's addresses.
    NoRoute { addresses: String, why: String },
    /// The host has one family, and the relay the other.
    OtherFamily { addresses: String, is_host_v6: bool },
    /// Nothing at all comes back.
    TimedOut { address: SocketAddr, open_443: Open443 },
    /// A reset, or "port unreachable".
    ConnectionRefused { address: SocketAddr, rejection: Option<Rejection>, open_443: Open443 },
    /// Another ICMP error.
    Rejected { address: SocketAddr, why: String, rejection: Option<Rejection>, open_443: Open443 },
    /// Some connections are made, others are not.
    Sometimes { good: usize, all: usize, why: String },
    /// A name in the handshake is objected to.
    SniBlocked { name: String, with: String },
    /// A handshake without any name is objected to.
    NamelessBlocked { with: String },
    /// It fails, and then it does not.
    Unsteady { why: String },
    /// It takes very long.
    Slow { sent: usize, received: usize },
    /// TLS is objected to.
    TlsBlocked { is_reset: bool },
    /// Accepted, and then nothing.
    Silent { address: Place },
    /// Large packets disappear.
    BlackHole { passed_bytes: u32 },
    /// HTTP or anything else.
    NotTls { address: Place, greeting: String },
    /// TLS, but no relay.
    NotAdit { address: Place, reason: String },
    /// Another key.
    WrongRelay { text: String },
    /// Our key is unknown.
    KeyUnknown { key: String },
    /// The relay says no.
    Refused { text: String },
    /// A contact point cannot be had.
    Contact { peer: String, text: String, more: usize },
    /// The connection dies under load.
    Cut { sent: usize, received: usize, how: String },
    /// The proxy.
    Proxy { text: String, cure: String },
    /// No datagram gets through.
    UdpBlocked,
    /// The path's port alone is closed to datagrams.
    PathBlocked { port: u16 },
    /// Datagrams get out, and nothing comes back.
    UdpOneWay,
    /// The gateway forgets soon.
    Idle { what: &'static str, after_s: (u64, u64), every_s: u64 },
    /// The connection does not work after all.
    Lost { text: String },
}

/// What is known of port 443 at the same address, where another port does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open443 {
    /// It is the one that was tried.
    IsTheSame,
    /// Nothing there either.
    No,
    /// Packets get there, but nobody listens.
    Reached,
    /// Somebody accepts.
    Accepts,
}

impl fmt::Display for Cause {
    #[expect(clippy::too_many_lines, reason = "a list of sentences")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here { what, .. } => f.write_str(what),
            Self::ResolverSilent { place, why } => {
                write!(f, "names are not resolved here: no DNS server answers for {place}, or the one that does has failed ({why})")
            }
            Self::NoSuchName { place } => {
                write!(f, "the name of {place} does not exist: the DNS server says that it has no address")
            }
            Self::NoRoute { addresses, why } => {
                write!(f, "this host has no route to {addresses}: {why}")
            }
            Self::OtherFamily { addresses, is_host_v6: true } => write!(
                f,
                "this host has IPv6 only, and the relay is reached by IPv4 only ({addresses})"
            ),
            Self::OtherFamily { addresses, is_host_v6: false } => write!(
                f,
                "this host has IPv4 only, and the relay is reached by IPv6 only ({addresses})"
            ),
            Self::TimedOut { address, open_443 } => match open_443 {
                Open443::Accepts | Open443::Reached => write!(
                    f,
                    "a firewall drops connections to port {} and lets those to port 443 out",
                    address.port()
                ),
                Open443::No | Open443::IsTheSame => write!(
                    f,
                    "nothing comes back from {address}: a firewall drops the packets without a word, \
                     or the relay is off"
                ),
            },
            Self::ConnectionRefused { address, rejection, open_443 } => {
                write!(f, "the connection to {address} is refused: ")?;
                match (rejection.filter(|rejection| rejection.by != Some(address.ip())), open_443) {
                    (Some(rejection), _) => write!(f, "a firewall rejects it, by {rejection}"),
                    (None, Open443::Accepts) => write!(
                        f,
                        "a firewall resets connections to port {} and lets those to port 443 out, or \
                         the relay does not listen there",
                        address.port()
                    ),
                    (None, _) => f.write_str(
                        "nobody listens on that port of the relay, or a firewall answers with a reset \
                         in its place",
                    ),
                }
            }
            Self::Rejected { address, why, rejection, open_443 } => {
                write!(f, "a gateway rejects the connection to {address}: ")?;
                match rejection {
                    Some(rejection) => write!(f, "{rejection}")?,
                    None => f.write_str(why)?,
                }
                if rejection.is_none_or(|rejection| rejection.words() == "host unreachable") {
                    f.write_str(" (a firewall says so, or finds the relay off)")?;
                }
                match open_443 {
                    Open443::Accepts | Open443::Reached => f.write_str("; port 443 is let out"),
                    Open443::No | Open443::IsTheSame => Ok(()),
                }
            }
            Self::Sometimes { good, all, why } => write!(
                f,
                "only {good} of {all} connections are made ({why}): a limit on connections, or a NAT \
                 that has run out of ports"
            ),
            Self::SniBlocked { name, with } => write!(
                f,
                "a filter on the way ends TLS connections by the server name (SNI) {name}: with the \
                 name {with} they pass"
            ),
            Self::NamelessBlocked { with } => write!(
                f,
                "a filter on the way ends TLS connections without a server name (SNI): with the name \
                 {with} they pass"
            ),
            Self::Unsteady { why } => write!(
                f,
                "the way works now and then: the first attempt failed ({why}), and the same again did \
                 not"
            ),
            Self::Slow { sent, received } => write!(
                f,
                "the way is very slow: {sent} bytes out and {received} bytes in is all that went in the \
                 time"
            ),
            Self::TlsBlocked { is_reset: true } => f.write_str(
                "a filter on the way resets the connection as soon as TLS begins (after the \
                 ClientHello), whatever the server name",
            ),
            Self::TlsBlocked { is_reset: false } => f.write_str(
                "the connection is closed as soon as TLS begins (after the ClientHello), whatever the \
                 server name: a filter on the way, or a relay that has too many callers from here",
            ),
            Self::Silent { address } => write!(
                f,
                "{address} accepts connections and then says nothing: a SYN proxy or a captive portal \
                 that stands in for it, or a filter that swallows TLS"
            ),
            Self::BlackHole { passed_bytes } => write!(
                f,
                "packets of full size get lost on the way and nobody says so, those of {passed_bytes} \
                 bytes pass: an MTU black hole"
            ),
            Self::NotTls { address, greeting } => write!(
                f,
                "something else answers at {address}, without TLS (\"{greeting}\"): {}",
                if greeting.starts_with("HTTP") {
                    "a web server, a proxy or a captive portal"
                } else {
                    "not an Adit relay"
                }
            ),
            Self::NotAdit { address, reason } => write!(
                f,
                "something else answers at {address}: it speaks TLS and is no Adit relay of this \
                 version ({reason})"
            ),
            Self::WrongRelay { text } => write!(f, "another relay answers, or somebody in between: {text}"),
            Self::KeyUnknown { key } => write!(f, "the relay does not know this host's key, {key}"),
            Self::Refused { text } => write!(f, "the relay refuses: {text}"),
            Self::Contact { peer, text, more } => {
                write!(f, "the contact point of {peer} is not to be had: {text}")?;
                if *more > 0 { write!(f, "; and {more} more") } else { Ok(()) }
            }
            Self::Cut { sent, received, how } => write!(
                f,
                "the connection dies after about {sent} bytes out and {received} bytes in ({how}): a \
                 gateway limits how much one connection may carry"
            ),
            Self::Proxy { text, .. } => f.write_str(text),
            Self::UdpBlocked => f.write_str(
                "UDP does not get through: a gateway or the relay's own firewall stops it; datagrams \
                 ride the carrier",
            ),
            Self::PathBlocked { port } => write!(
                f,
                "UDP port {port} is blocked, though other UDP passes: datagrams ride the carrier"
            ),
            Self::UdpOneWay => f.write_str(
                "UDP gets out and no answer comes in: datagrams ride the carrier",
            ),
            Self::Idle { what, after_s: (from, to), .. } => write!(
                f,
                "the gateway forgets idle {what} between {from} and {to} s after their last packet"
            ),
            Self::Lost { text } => write!(f, "the connection is made, and does not last: {text}"),
        }
    }
}

impl Cause {
    /// What to change.
    #[expect(clippy::too_many_lines, reason = "a list of sentences")]
    pub(super) fn cure(&self) -> String {
        match self {
            Self::Here { cure, .. } | Self::Proxy { cure, .. } => cure.clone(),
            Self::ResolverSilent { .. } => {
                "make DNS work here (/etc/resolv.conf, the firewall's port 53), or write the relay's \
                 address instead of its name"
            }
            .to_owned(),
            Self::NoSuchName { .. } => {
                "correct `relay` in the configuration, or have the name entered in DNS".to_owned()
            }
            Self::NoRoute { .. } => {
                "give this host a default route (`ip route`), or bring its network up".to_owned()
            }
            Self::OtherFamily { is_host_v6, .. } => {
                let (host, relay) = if *is_host_v6 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
                format!(
                    "let the relay listen on {relay} too and name that address in `relay`, or give \
                     this host {host}{}",
                    if *is_host_v6 { " or NAT64" } else { "" }
                )
            }
            Self::TimedOut { address, open_443 }
            | Self::ConnectionRefused { address, open_443, .. }
            | Self::Rejected { address, open_443, .. } => blocked(*address, *open_443),
            Self::Sometimes { .. } => {
                "raise the limit on the gateway (connlimit, NAT ports), or close what holds many \
                 connections: Adit itself needs one"
            }
            .to_owned(),
            Self::SniBlocked { with, .. } => format!(
                "write sni = \"{with}\", or another name that is let through, into [gateway]; or name \
                 the relay by its address; or have the filter let its name pass"
            ),
            Self::NamelessBlocked { with } => format!(
                "write sni = \"{with}\", or another name that is let through, into [gateway]; or name \
                 the relay by a name instead of its address"
            ),
            Self::Unsteady { .. } => {
                "look for packet loss on the way, and for a filter or a limit that acts at times"
            }
            .to_owned(),
            Self::Slow { .. } => "look for a shaper, or packet loss, on the way".to_owned(),
            Self::TlsBlocked { .. } | Self::Silent { .. } => {
                "have the filter let TLS to the relay pass; or use the network's proxy (proxy in \
                 [gateway]); or let the relay listen on a port that is not inspected"
            }
            .to_owned(),
            Self::BlackHole { .. } => {
                "let ICMP \"fragmentation needed\" and \"packet too big\" pass on the way, or set the MTU \
                 of the gateway or of this host right, or clamp TCP's MSS (iptables TCPMSS \
                 --clamp-mss-to-pmtu); until then Adit keeps to small packets by itself"
            }
            .to_owned(),
            Self::NotTls { .. } => {
                "log in to the network's portal if it has one; name its proxy (proxy in [gateway]) if \
                 it wants one; or correct `relay`: it names another service"
            }
            .to_owned(),
            Self::NotAdit { .. } => {
                "correct `relay` if it names another service; ask the relay's operator for its \
                 version; or have the network's TLS inspection leave the relay alone"
            }
            .to_owned(),
            Self::WrongRelay { .. } => {
                "compare the key with what `adit-relay check` prints at the relay, and change \
                 relay_key only when you know why it differs"
            }
            .to_owned(),
            Self::KeyUnknown { key } => format!(
                "at the relay, add a [[forwarder]] with key = \"{key}\" and reload, or ask its operator \
                 for an invitation (`adit join`)"
            ),
            Self::Refused { .. } | Self::Lost { .. } => {
                "try again in a moment; the relay's log says more".to_owned()
            }
            Self::Contact { .. } => {
                "ask the relay's operator for it, or change `contact` in the configuration".to_owned()
            }
            Self::Cut { .. } => {
                "raise the limit on the gateway (quota, connbytes); until then sessions go on over a \
                 new connection each time"
            }
            .to_owned(),
            Self::UdpBlocked | Self::PathBlocked { .. } | Self::UdpOneWay => {
                "nothing, unless datagrams have to be fast: then let UDP to the relay's port out and \
                 its answers in"
            }
            .to_owned(),
            Self::Idle { after_s: (from, _), every_s, .. } if from >= every_s => {
                "nothing: Adit sends something more often than that".to_owned()
            }
            Self::Idle { what, every_s, .. } => format!(
                "raise the gateway's timeout of {what} above {every_s} s, which is how often Adit sends \
                 something"
            ),
        }
    }
}

fn blocked(address: SocketAddr, open_443: Open443) -> String {
    let port = address.port();
    match open_443 {
        Open443::Accepts | Open443::Reached => format!(
            "let the relay listen on port 443 too and write {} into `relay`, or have port {port} opened",
            SocketAddr::new(address.ip(), 443)
        ),
        Open443::No | Open443::IsTheSame => format!(
            "make sure that the relay runs and listens on port {port}; have TCP to {address} let out; or \
             name the network's proxy (proxy in [gateway]) if it wants one"
        ),
    }
}

/// A list for people.
pub(super) fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The family's name.
pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
