//! What a gateway lets pass.

/// How a gateway answers what it does not let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// TCP with a reset, all else with "port unreachable": the caller sees ECONNREFUSED.
    TcpReset,
    /// "Port unreachable": ECONNREFUSED.
    IcmpPort,
    /// "Host unreachable": EHOSTUNREACH.
    IcmpHost,
    /// "Network unreachable": ENETUNREACH.
    IcmpNet,
    /// "Administratively prohibited": EHOSTUNREACH.
    IcmpAdmin,
}

impl Reject {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::TcpReset, Self::IcmpPort, Self::IcmpHost, Self::IcmpNet, Self::IcmpAdmin];

    /// What `connect` says to whoever is refused so.
    #[must_use]
    pub fn errno(self) -> i32 {
        use nix::errno::Errno;
        let errno = match self {
            Self::TcpReset | Self::IcmpPort => Errno::ECONNREFUSED,
            Self::IcmpHost | Self::IcmpAdmin => Errno::EHOSTUNREACH,
            Self::IcmpNet => Errno::ENETUNREACH,
        };
        errno as i32
    }

    /// The name that `iptables` (or `ip6tables`) has for it.
    pub(super) fn with(self, v6: bool) -> &'static str {
        match (self, v6) {
            (Self::TcpReset, _) => "tcp-reset",
            (Self::IcmpPort, false) => "icmp-port-unreachable",
            (Self::IcmpHost, false) => "icmp-host-unreachable",
            (Self::IcmpNet, false) => "icmp-net-unreachable",
            (Self::IcmpAdmin, false) => "icmp-admin-prohibited",
            (Self::IcmpPort, true) => "icmp6-port-unreachable",
            (Self::IcmpHost, true) => "icmp6-addr-unreachable",
            (Self::IcmpNet, true) => "icmp6-no-route",
            (Self::IcmpAdmin, true) => "icmp6-adm-prohibited",
        }
    }
}

/// What a gateway lets pass from the inside to the outside. Nothing comes in unasked, unless it is
/// open or the NAT is a cone that lets it. IPv6 passes the first five and [`Firewall::Open`] by the
/// same rules, and the others not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Everything outbound.
    Outbound,
    /// Outbound TCP to port 443 and nothing else: no UDP, no ICMP. What is not allowed vanishes.
    Tcp443Only,
    /// The same, but what is not allowed is answered.
    Tcp443Reject(Reject),
    /// A dropped packet larger than 1300 bytes, and no word of it: path MTU discovery (RFC 1191)
    /// fails. Everything outbound passes otherwise.
    MtuBlackHole,
    /// All TCP options that modern stacks ask for are taken out of SYNs: window scaling, selective
    /// acknowledgements, timestamps, MPTCP. Everything outbound passes.
    StripOptions,
    /// Outbound TCP to port 443 whose first bytes are a TLS handshake's (16 03); anything else there
    /// is reset when its first bytes come, and other ports vanish.
    TlsOnly,
    /// Everything outbound, but a TCP packet to port 443 that holds this name resets its connection,
    /// as it does in a ClientHello.
    SniBlocked {
        /// The name.
        name: &'static str,
    },
    /// Nothing gets out but by a proxy on the gateway (TCP 3128 and 1080) or on the LAN's host
    /// 192.168.50.9. What is forwarded vanishes; other ports of the gateway answer
    /// "administratively prohibited".
    ProxyOnly,
    /// Everything outbound, but after so many inward TCP bytes, of all connections together and
    /// headers included, no inward TCP packet passes any more.
    Quota {
        /// How many.
        bytes: u64,
    },
    /// Everything outbound, but a TCP connection that has carried so many bytes, in both directions
    /// together and headers included, is reset; its other end hears nothing.
    Connbytes {
        /// How many.
        bytes: u64,
    },
    /// Everything outbound, but an inside host that has so many TCP connections gets a reset for
    /// another.
    Connlimit {
        /// How many it may have.
        above: u32,
    },
    /// Everything outbound, but all TCP leaves from ten ports, 50000 to 50009: the eleventh
    /// connection to one addressee is never answered.
    PortExhaustion,
    /// No filter at all, in either direction. With a NAT, what hides the inside is that nobody
    /// outside routes its addresses.
    Open,
}

impl Firewall {
    /// One of each, with moderate numbers.
    pub const ALL: [Self; 17] = [
        Self::Outbound,
        Self::Tcp443Only,
        Self::Tcp443Reject(Reject::TcpReset),
        Self::Tcp443Reject(Reject::IcmpPort),
        Self::Tcp443Reject(Reject::IcmpHost),
        Self::Tcp443Reject(Reject::IcmpNet),
        Self::Tcp443Reject(Reject::IcmpAdmin),
        Self::TlsOnly,
        Self::SniBlocked { name: "relay.example.test" },
        Self::ProxyOnly,
        Self::Quota { bytes: 1_000_000 },
        Self::Connbytes { bytes: 1_000_000 },
        Self::Connlimit { above: 5 },
        Self::PortExhaustion,
        Self::StripOptions,
        Self::MtuBlackHole,
        Self::Open,
    ];

    /// Whether IPv6 packets have a way through.
    pub(super) fn knows_v6(self) -> bool {
        matches!(
            self,
            Self::Outbound
                | Self::Tcp443Only
                | Self::Tcp443Reject(_)
                | Self::MtuBlackHole
                | Self::StripOptions
                | Self::Open
        )
    }

    /// Whether its rules judge or count single packets. Offloads make one packet of many, and the
    /// rules would see something else than a wire carries.
    pub(crate) fn judges_packets(self) -> bool {
        matches!(
            self,
            Self::Quota { .. }
                | Self::Connbytes { .. }
                | Self::MtuBlackHole
                | Self::TlsOnly
                | Self::SniBlocked { .. }
        )
    }
}
