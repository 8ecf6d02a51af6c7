//! Labs that most tests want, drawn once.

use crate::{Firewall, Gateway, Lab, LabBuilder, LabError, Nat};

/// Where the forwarder lives in every preset: the only inside address a full cone leads to.
const ICP: &str = "192.168.50.2";

/// The standard labs. In each, `ext` (203.0.113.10) and `relay` (203.0.113.20) are outside, and
/// `icp` (192.168.50.2) and `peer3` to `peer5` (192.168.50.3 to .5) inside the gateway `gw`.
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
    /// A home router behind a provider's symmetric NAT.
    pub const DOUBLE: Self = Self::Double { home: Nat::PortRestricted, provider: Nat::Symmetric };

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
        let lab = Lab::new(name).bridge("wan").host("ext", "wan", "203.0.113.10/24").host(
            "relay",
            "wan",
            "203.0.113.20/24",
        );
        let (nat, firewall, outside, address) = match self {
            Self::Single(nat, firewall) => (nat, firewall, "wan", "203.0.113.1/24"),
            Self::Double { home, .. } => (home, Firewall::Outbound, "carrier", "100.64.0.2/24"),
        };
        let lab = match self {
            Self::Single(..) => lab,
            Self::Double { provider, .. } => lab.gateway(Gateway {
                name: "cgn".to_owned(),
                nat: provider,
                firewall: Firewall::Outbound,
                outside: "wan".to_owned(),
                outside_address: "203.0.113.1/24".to_owned(),
                inside: "carrier".to_owned(),
                inside_address: "100.64.0.1/24".to_owned(),
            }),
        };
        lab.gateway(Gateway {
            name: "gw".to_owned(),
            nat,
            firewall,
            outside: outside.to_owned(),
            outside_address: address.to_owned(),
            inside: "lan".to_owned(),
            inside_address: "192.168.50.1/24".to_owned(),
        })
        .host("icp", "lan", "192.168.50.2/24")
        .host("peer3", "lan", "192.168.50.3/24")
        .host("peer4", "lan", "192.168.50.4/24")
        .host("peer5", "lan", "192.168.50.5/24")
    }

    /// Builds it, and makes sure that its NAT and firewall behave as promised.
    ///
    /// # Errors
    /// As [`crate::LabBuilder::build`] and [`Lab::verify_nat`].
    pub fn build_verified(self, name: &str) -> Result<Lab, LabError> {
        let lab = self.build(name)?;
        lab.verify_nat("icp", "ext", "relay")?;
        Ok(lab)
    }
}
