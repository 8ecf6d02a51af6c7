//! The header that tells an internal peer who calls (the PROXY protocol).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_proto::frame;
use ppp::v2::{Builder, Command, Protocol, Version};
use ppp::{v1, v2};

use crate::handoff::{ProxyHeader, ProxyVersion};

/// The header for a connection from `source`, or for each datagram from there: those have the binary
/// form alone.
pub(crate) fn proxy_header(
    header: ProxyHeader,
    protocol: frame::Protocol,
    source: SocketAddr,
) -> Vec<u8> {
    let (source, contact) = same_family(source, header.contact);
    let kind = match protocol {
        frame::Protocol::Tcp => Protocol::Stream,
        frame::Protocol::Udp => Protocol::Datagram,
    };
    match header.version {
        ProxyVersion::V1 if protocol == frame::Protocol::Tcp => {
            v1::Addresses::from((source, contact)).to_string().into_bytes()
        }
        ProxyVersion::V1 | ProxyVersion::V2 => {
            let addresses = v2::Addresses::from((source, contact));
            let command = Version::Two | Command::Proxy;
            Builder::with_addresses(command, kind, addresses)
                .build()
                .expect("invariant: two addresses fit into a header")
        }
    }
}

/// Both addresses in one family, as the protocol wants them: IPv4 in its IPv6 form where one is
/// IPv6. A contact address that is not known is the unspecified one.
fn same_family(source: SocketAddr, contact: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let source = canonical(source);
    let unknown = match source.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let contact = contact.map_or(SocketAddr::new(unknown, 0), canonical);
    if source.is_ipv4() == contact.is_ipv4() {
        return (source, contact);
    }
    let mapped = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), at.port()),
        IpAddr::V6(_) => at,
    };
    (mapped(source), mapped(contact))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyVersion, source: &str, contact: Option<&str>) -> Vec<u8> {
        let contact = contact.map(|contact| contact.parse().unwrap());
        let protocol = frame::Protocol::Tcp;
        proxy_header(ProxyHeader { version, contact }, protocol, source.parse().unwrap())
    }

    /// The text form is one line, as haproxy writes it.
    #[test]
    fn the_first_version_is_a_line() {
        let line = header(ProxyVersion::V1, "203.0.113.10:40000", Some("203.0.113.20:8080"));
        assert_eq!(line, b"PROXY TCP4 203.0.113.10 203.0.113.20 40000 8080\r\n");
        let line = header(ProxyVersion::V1, "[2001:db8::1]:40000", Some("203.0.113.20:8080"));
        assert!(line.starts_with(b"PROXY TCP6 2001:db8::1 ::ffff:"), "{line:?}");
    }

    /// The binary form says the same to a parser of it, whatever the families.
    #[test]
    fn the_second_version_carries_both_addresses() {
        let bytes = header(ProxyVersion::V2, "[::ffff:203.0.113.10]:40000", None);
        let parsed = v2::Header::try_from(bytes.as_slice()).unwrap();
        let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let expected = v2::IPv4::new(v4("203.0.113.10"), v4("0.0.0.0"), 40_000, 0);
        assert_eq!(parsed.addresses, v2::Addresses::IPv4(expected));
        let mixed = header(ProxyVersion::V2, "203.0.113.10:40000", Some("[2001:db8::20]:80"));
        let parsed = v2::Header::try_from(mixed.as_slice()).unwrap();
        assert!(matches!(parsed.addresses, v2::Addresses::IPv6(_)));
    }
}
