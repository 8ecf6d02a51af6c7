//! What a NAT does, in RFC 4787's words; RFC 5382 uses the same for TCP.

use std::fmt;

/// How a NAT chooses the outside port (RFC 4787, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// One port, whoever is addressed: what REQ-1 demands.
    EndpointIndependent,
    /// One port for each addressed host.
    AddressDependent,
    /// One port for each addressed host and port.
    AddressAndPortDependent,
}

/// From whom a NAT lets packets in (RFC 4787, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From every port of a host that was addressed.
    AddressDependent,
    /// From exactly the host and port that was addressed.
    AddressAndPortDependent,
}

/// Whether one inside host keeps one outside address (RFC 4787, 4.1, "IP address pooling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// It keeps it: what REQ-2 recommends.
    Paired,
    /// Each flow may have another.
    Arbitrary,
}

/// Whether inside hosts reach each other by their outside addresses (RFC 4787, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpinning {
    /// They do not.
    Refused,
    /// They do, and the source is an outside address and port: what REQ-9a demands.
    ExternalSource,
    /// They do, and the source is the inside one, which confuses the receiver.
    InternalSource,
}

/// A NAT's behaviour, as promised or as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// How outside ports are chosen.
    pub mapping: Mapping,
    /// Who may send in.
    pub filtering: Filtering,
    /// How outside addresses are chosen.
    pub pooling: Pooling,
    /// Whether the inside meets itself outside.
    pub hairpinning: Hairpinning,
}

impl Behaviour {
    /// An ordinary NAT's: one outside address, and no way around.
    pub(crate) const fn new(mapping: Mapping, filtering: Filtering) -> Self {
        let (pooling, hairpinning) = (Pooling::Paired, Hairpinning::Refused);
        Self { mapping, filtering, pooling, hairpinning }
    }

    /// What a NAT of this behaviour shows behind another: the stricter of each.
    #[must_use]
    pub fn behind(self, outer: Self) -> Self {
        let stricter_mapping = match (self.mapping, outer.mapping) {
            (Mapping::EndpointIndependent, other) | (other, Mapping::EndpointIndependent) => other,
            (Mapping::AddressDependent, Mapping::AddressDependent) => Mapping::AddressDependent,
            _ => Mapping::AddressAndPortDependent,
        };
        let open = self.filtering == Filtering::EndpointIndependent;
        let stricter_filtering = match (self.filtering, outer.filtering) {
            (Filtering::EndpointIndependent, other) | (other, Filtering::EndpointIndependent) => {
                other
            }
            (Filtering::AddressDependent, Filtering::AddressDependent) => {
                Filtering::AddressDependent
            }
            _ => Filtering::AddressAndPortDependent,
        };
        let arbitrary = [self.pooling, outer.pooling].contains(&Pooling::Arbitrary);
        Self {
            mapping: stricter_mapping,
            filtering: stricter_filtering,
            pooling: if arbitrary { Pooling::Arbitrary } else { Pooling::Paired },
            // The address that is met is the outer NAT's, so that is where packets turn.
            hairpinning: if open { outer.hairpinning } else { Hairpinning::Refused },
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mapping, filtering, pooling, hairpinning } = self;
        write!(
            f,
            "mapping {mapping:?}, filtering {filtering:?}, pooling {pooling:?}, \
             hairpinning {hairpinning:?}"
        )
    }
}
