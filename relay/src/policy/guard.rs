//! Which addresses the relay dials for a forwarder. Forwarders are trusted with what they were
//! given and with nothing else of the relay's network: neither its loopback, nor its neighbours,
//! nor the services that its host has for it alone.
//!
//! An address is judged by what it is and by every IPv4 address that it may lead to, and the address
//! judged is the address dialled. Nothing here looks up or dials: what is known is an argument.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit::config::{Dial, DialTo};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where this relay itself listens.
#[derive(Clone, Copy)]
pub(crate) struct OwnPlaces<'a> {
    /// The addresses of this host, and those at which it is known outside.
    pub(crate) addresses: &'a BTreeSet<IpAddr>,
    /// Whether a port is one of forwarders or of a contact point.
    pub(crate) listens_at: &'a dyn Fn(u16) -> bool,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Guarded {
    #[error("it is not among dials")]
    NotListed,
    #[error("it is this relay itself")]
    Own,
    #[error("it is an address of this relay: no entry of dials names that one address")]
    OwnAddress,
    #[error("it is {0}: no entry of dials names it by an address or a network of that kind")]
    Special(&'static str),
}

/// What is dialled only where an entry names it: such an entry lies within the network here.
const SPECIAL: [(IpNet, &str); 20] = [
    (v4([0, 0, 0, 0], 8), "an unspecified address"),
    (v4([10, 0, 0, 0], 8), "a private address"),
    (v4([100, 64, 0, 0], 10), "a private address"),
    (v4([127, 0, 0, 0], 8), "a loopback address"),
    // The metadata of cloud hosts is at 169.254.169.254, 192.0.0.192 and 168.63.129.16.
    (v4([169, 254, 0, 0], 16), "a link-local address"),
    (v4([172, 16, 0, 0], 12), "a private address"),
    (v4([192, 0, 0, 0], 24), "a reserved address"),
    (v4([168, 63, 129, 16], 32), "a reserved address"),
    (v4([192, 168, 0, 0], 16), "a private address"),
    (v4([198, 18, 0, 0], 15), "a private address"),
    (v4([224, 0, 0, 0], 4), "a multicast address"),
    (v4([255, 255, 255, 255], 32), "a broadcast address"),
    (v4([240, 0, 0, 0], 4), "a reserved address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "an unspecified address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback address"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local address"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "a private address"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a private address"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "a reserved address"),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), len))
}

/// The address to dial for `host`, as it was asked for, when `found` is what it resolves to.
pub(crate) fn judge(
    dials: &[Dial],
    host: &str,
    found: SocketAddr,
    own: OwnPlaces<'_>,
) -> Result<SocketAddr, Guarded> {
    let address = SocketAddr::new(found.ip().to_canonical(), found.port());
    let ip = address.ip();
    let leads_to = embedded(ip);
    let faces = || leads_to.iter().copied().map(IpAddr::V4).chain([ip]);
    if faces().any(|face| is_own(face, own)) && (own.listens_at)(address.port()) {
        return Err(Guarded::Own);
    }
    let listed: Vec<_> = dials.iter().filter(|dial| dial.ports.contains(address.port())).collect();
    let through_nat64 = leads_to.first().filter(|_| is_nat64(ip)).map(|v4| IpAddr::V4(*v4));
    let is_listed = |dial: &&Dial| match &dial.to {
        DialTo::Host(listed) => is_same_host(listed, host),
        DialTo::Net(net) => [Some(ip), through_nat64].iter().flatten().any(|ip| net.contains(ip)),
    };
    if !listed.iter().any(is_listed) {
        return Err(Guarded::NotListed);
    }
    let has_net = |suits: &dyn Fn(&IpNet) -> bool| {
        listed.iter().any(|dial| matches!(&dial.to, DialTo::Net(net) if suits(net)))
    };
    for face in faces() {
        // What its host's filter keeps from the outside can be reached from the host itself.
        let is_exact = |net: &IpNet| *net == IpNet::from(face) || *net == IpNet::from(ip);
        if own.addresses.contains(&face) && !has_net(&is_exact) {
            return Err(Guarded::OwnAddress);
        }
        let Some((special, what)) = special(face) else { continue };
        let is_of_kind =
            |net: &IpNet| (special.contains(net) && net.contains(&face)) || *net == IpNet::from(ip);
        if !has_net(&is_of_kind) {
            return Err(Guarded::Special(what));
        }
    }
    Ok(address)
}

/// Whether it is worth resolving `host`: whatever else it leads to would be refused.
pub(crate) fn may_lead_to_listed(dials: &[Dial], host: &str, port: u16) -> bool {
    let mut listed = dials.iter().filter(|dial| dial.ports.contains(port));
    listed.any(|dial| matches!(dial.to, DialTo::Net(_))) || is_listed_by_name(dials, host, port)
}

/// Whether an entry has `host` itself, whatever it leads to.
pub(crate) fn is_listed_by_name(dials: &[Dial], host: &str, port: u16) -> bool {
    dials.iter().filter(|dial| dial.ports.contains(port)).any(|dial| match &dial.to {
        DialTo::Host(listed) => is_same_host(listed, host),
        DialTo::Net(_) => false,
    })
}

/// Names are compared as the resolver would: capitals and the root's dot say nothing.
fn is_same_host(listed: &str, host: &str) -> bool {
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    plain(listed) == plain(host)
}

fn is_own(ip: IpAddr, own: OwnPlaces<'_>) -> bool {
    ip.is_loopback() || ip.is_unspecified() || own.addresses.contains(&ip)
}

fn special(ip: IpAddr) -> Option<(IpNet, &'static str)> {
    SPECIAL.into_iter().find(|(net, _)| net.contains(&ip))
}

/// The well-known prefix of NAT64, `64:ff9b::/96` (RFC 6052).
fn is_nat64(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0])
}

/// The IPv4 addresses that translators and tunnels on the way may make of `ip`.
fn embedded(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return Vec::new() };
    let o = ip.octets();
    let at = |i: usize| Ipv4Addr::new(o[i], o[i + 1], o[i + 2], o[i + 3]);
    match ip.segments() {
        // Unspecified and loopback, which are special as they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            vec![at(12)]
        }
        // NAT64 of a provider's own (RFC 8215): the length of the prefix is the translator's secret.
        [0x64, 0xff9b, 1, ..] => {
            let after_48 = Ipv4Addr::new(o[6], o[7], o[9], o[10]);
            let after_56 = Ipv4Addr::new(o[7], o[9], o[10], o[11]);
            let mut readings = vec![after_48, after_56, at(9), at(12)];
            // Read with another length than the translator's, an address begins with zeros.
            if readings.iter().any(|ip| ip.octets()[0] != 0) {
                readings.retain(|ip| ip.octets()[0] != 0);
            }
            readings
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => vec![at(2)],
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => vec![at(4), Ipv4Addr::from_bits(!at(12).to_bits())],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![at(12)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
