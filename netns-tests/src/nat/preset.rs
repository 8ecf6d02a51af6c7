//! The ways a gateway translates.

use super::{Behaviour, Filtering, Hairpinning, Mapping, Pooling};

/// How a gateway translates IPv4, for UDP and TCP alike.
///
/// The old names (RFC 3489) stand beside those of RFC 4787: a *mapping* says which outside port an
/// inside port gets, a *filtering* who may send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Port-restricted cone: endpoint-independent mapping that keeps the port where it can, address
    /// and port-dependent filtering. The home router.
    PortRestricted,
    /// Symmetric: address and port-dependent mapping and filtering. Another random port for each
    /// addressee; hole punching fails against it.
    Symmetric,
    /// Full cone: endpoint-independent mapping and filtering, for one inside address.
    FullCone {
        /// Who receives what comes unasked.
        inside: &'static str,
    },
    /// Restricted cone: endpoint-independent mapping, address-dependent filtering. Whom an
    /// inside port has addressed is remembered for 300 seconds.
    RestrictedCone {
        /// Who receives what comes unasked from those it addressed.
        inside: &'static str,
    },
    /// Address-dependent mapping, address and port-dependent filtering: one port for `ext`
    /// (203.0.113.10), another for `relay` (203.0.113.20), whatever their ports.
    AddressDependent,
    /// A provider's port block (RFC 6888): endpoint-independent mapping without port preservation,
    /// into 20000 to 20999; address and port-dependent filtering.
    PortBlock,
    /// Arbitrary pooling of four outside addresses, .1 to .4: each flow leaves by the next of them,
    /// against RFC 4787's REQ-2. Address and port-dependent filtering.
    ArbitraryPooling,
    /// A full cone with hairpinning: the inside also meets itself by its outside address, and sees
    /// an outside source (RFC 4787's REQ-9a).
    Hairpin {
        /// Who receives what comes unasked, from either side.
        inside: &'static str,
    },
    /// No translation: the inside addresses are public, and whoever is outside routes them. What
    /// filters is the stateful firewall.
    Routed,
}

impl Nat {
    /// What the preset promises.
    #[must_use]
    pub fn behaviour(self) -> Behaviour {
        let (mapping, filtering) = match self {
            // Where nothing is translated, the filtering is the stateful firewall's.
            Self::PortRestricted | Self::Routed | Self::PortBlock => {
                (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
            }
            Self::Symmetric | Self::ArbitraryPooling => {
                (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)
            }
            Self::AddressDependent => {
                (Mapping::AddressDependent, Filtering::AddressAndPortDependent)
            }
            Self::RestrictedCone { .. } => {
                (Mapping::EndpointIndependent, Filtering::AddressDependent)
            }
            Self::FullCone { .. } | Self::Hairpin { .. } => {
                (Mapping::EndpointIndependent, Filtering::EndpointIndependent)
            }
        };
        let plain = Behaviour::new(mapping, filtering);
        match self {
            Self::ArbitraryPooling => Behaviour { pooling: Pooling::Arbitrary, ..plain },
            Self::Hairpin { .. } => Behaviour { hairpinning: Hairpinning::ExternalSource, ..plain },
            _ => plain,
        }
    }
}

/// How a gateway passes IPv6 on, for UDP and TCP alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat6 {
    /// NAT66: endpoint-independent mapping, address and port-dependent filtering.
    Masquerade,
    /// NAT66 with random ports: address and port-dependent mapping and filtering.
    Symmetric,
    /// Network prefix translation (RFC 6296): stateless, checksum-neutral, hence endpoint-independent
    /// mapping and filtering. fd00:1::/64 is 2001:db8:1:1::/64 outside; the host part changes.
    PrefixTranslation,
    /// Public addresses inside, and a stateful firewall: mapping is endpoint-independent since there
    /// is none, filtering address and port-dependent.
    Routed,
    /// No IPv6.
    None,
}

impl Nat6 {
    /// What the preset promises; nothing where there is no IPv6.
    #[must_use]
    pub fn behaviour(self) -> Option<Behaviour> {
        let (mapping, filtering) = match self {
            Self::None => return None,
            Self::Masquerade | Self::Routed => {
                (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
            }
            Self::Symmetric => {
                (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)
            }
            Self::PrefixTranslation => {
                (Mapping::EndpointIndependent, Filtering::EndpointIndependent)
            }
        };
        let plain = Behaviour::new(mapping, filtering);
        // Both sides of a prefix are one network to the translator: whoever is inside is met there.
        Some(plain)
    }
}
