//! The ways from the external to the internal peer that are compared.

use std::fmt;

use clap::ValueEnum;

use crate::{bore, frp, haproxy, rathole, wireguard};

/// A service of the internal peer, by its port there; each way leads to it from a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name, as a registered peer.
    pub(crate) name: &'static str,
    /// Its port on the internal peer.
    pub(crate) port: u16,
    /// Whether it takes datagrams instead of connections.
    pub(crate) is_datagrams: bool,
}

impl Service {
    const fn stream(name: &'static str, port: u16) -> Self {
        Self { name, port, is_datagrams: false }
    }

    const fn datagrams(name: &'static str, port: u16) -> Self {
        Self { name, port, is_datagrams: true }
    }

    /// Its protocol, as configurations and firewalls name it.
    pub(crate) fn protocol(self) -> &'static str {
        if self.is_datagrams { "udp" } else { "tcp" }
    }
}

/// iperf3.
pub(crate) const BULK: Service = Service::stream("bulk", 5201);
/// Sends back what it gets.
pub(crate) const ECHO: Service = Service::stream("echo", 5007);
/// Sends without end, as fast as asked for.
pub(crate) const SOURCE: Service = Service::stream("source", 5300);
/// All that take connections.
pub(crate) const SERVICES: [Service; 3] = [BULK, ECHO, SOURCE];
/// Sends back each datagram.
pub(crate) const DATAGRAM_ECHO: Service = Service::datagrams("datagram-echo", 5008);
/// Counts datagrams.
pub(crate) const DATAGRAM_SINK: Service = Service::datagrams("datagram-sink", 5009);
/// All of both kinds.
pub(crate) const ALL_SERVICES: [Service; 5] = [BULK, ECHO, SOURCE, DATAGRAM_ECHO, DATAGRAM_SINK];

/// How far a way's ports lie above the services' own. All stay below the ephemeral ports.
const SOCAT_OFFSET: u16 = 10_000;
const BORE_OFFSET: u16 = 11_000;
const HAPROXY_OFFSET: u16 = 12_000;
const SSH_OFFSET: u16 = 13_000;
const HAPROXY_SPLICE_OFFSET: u16 = 14_000;
const FRP_OFFSET: u16 = 15_000;
const BORINGTUN_OFFSET: u16 = 16_000;
const WIREGUARD_GO_OFFSET: u16 = 18_000;
const ADIT_OFFSET: u16 = 20_000;
const RATHOLE_OFFSET: u16 = 24_000;
const RATHOLE_NOISE_OFFSET: u16 = 26_000;

/// One of the things compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// DNAT on the gateway, no process in between: the physical limit.
    Kernel,
    /// Two hops of socat, no tunnel, nothing sealed.
    Socat,
    /// Two hops of haproxy that copy, no tunnel, nothing sealed; measured where it is installed.
    Haproxy,
    /// The same with splicing forced.
    HaproxySplice,
    /// The relay and the forwarder.
    Adit,
    /// A plain tunnel; measured where it is installed.
    Rathole,
    /// The same under Noise.
    RatholeNoise,
    /// `ssh -R`.
    Ssh,
    /// A plain tunnel with a connection for each flow; measured where it is installed.
    Bore,
    /// A tunnel under TLS; measured where it is installed.
    Frp,
    /// A VPN in user space between two DNATs; measured where it is installed.
    Boringtun,
    /// Another.
    WireguardGo,
}

