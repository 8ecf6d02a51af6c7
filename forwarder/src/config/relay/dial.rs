//! What the relay dials for a forwarder.

use std::fmt;
use std::str::FromStr;

use crate::config::net::{BadNet, Net};
use crate::config::place::is_host;
use crate::config::{BadPorts, PortRange};
use crate::handoff::Protocol;
use ipnet::IpNet;

/// What goes in front of an entry for UDP.
const UDP: &str = "udp/";

/// Some ports of some hosts: `192.0.2.10:443`, `198.51.100.0/24:80-443`, `[2001:db8::/32]:443`,
/// `www.example.com:443`, `udp/192.0.2.53:53`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// TCP, or UDP where the entry says `udp/` first.
    pub protocol: Protocol,
    /// Which hosts.
    pub to: DialTo,
    /// Which of their ports.
    pub ports: PortRange,
}

/// The hosts of a [`Dial`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialTo {
    /// Those with these addresses.
    Net(IpNet),
    /// The one that the resolver finds under this name, in small letters.
    Host(String),
}

/// Why a text is no such entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDial {
    /// No host, or no ports.
    #[error(
        "{0:?} names no host and ports: write 192.0.2.10:443, 198.51.100.0/24:80-443, \
         [2001:db8::/32]:443, www.example.com:443, or udp/192.0.2.53:53"
    )]
    Shape(String),
    /// The network is none.
    #[error("{0}")]
    Net(#[from] BadNet),
    /// The ports are none.
    #[error("{0}")]
    Ports(#[from] BadPorts),
}

impl FromStr for Dial {
    type Err = BadDial;

    fn from_str(text: &str) -> Result<Self, BadDial> {
        let shape = || BadDial::Shape(text.to_owned());
        let (protocol, rest) = match text.strip_prefix(UDP) {
            Some(rest) => (Protocol::Udp, rest),
            None => (Protocol::Tcp, text),
        };
        let (host, ports) = rest.rsplit_once(':').ok_or_else(shape)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_net = |host: &str| host.contains('/') || host.parse::<Net>().is_ok();
        let to = match bracketed {
            Some(host) => DialTo::Net(host.parse::<Net>()?.0),
            // 2001:db8::7:80 could be either; brackets say which.
            None if host.contains(':') => return Err(shape()),
            None if is_net(host) => DialTo::Net(host.parse::<Net>()?.0),
            None if is_host(host) => DialTo::Host(host.to_ascii_lowercase()),
            None => return Err(shape()),
        };
        Ok(Self { protocol, to, ports: ports.parse()? })
    }
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str(UDP)?;
        }
        match &self.to {
            DialTo::Net(net @ IpNet::V6(_)) => write!(f, "[{}]:{}", Net(*net), self.ports),
            DialTo::Net(net) => write!(f, "{}:{}", Net(*net), self.ports),
            DialTo::Host(host) => write!(f, "{host}:{}", self.ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry that could be read two ways allows nothing: it is refused.
    #[test]
    fn malformed_entries_are_refused() {
        for text in [
            "",
            "443",
            ":443",
            "192.0.2.10",
            "192.0.2.10:",
            "192.0.2.10:0",
            "192.0.2.10:443-80",
            "192.0.2.300:443",
            "192.0.2.0/33:443",
            "192.0.2.7/24:443",
            "2001:db8::7:443",
            "2001:db8::/32:443",
            "[www.example.com]:443",
            "*.example.com:443",
            "http://192.0.2.10:443",
            "a b:443",
            "udp/",
            "udp/udp/192.0.2.53:53",
            "tcp/192.0.2.53:53",
        ] {
            assert!(text.parse::<Dial>().is_err(), "{text}");
        }
    }

    /// An entry is shown as it was written, up to capitals and needless lengths.
    #[test]
    fn entries_are_shown_as_written() {
        for text in [
            "192.0.2.10:443",
            "198.51.100.0/24:80-443",
            "[2001:db8::/32]:443",
            "[2001:db8::7]:1-65535",
            "www.example.com:443",
            "udp/192.0.2.53:53",
        ] {
            assert_eq!(text.parse::<Dial>().unwrap().to_string(), text);
        }
        assert_eq!(
            "WWW.Example.com:443".parse::<Dial>().unwrap().to_string(),
            "www.example.com:443"
        );
        assert_eq!("[::ffff:192.0.2.1]:80".parse::<Dial>().unwrap().to_string(), "192.0.2.1:80");
    }
}
