//! Labs that most tests want, drawn once.

use std::fmt;

use crate::{Firewall, Gateway, Lab, LabBuilder, LabError, Nat, Nat6};

/// Where the forwarder lives in every preset: the only inside address a full cone leads to.
const ICP: &str = "192.168.50.2";
/// The home gateway's address at its provider: the only one that the provider's full cone leads to.
const HOME: &str = "100.64.0.2";
/// Those inside, and their number in every inside network.
const INSIDE: [(&str, u8); 4] = [("icp", 2), ("peer3", 3), ("peer4", 4), ("peer5", 5)];

/// The standard labs. In each, `ext` (203.0.113.10) and `relay` (203.0.113.20) are outside, and
/// `icp` (192.168.50.2) and `peer3` to `peer5` (192.168.50.3 to .5) inside the gateway `gw`
/// (203.0.113.1 and 192.168.50.1). Where nothing is translated, the inside is 198.51.100.0/24, and
/// those outside have a route to it.
///
/// With IPv6, the outside is 2001:db8::/64 (`ext` ::10, `relay` ::20, `gw` ::1) and the inside
/// fd00:1::/64 (`gw` ::1, `icp` ::2, `peer3` ::3 and so on), or 2001:db8:1::/64 where it is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One gateway.
    Single(Nat, Firewall),
    /// The gateway at home, behind the provider's `cgn` (100.64.0.0/24 between them).
    Double {
        /// At home.
        home: Nat,
        /// At the provider.
        provider: Nat,
    },
    /// One gateway with IPv6.
    V6 {
        /// How IPv6 passes.
        nat: Nat6,
        /// Whether there is IPv4 as well, by a port-restricted cone; otherwise there is none
        /// anywhere.
        v4: bool,
    },
}

impl Topology {
    /// A port-restricted cone that lets everything out.
    pub const STANDARD: Self = Self::Single(Nat::PortRestricted, Firewall::Outbound);
    /// A symmetric NAT.
    pub const SYMMETRIC: Self = Self::Single(Nat::Symmetric, Firewall::Outbound);
    /// A full cone towards the forwarder's host.
    pub const FULL_CONE: Self = Self::Single(Nat::FullCone { inside: ICP }, Firewall::Outbound);
    /// Only TCP to port 443 gets out.
    pub const TCP_443_ONLY: Self = Self::Single(Nat::PortRestricted, Firewall::Tcp443Only);
    /// A firewall without NAT: public addresses inside, and nothing comes in unasked.
    pub const FIREWALL_ONLY: Self = Self::Single(Nat::Routed, Firewall::Outbound);
    /// A NAT without a firewall.
    pub const NAT_ONLY: Self = Self::Single(Nat::PortRestricted, Firewall::Open);
    /// A home router behind a provider's symmetric NAT.
    pub const DOUBLE: Self = Self::Double { home: Nat::PortRestricted, provider: Nat::Symmetric };
    /// IPv6 and nothing else, routed, behind a stateful firewall.
    pub const V6_ONLY: Self = Self::V6 { nat: Nat6::Routed, v4: false };

    /// Every NAT of IPv4 by itself, towards `icp`, with everything outbound allowed.
    pub const NATS: [Self; 9] = [
        Self::STANDARD,
        Self::SYMMETRIC,
        Self::FULL_CONE,
        Self::Single(Nat::RestrictedCone { inside: ICP }, Firewall::Outbound),
        Self::Single(Nat::AddressDependent, Firewall::Outbound),
        Self::Single(Nat::PortBlock, Firewall::Outbound),
        Self::Single(Nat::ArbitraryPooling, Firewall::Outbound),
        Self::Single(Nat::Hairpin { inside: ICP }, Firewall::Outbound),
        Self::FIREWALL_ONLY,
    ];

    /// Every way of IPv6, beside IPv4 and by itself.
    pub const V6: [Self; 8] = [
        Self::V6 { nat: Nat6::Masquerade, v4: true },
        Self::V6 { nat: Nat6::Symmetric, v4: true },
        Self::V6 { nat: Nat6::PrefixTranslation, v4: true },
        Self::V6 { nat: Nat6::Routed, v4: true },
        Self::V6 { nat: Nat6::Masquerade, v4: false },
        Self::V6 { nat: Nat6::Symmetric, v4: false },
        Self::V6 { nat: Nat6::PrefixTranslation, v4: false },
        Self::V6_ONLY,
    ];

    /// Two NATs behind each other: three at home, each with four at the provider.
    #[must_use]
    pub fn doubles() -> [Self; 12] {
        let homes = [Nat::PortRestricted, Nat::Symmetric, Nat::FullCone { inside: ICP }];
        let providers =
            [Nat::PortRestricted, Nat::PortBlock, Nat::Symmetric, Nat::FullCone { inside: HOME }];
        std::array::from_fn(|index| Self::Double {
            home: homes[index / providers.len()],
            provider: providers[index % providers.len()],
        })
    }

    /// Every firewall, behind a port-restricted cone.
    #[must_use]
    pub fn firewalls() -> [Self; Firewall::ALL.len()] {
        Firewall::ALL.map(|firewall| Self::Single(Nat::PortRestricted, firewall))
    }