impl Way {
    /// The host of the lab that external peers connect to.
    pub(crate) fn entry_host(self) -> &'static str {
        match self {
            Self::Kernel => "gw",
            _ => "relay",
        }
    }

    /// The port there.
    pub(crate) fn entry_port(self, service: Service) -> u16 {
        match self {
            Self::Kernel => service.port,
            Self::Socat => service.port + SOCAT_OFFSET,
            Self::Haproxy => service.port + HAPROXY_OFFSET,
            Self::HaproxySplice => service.port + HAPROXY_SPLICE_OFFSET,
            Self::Adit => service.port + ADIT_OFFSET,
            Self::Rathole => service.port + RATHOLE_OFFSET,
            Self::RatholeNoise => service.port + RATHOLE_NOISE_OFFSET,
            Self::Ssh => service.port + SSH_OFFSET,
            Self::Bore => service.port + BORE_OFFSET,
            Self::Frp => service.port + FRP_OFFSET,
            Self::Boringtun => service.port + BORINGTUN_OFFSET,
            Self::WireguardGo => service.port + WIREGUARD_GO_OFFSET,
        }
    }

    /// The relay's port that the tunnel uses, if there is one.
    pub(crate) fn tunnel_port(self) -> Option<u16> {
        match self {
            Self::Kernel | Self::Socat | Self::Haproxy | Self::HaproxySplice => None,
            Self::Adit => Some(443),
            Self::Rathole => Some(2_333),
            Self::RatholeNoise => Some(2_334),
            Self::Ssh => Some(2_222),
            Self::Bore => Some(7_835),
            Self::Frp => Some(7_000),
            Self::Boringtun => Some(51_820),
            Self::WireguardGo => Some(51_821),
        }
    }

    /// Whether it is a tunnel, and not Adit.
    pub(crate) fn is_other_tunnel(self) -> bool {
        self != Self::Adit && self.tunnel_port().is_some()
    }

    /// Its name in a table's heading.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Socat => "socat",
            Self::Haproxy | Self::HaproxySplice => "haproxy",
            Self::Adit => "Adit",
            Self::Rathole | Self::RatholeNoise => "rathole",
            Self::Ssh => "ssh",
            Self::Bore => "bore",
            Self::Frp => "frp",
            Self::Boringtun => "boringtun",
            Self::WireguardGo => "wireguard-go",
        }
    }

    /// What has to be installed for it, and how else it may be named.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Kernel | Self::Socat | Self::Adit | Self::Ssh => "nothing",
            Self::Haproxy | Self::HaproxySplice => "haproxy on the PATH, or as $HAPROXY_BIN",
            Self::Rathole | Self::RatholeNoise => "rathole on the PATH, or as $RATHOLE_BIN",
            Self::Bore => "bore on the PATH, or as $BORE_BIN",
            Self::Frp => "frps and frpc on the PATH, or as $FRPS_BIN and $FRPC_BIN",
            Self::Boringtun => "boringtun-cli on the PATH, or as $BORINGTUN_BIN",
            Self::WireguardGo => "wireguard-go on the PATH, or as $WIREGUARD_GO_BIN",
        }
    }

    /// Whether it carries datagrams.
    pub(crate) fn carries_datagrams(self) -> bool {
        match self {
            Self::Socat | Self::Haproxy | Self::HaproxySplice | Self::Ssh | Self::Bore => false,
            Self::Kernel | Self::Adit | Self::Rathole | Self::RatholeNoise | Self::Frp => true,
            Self::Boringtun | Self::WireguardGo => true,
        }
    }

    /// Whether it is rathole, of either kind.
    pub(crate) fn is_rathole(self) -> bool {
        matches!(self, Self::Rathole | Self::RatholeNoise)
    }

    /// Whether it is a WireGuard in user space, of either kind.
    pub(crate) fn is_wireguard(self) -> bool {
        matches!(self, Self::Boringtun | Self::WireguardGo)
    }

    /// Whether it is haproxy, of either kind.
    pub(crate) fn is_haproxy(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxySplice)
    }

    /// Whether what it needs is there. The lab itself sees to what the others need.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Kernel | Self::Socat | Self::Adit | Self::Ssh => true,
            Self::Haproxy | Self::HaproxySplice => haproxy::program().is_some(),
            Self::Rathole | Self::RatholeNoise => rathole::program().is_some(),
            Self::Bore => bore::program().is_some(),
            Self::Frp => frp::programs().is_some(),
            Self::Boringtun | Self::WireguardGo => wireguard::program(self).is_some(),
        }
    }
}

/// The ways in a round's order: whoever comes first must not always be the same.
pub(crate) fn rotated(ways: &[Way], round: usize) -> impl Iterator<Item = Way> {
    ways.iter().copied().cycle().skip(round % ways.len().max(1)).take(ways.len())
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel DNAT",
            Self::Socat => "socat, two hops",
            Self::Haproxy => "haproxy, copy",
            Self::HaproxySplice => "haproxy, splice",
            Self::Adit => "Adit",
            Self::Rathole => "rathole, plain",
            Self::RatholeNoise => "rathole, noise",
            Self::Ssh => "ssh -R",
            Self::Bore => "bore",
            Self::Frp => "frp",
            Self::Boringtun => "boringtun",
            Self::WireguardGo => "wireguard-go",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two entries on the relay's host share a port, none is a tunnel's, and none is one that the kernel gives
    /// to connections by default.
    #[test]
    fn entries_have_ports_of_their_own() {
        let ways = Way::value_variants().iter().filter(|way| way.entry_host() == "relay");
        let entries =
            ways.clone().flat_map(|way| ALL_SERVICES.map(|service| way.entry_port(service)));
        let tunnels = ways.clone().filter_map(|way| way.tunnel_port());
        let mut ports: Vec<_> = entries.clone().chain(tunnels).collect();
        assert!(entries.clone().all(|port| port < 32_768), "{ports:?}");
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all);
    }
}
