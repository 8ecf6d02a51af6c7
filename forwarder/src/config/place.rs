//! Places in a configuration: where something listens, and where a contact point is to stand.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host and a port; the host may be a name, which is resolved each time it is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl Place {
    /// The address, when the host is one and not a name.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }

    /// The addresses behind the name. Blocks while the resolver works.
    ///
    /// # Errors
    /// When the name cannot be resolved, or has no address.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How many places one relay may have.
pub const PLACES_MAX: usize = 8;

/// The places at which one relay is reached, in the order of the configuration. Shown joined by
/// `", "`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<Place>);

impl From<Place> for Places {
    fn from(place: Place) -> Self {
        Self(vec![place])
    }
}

impl From<Vec<Place>> for Places {
    fn from(places: Vec<Place>) -> Self {
        Self(places)
    }
}

impl Deref for Places {
    type Target = [Place];

    fn deref(&self) -> &[Place] {
        &self.0
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{place}")?;
        }
        Ok(())
    }
}

/// Why a text names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// There is no port, or no host.
    #[error("{0:?} is no address: write it as host:port, such as 192.0.2.7:80 or [2001:db8::7]:80")]
    Shape(String),
    /// The port is no port.
    #[error("port {0:?} is out of range: 1 to 65535")]
    Port(String),
    /// The host is neither a name nor an address.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    /// A contact point of an unknown kind.
    #[error("{0:?} is no contact point: write public:PORT, such as public:8080, or private")]
    Contact(String),
}

/// An address to listen on, with an error that shows what one looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenAddress(pub(super) SocketAddr);

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

/// A port that can be listened on or dialled.
pub(super) fn parse_port(text: &str) -> Result<u16, BadPlace> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if port != 0 && digits => Ok(port),
        _ => Err(BadPlace::Port(text.to_owned())),
    }
}

/// A name may hold what host names and address literals hold; it ends up in logs.
pub(super) fn is_host(host: &str) -> bool {
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (1..=253).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        // "192.168.50.300" is a slip, not a name to ask a resolver for.
        && (!numeric || host.parse::<Ipv4Addr>().is_ok())
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let shape = || BadPlace::Shape(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = match bracketed {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            // 2001:db8::7:80 could be either; brackets say which.
            None if host.is_empty() || host.contains(':') => return Err(shape()),
            None => is_host(host),
        };
        if !known {
            return Err(BadPlace::Host(host.to_owned()));
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port: parse_port(port)? })
    }
}

/// Where at the relay an internal peer is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Contact {
    /// At no port: only by the peer's name, by those who may call it.
    Private,
    /// A public TCP port.
    Public(u16),
}

impl Contact {
    /// The port at the relay; 0, as in `REGISTER`, for a private one.
    pub fn port(self) -> u16 {
        match self {
            Self::Private => 0,
            Self::Public(port) => port,
        }
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Public(port) => write!(f, "public:{port}"),
        }
    }
}

impl FromStr for Contact {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        if text == "private" {
            return Ok(Self::Private);
        }
        let contact = text.strip_prefix("public:");
        let port = contact.ok_or_else(|| BadPlace::Contact(text.to_owned()))?;
        Ok(Self::Public(parse_port(port)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be dialled is refused when it is read, not when it is needed.
    #[test]
    fn malformed_places_are_refused() {
        let texts =
            ["", "80", ":80", "host", "host:", "host:0", "host:65536", "host:+80", "host: 80"];
        for text in texts {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        for text in ["192.168.50.300:80", "2001:db8::7:80", "[host]:80", "[::1:80", "a b:80"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        for text in [
            "8080",
            "public",
            "public:",
            "Private",
            "private:",
            "public:0",
            "private:web",
            "public:99999",
        ] {
            assert!(text.parse::<Contact>().is_err(), "{text}");
        }
    }

    /// A place is shown as it was written.
    #[test]
    fn places_are_shown_as_written() {
        for text in ["192.0.2.7:80", "[2001:db8::7]:80", "relay.example.net:443", "a_b:1"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["public:8080", "private"] {
            assert_eq!(text.parse::<Contact>().unwrap().to_string(), text);
        }
    }
}
