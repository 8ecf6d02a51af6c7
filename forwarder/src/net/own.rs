//! The addresses of this host.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// The addresses that the interfaces have at the moment, in canonical form.
///
/// # Errors
/// When the kernel does not say.
pub fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let addresses = getifaddrs()?.filter_map(|interface| ip(interface.address?));
    Ok(addresses.map(|ip| ip.to_canonical()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback is always among them, so an empty answer is never taken for all of it.
    #[test]
    fn loopback_is_among_them() {
        assert!(own_addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
