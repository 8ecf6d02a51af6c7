//! Networks in a configuration: who may come, and what may be dialled.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An address or a network, `203.0.113.7` or `203.0.113.0/24`; a v4-mapped one is what it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net(pub IpNet);

/// Why a text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNet {
    /// Neither an address nor a network.
    #[error("{0:?} is no network: write it as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")]
    Shape(String),
    /// Its address has bits that its length does not cover: a slip, one way or the other.
    #[error("{text:?} has bits behind its length: write {net}, or a longer length")]
    HostBits {
        /// What was written.
        text: String,
        /// The network that it is in.
        net: IpNet,
    },
}

impl FromStr for Net {
    type Err = BadNet;

    fn from_str(text: &str) -> Result<Self, BadNet> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_canonical().into()));
        }
        let net: IpNet =
            text.parse().map_err(|_no_net: ipnet::AddrParseError| BadNet::Shape(text.into()))?;
        if net != net.trunc() {
            return Err(BadNet::HostBits { text: text.into(), net: net.trunc() });
        }
        Ok(Self(canonical(net)))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// The prefix of v4-mapped addresses, `::ffff:0:0/96`.
const MAPPED_LEN: u8 = 96;

/// Addresses are canonical when they are compared, so networks must be.
fn canonical(net: IpNet) -> IpNet {
    let mapped = match net {
        IpNet::V6(net) if net.prefix_len() >= MAPPED_LEN => net.addr().to_ipv4_mapped(),
        _ => None,
    };
    let v4 = mapped.and_then(|ip| Ipv4Net::new(ip, net.prefix_len() - MAPPED_LEN).ok());
    v4.map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that could be meant two ways, or none, is refused when it is read.
    #[test]
    fn malformed_networks_are_refused() {
        for text in ["", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "::/129", "host", "[::1]"] {
            assert!(matches!(text.parse::<Net>(), Err(BadNet::Shape(_))), "{text}");
        }
        let error = "203.0.113.7/24".parse::<Net>().unwrap_err().to_string();
        assert!(error.contains("write 203.0.113.0/24"), "{error}");
    }

    /// IPv4 in the clothes of IPv6 is IPv4: that is what addresses are compared as.
    #[test]
    fn mapped_networks_are_what_they_map() {
        for (text, shown) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("192.0.2.7/32", "192.0.2.7"),
        ] {
            assert_eq!(text.parse::<Net>().unwrap().to_string(), shown);
        }
    }
}