    /// Builds it; `name` appears in the names of files.
    ///
    /// # Errors
    /// As [`crate::LabBuilder::build`].
    pub fn build(self, name: &str) -> Result<Lab, LabError> {
        self.draw(name).build()
    }

    /// Draws it, for those who want to add something.
    #[must_use]
    pub fn draw(self, name: &str) -> LabBuilder {
        let plan = Plan::of(self);
        let outside = |host: u8| plan.addresses("203.0.113", "2001:db8::", host);
        let lab = Lab::new(name).bridge("wan");
        let lab = host_at(lab, "ext", "wan", &outside(10));
        let lab = host_at(lab, "relay", "wan", &outside(20));
        let mut gateway = Gateway {
            name: "gw".to_owned(),
            nat: plan.nat,
            nat6: plan.nat6,
            firewall: plan.firewall,
            outside: "wan".to_owned(),
            outside_addresses: outside(1),
            inside: "lan".to_owned(),
            inside_addresses: plan.inside(1),
        };
        let lab = match self {
            Self::Single(..) | Self::V6 { .. } => lab,
            Self::Double { provider, .. } => {
                let cgn = Gateway {
                    name: "cgn".to_owned(),
                    nat: provider,
                    inside: "carrier".to_owned(),
                    inside_addresses: vec!["100.64.0.1/24".to_owned()],
                    ..gateway.clone()
                };
                "carrier".clone_into(&mut gateway.outside);
                gateway.outside_addresses = vec![format!("{HOME}/24")];
                lab.gateway(cgn)
            }
        };
        let lab = INSIDE.iter().fold(lab.gateway(gateway), |lab, (name, host)| {
            host_at(lab, name, "lan", &plan.inside(*host))
        });
        ["ext", "relay"].iter().fold(lab, |lab, name| plan.route(lab, name))
    }

    /// Builds it, and makes sure that its NAT behaves as promised.
    ///
    /// # Errors
    /// As [`crate::LabBuilder::build`] and [`Lab::verify_nat`].
    pub fn build_verified(self, name: &str) -> Result<Lab, LabError> {
        verified(self.build(name)?)
    }

    /// The same, for little traffic: more such labs may stand at once.
    ///
    /// # Errors
    /// As [`crate::LabBuilder::build`] and [`Lab::verify_nat`].
    pub fn build_paced(self, name: &str) -> Result<Lab, LabError> {
        verified(self.draw(name).paced().build()?)
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(nat, firewall) => write!(f, "{nat:?} with {firewall:?}"),
            Self::Double { home, provider } => write!(f, "{home:?} behind {provider:?}"),
            Self::V6 { nat, v4: true } => write!(f, "{nat:?} of IPv6 beside IPv4"),
            Self::V6 { nat, v4: false } => write!(f, "{nat:?} of IPv6 alone"),
        }
    }
}

/// What differs between the drawings.
#[derive(Debug)]
struct Plan {
    nat: Nat,
    nat6: Nat6,
    firewall: Firewall,
    v4: bool,
}

impl Plan {
    fn of(topology: Topology) -> Self {
        let (nat6, firewall, v4) = (Nat6::None, Firewall::Outbound, true);
        match topology {
            Topology::Single(nat, firewall) => Self { nat, nat6, firewall, v4 },
            Topology::Double { home: nat, .. } => Self { nat, nat6, firewall, v4 },
            Topology::V6 { nat: nat6, v4 } => Self { nat: Nat::PortRestricted, nat6, firewall, v4 },
        }
    }

    /// The addresses of the host number `host` in a network of each family.
    fn addresses(&self, v4: &str, v6: &str, host: u8) -> Vec<String> {
        let v4 = self.v4.then(|| format!("{v4}.{host}/24"));
        let v6 = (self.nat6 != Nat6::None).then(|| format!("{v6}{host}/64"));
        v4.into_iter().chain(v6).collect()
    }

    fn inside(&self, host: u8) -> Vec<String> {
        let v4 = if self.nat == Nat::Routed { "198.51.100" } else { "192.168.50" };
        let v6 = if self.nat6 == Nat6::Routed { "2001:db8:1::" } else { "fd00:1::" };
        self.addresses(v4, v6, host)
    }

    /// The routes that those outside need, where the inside has public addresses.
    fn route(&self, lab: LabBuilder, name: &str) -> LabBuilder {
        let lab = match self.nat {
            Nat::Routed => lab.route(name, "198.51.100.0/24", "203.0.113.1"),
            _ => lab,
        };
        match self.nat6 {
            Nat6::Routed => lab.route(name, "2001:db8:1::/64", "2001:db8::1"),
            Nat6::PrefixTranslation => lab.route(name, "2001:db8:1:1::/64", "2001:db8::1"),
            _ => lab,
        }
    }
}

fn host_at(lab: LabBuilder, name: &str, segment: &str, addresses: &[String]) -> LabBuilder {
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    lab.host_at(name, segment, &addresses)
}

fn verified(mut lab: Lab) -> Result<Lab, LabError> {
    let verdict = lab.verify_nat("icp", "ext", "relay");
    if verdict.is_err() {
        lab.keep();
    }
    verdict.map(|()| lab)
}
