//! NATs and firewalls as presets, with the behaviour each must show (RFC 4787's words).

use std::fmt;

/// How a gateway translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One port per inside port, whoever is addressed; only who was addressed may answer.
    PortRestricted,
    /// Another port for each addressee: hole punching fails against it.
    Symmetric,
    /// One port per inside port, and anybody may send to it; for one inside address.
    FullCone {
        /// Who receives what comes unasked.
        inside: &'static str,
    },
    /// No translation: the inside addresses are public, and whoever is outside routes them.
    Routed,
}

/// What a gateway lets pass from the inside to the outside. Nothing comes in unasked, unless it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Everything outbound.
    Outbound,
    /// Outbound TCP to port 443 and nothing else: no UDP, no ICMP.
    Tcp443Only,
    /// No filter at all, in either direction. With a NAT, what hides the inside is that nobody
    /// outside routes its addresses.
    Open,
}

/// How a NAT chooses the outside port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// One port, whoever is addressed.
    EndpointIndependent,
    /// One port for each addressed host.
    AddressDependent,
    /// One port for each addressed host and port.
    AddressAndPortDependent,
}

/// From whom a NAT lets packets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From every port of a host that was addressed.
    AddressDependent,
    /// From exactly the host and port that was addressed.
    AddressAndPortDependent,
}

/// A NAT's behaviour, as promised or as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// How outside ports are chosen.
    pub mapping: Mapping,
    /// Who may send in.
    pub filtering: Filtering,
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapping {:?}, filtering {:?}", self.mapping, self.filtering)
    }
}

impl Nat {
    /// What the preset promises.
    #[must_use]
    pub fn behaviour(self) -> Behaviour {
        let (mapping, filtering) = match self {
            // Where nothing is translated, the filtering is the stateful firewall's.
            Self::PortRestricted | Self::Routed => {
                (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
            }
            Self::Symmetric => {
                (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)
            }
            Self::FullCone { .. } => (Mapping::EndpointIndependent, Filtering::EndpointIndependent),
        };
        Behaviour { mapping, filtering }
    }

    /// What two NATs behind each other promise: the stricter of each.
    #[must_use]
    pub fn behaviour_behind(self, outer: Self) -> Behaviour {
        let (inner, outer) = (self.behaviour(), outer.behaviour());
        Behaviour {
            mapping: if inner.mapping == Mapping::EndpointIndependent {
                outer.mapping
            } else {
                inner.mapping
            },
            filtering: if inner.filtering == Filtering::EndpointIndependent {
                outer.filtering
            } else {
                inner.filtering
            },
        }
    }
}

/// The comment that marks the rule dropping what comes unasked to the gateway itself.
pub(crate) const DROP_INPUT: &str = "lab-drop-input";
/// The comment that marks the rule dropping what may not be forwarded.
pub(crate) const DROP_FORWARD: &str = "lab-drop-forward";

/// The rules of a gateway, as a shell script; `outside` is its address on `wan0`.
pub(crate) fn rules(nat: Nat, firewall: Firewall, outside: &str) -> String {
    let (before, after) = filter(firewall);
    // Where bridges call iptables, FORWARD's drop would part the neighbours on the LAN as well.
    // Without `tcp_loose=0` and the INVALID rule a NAT that lost its state adopts old connections
    // again, and a test of that loss would show nothing.
    let sysctls = "sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_tcp_loose=0\n\
        sysctl -qew net.bridge.bridge-nf-call-iptables=0\n";
    [sysctls, &before, &translation(nat, outside), &after].concat()
}

/// The filter's rules, without the last of them, and that last one: what drops the rest.
fn filter(firewall: Firewall) -> (String, String) {
    let outbound = match firewall {
        Firewall::Open => return (String::new(), String::new()),
        Firewall::Outbound => "",
        Firewall::Tcp443Only => "-p tcp --dport 443 ",
    };
    let drop = |chain: &str, comment: &str| {
        format!("iptables -A {chain} -m comment --comment {comment} -j DROP\n")
    };
    // Without INPUT's drop an early packet from outside is delivered to the gateway, confirmed, and
    // spoils the next mapping.
    let before = format!(
        "iptables -A INPUT -i wan0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         {}\
         iptables -P FORWARD DROP\n\
         iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         iptables -A FORWARD -i lan0 -o wan0 {outbound}-m conntrack --ctstate NEW -j ACCEPT\n",
        drop("INPUT -i wan0", DROP_INPUT)
    );
    (before, drop("FORWARD", DROP_FORWARD))
}

/// The rules that translate.
fn translation(nat: Nat, outside: &str) -> String {
    match nat {
        Nat::Routed => String::new(),
        Nat::PortRestricted => "iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE\n".to_owned(),
        Nat::Symmetric => {
            "iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE --random-fully\n".to_owned()
        }
        Nat::FullCone { inside } => format!(
            "iptables -t nat -A POSTROUTING -o wan0 -j SNAT --to-source {outside}\n\
             iptables -t nat -A PREROUTING -i wan0 -d {outside} -j DNAT --to-destination {inside}\n\
             iptables -A FORWARD -i wan0 -o lan0 -m conntrack --ctstate DNAT -j ACCEPT\n"
        ),
    }
}
