//! Labs that most tests want, drawn once.

use crate::{Firewall, Gateway, Lab, LabBuilder, LabError, Nat};

/// Where the forwarder lives in every preset: the only inside address a full cone leads to.
const ICP: &str = "192.168.50.2";

/// The standard labs. In each, `ext` (203.0.113.10) and `relay` (203.0.113.20) are outside, and
/// `icp` (192.168.50.2) and `peer3` to `peer5` (192.168.50.3 to .5) inside the gateway `gw`
/// (203.0.113.1 and 192.168.50.1). Where nothing is translated, the inside is 198.51.100.0/24, and
/// those outside have a route to it.
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
    /// A firewall without NAT: public addresses inside, and nothing comes in unasked.
    pub const FIREWALL_ONLY: Self = Self::Single(Nat::Routed, Firewall::Outbound);
    /// A NAT without a firewall.
    pub const NAT_ONLY: Self = Self::Single(Nat::PortRestricted, Firewall::Open);
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
        let inside = if nat == Nat::Routed { "198.51.100" } else { "192.168.50" };
        let lab = lab.gateway(Gateway {
            name: "gw".to_owned(),
            nat,
            firewall,
            outside: outside.to_owned(),
            outside_address: address.to_owned(),
            inside: "lan".to_owned(),
            inside_address: format!("{inside}.1/24"),
        });
        let lab = ["icp", "peer3", "peer4", "peer5"]
            .iter()
            .zip(2..)
            .fold(lab, |lab, (name, at)| lab.host(name, "lan", &format!("{inside}.{at}/24")));
        if nat != Nat::Routed {
            return lab;
        }
        let network = format!("{inside}.0/24");
        ["ext", "relay"].iter().fold(lab, |lab, name| lab.route(name, &network, "203.0.113.1"))
    }

    /// Builds it, and makes sure that its NAT and firewall behave as promised.
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

fn verified(lab: Lab) -> Result<Lab, LabError> {
    lab.verify_nat("icp", "ext", "relay")?;
    Ok(lab)
}
