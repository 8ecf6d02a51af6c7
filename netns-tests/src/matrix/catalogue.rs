//! What the table's lines are.

use std::sync::LazyLock;

use super::egress::{Proxy, Rebuff, Refusal};
use super::fault::Story;
use super::{Direction, Protocol, Row};
use crate::faults::{Answer, Direction as Way, Fault};
use crate::{Daemon, Firewall, Link, Nat, Nat6, Reject, Topology, Trial};

/// The inside address that cones lead to.
const ICP: &str = "192.168.50.2";
/// Home first, then the provider, in the order of [`Topology::doubles`].
const DOUBLES: [&str; 12] = [
    "double-port-restricted-port-restricted",
    "double-port-restricted-port-block",
    "double-port-restricted-symmetric",
    "double-port-restricted-full-cone",
    "double-symmetric-port-restricted",
    "double-symmetric-port-block",
    "double-symmetric-symmetric",
    "double-symmetric-full-cone",
    "double-full-cone-port-restricted",
    "double-full-cone-port-block",
    "double-full-cone-symmetric",
    "double-full-cone-full-cone",
];

/// Which part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Gateways, by how they translate.
    Gateways,
    /// Ways out of networks that let little out.
    Egress,
    /// What befalls a tunnel that lives long.
    Faults,
    /// Lines of all kinds, against plain TCP on the same line.
    Lines,
}

impl Group {
    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Gateways => "Gateways",
            Self::Egress => "Ways out",
            Self::Faults => "Faults",
            Self::Lines => "Lines",
        }
    }
}

/// How a line's rows are played.
#[derive(Debug, Clone, Copy)]
pub(super) enum Play {
    Translated(Topology),
    Refused(Refusal),
    Proxied(Proxy),
    Rebuffed(Rebuff),
    Fault(Story),
    Impaired(Link),
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub gateway: &'static str,
    /// Where it stands.
    pub group: Group,
    /// What it is, in a few words.
    pub about: &'static str,
    pub(super) play: Play,
}

impl Scenario {
    /// Its rows.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        use Direction::{Inwards, Outwards};
        use Protocol::{Tcp, Udp};
        let cells: &[_] = match self.play {
            Play::Translated(_) | Play::Proxied(Proxy::Connect | Proxy::Socks) => {
                &[(Tcp, Inwards), (Tcp, Outwards), (Udp, Inwards), (Udp, Outwards)]
            }
            // Datagrams where enough of them are lost to compare.
            Play::Impaired(link) if link.loss > 0.02 && link.loss < 0.1 => {
                &[(Tcp, Inwards), (Tcp, Outwards), (Udp, Inwards)]
            }
            Play::Impaired(_) => &[(Tcp, Inwards), (Tcp, Outwards)],
            Play::Refused(_) | Play::Rebuffed(_) => &[(Tcp, Outwards)],
            Play::Fault(_) | Play::Proxied(_) => &[(Tcp, Inwards)],
        };
        let gateway = self.gateway;
        cells.iter().map(move |&(protocol, direction)| Row { gateway, protocol, direction })
    }

    /// The lab that it is played in.
    #[must_use]
    pub fn topology(&self) -> Topology {
        match self.play {
            Play::Translated(topology) => topology,
            Play::Fault(story) => story.topology(),
            Play::Proxied(_) | Play::Rebuffed(_) => {
                Topology::Single(Nat::PortRestricted, Firewall::ProxyOnly)
            }
            Play::Refused(_) | Play::Impaired(_) => Topology::STANDARD,
        }
    }
}

/// All lines, in the table's order.
#[must_use]
pub fn scenarios() -> &'static [Scenario] {
    static ALL: LazyLock<Vec<Scenario>> =
        LazyLock::new(|| [gateways(), egress(), trials(), stories(), lines()].concat());
    &ALL
}

/// The line called `gateway`.
#[must_use]
pub fn scenario(gateway: &str) -> Option<&'static Scenario> {
    scenarios().iter().find(|scenario| scenario.gateway == gateway)
}

/// The labs that can be drawn and entered, by name.
pub fn topologies() -> impl Iterator<Item = &'static Scenario> {
    scenarios().iter().filter(|scenario| matches!(scenario.play, Play::Translated(_)))
}

fn gateways() -> Vec<Scenario> {
    let line = |gateway, about, topology| {
        let play = Play::Translated(topology);
        Scenario { gateway, group: Group::Gateways, about, play }
    };
    let nat = |gateway, about, nat| line(gateway, about, Topology::Single(nat, Firewall::Outbound));
    let v6 = |gateway, about, nat| line(gateway, about, Topology::V6 { nat, v4: false });
    let mut gateways = vec![
        line(
            "port-restricted",
            "one port whoever is addressed; who was addressed may answer",
            Topology::STANDARD,
        ),
        line("symmetric", "another port for each addressee", Topology::SYMMETRIC),
        line("full-cone", "one port, and anybody may send to it", Topology::FULL_CONE),
        nat(
            "restricted-cone",
            "one port, and every port of who was addressed",
            Nat::RestrictedCone { inside: ICP },
        ),
        nat("address-dependent", "one port for each addressed host", Nat::AddressDependent),
        nat("port-block", "a provider's block of a thousand ports", Nat::PortBlock),
        nat(
            "arbitrary-pooling",
            "each flow leaves by another of four addresses",
            Nat::ArbitraryPooling,
        ),
        nat(
            "hairpin",
            "a full cone that the inside meets from inside",
            Nat::Hairpin { inside: ICP },
        ),
        line(
            "firewall-only",
            "public addresses behind a stateful firewall",
            Topology::FIREWALL_ONLY,
        ),
        line("nat-only", "a NAT that filters nothing", Topology::NAT_ONLY),
    ];
    let doubles = DOUBLES.into_iter().zip(Topology::doubles());
    let about = "a home router behind a provider's NAT";
    gateways.extend(doubles.map(|(gateway, topology)| line(gateway, about, topology)));
    gateways.extend([
        v6("v6-masquerade", "IPv6 alone, translated port by port", Nat6::Masquerade),
        v6("v6-symmetric", "IPv6 alone, another port for each addressee", Nat6::Symmetric),
        v6("v6-prefix", "IPv6 alone, its prefix translated", Nat6::PrefixTranslation),
        v6("v6-routed", "IPv6 alone, behind a stateful firewall", Nat6::Routed),
    ]);
    gateways
}

fn egress() -> Vec<Scenario> {
    let line = |gateway, about, play| Scenario { gateway, group: Group::Egress, about, play };
    let behind = |gateway, about, firewall| {
        line(gateway, about, Play::Translated(Topology::Single(Nat::PortRestricted, firewall)))
    };
    let refused = |gateway, about, refusal| line(gateway, about, Play::Refused(refusal));
    vec![
        behind("443-only", "TCP to port 443 and nothing else", Firewall::Tcp443Only),
        behind(
            "443-only-reset",
            "the same, all else is answered with a reset",
            Firewall::Tcp443Reject(Reject::TcpReset),
        ),
        behind(
            "443-only-icmp",
            "the same, all else is prohibited by ICMP",
            Firewall::Tcp443Reject(Reject::IcmpAdmin),
        ),
        behind("tls-only", "what does not begin as TLS is reset", Firewall::TlsOnly),
        behind("strip-options", "SYNs lose their TCP options", Firewall::StripOptions),
        behind("connlimit", "five connections for each host", Firewall::Connlimit { above: 5 }),
        behind("port-exhaustion", "ten ports for all of the inside", Firewall::PortExhaustion),
        line("proxy-connect", "nothing out but by an HTTP proxy", Play::Proxied(Proxy::Connect)),
        line("proxy-socks5", "nothing out but by a SOCKS5 proxy", Play::Proxied(Proxy::Socks)),
        line("proxy-connect-login", "the same, with a login", Play::Proxied(Proxy::ConnectLogin)),
        line("proxy-socks5-login", "the same, with a login", Play::Proxied(Proxy::SocksLogin)),
        line("proxy-403", "the proxy forbids the port", Play::Rebuffed(Rebuff::Forbidden)),
        line("proxy-407", "the proxy wants a login", Play::Rebuffed(Rebuff::LoginWanted)),
        line("proxy-407-wrong", "the proxy refuses the login", Play::Rebuffed(Rebuff::LoginWrong)),
        line("proxy-socks5-wrong", "the same of SOCKS5", Play::Rebuffed(Rebuff::SocksLoginWrong)),
        refused("blocked-silently", "the relay's port is dropped", Refusal::Drop),
        refused(
            "blocked-tcp-reset",
            "the relay's port is answered with a reset",
            Refusal::TcpReset,
        ),
        refused("blocked-icmp-port", "… port unreachable", Refusal::IcmpPort),
        refused("blocked-icmp-host", "… host unreachable", Refusal::IcmpHost),
        refused("blocked-icmp-net", "… network unreachable", Refusal::IcmpNet),
        refused("blocked-icmp-admin", "… administratively prohibited", Refusal::IcmpAdmin),
    ]
}

fn fault(gateway: &'static str, about: &'static str, story: Story) -> Scenario {
    Scenario { gateway, group: Group::Faults, about, play: Play::Fault(story) }
}

/// Flows that outlive what a plain connection does not.
fn trials() -> Vec<Scenario> {
    let trial = |gateway, about, trial| fault(gateway, about, Story::Trial(trial));
    vec![
        trial(
            "forgets-silently",
            "state lost, strangers dropped",
            Trial::sudden(Fault::Forgetting(Answer::Silence)),
        ),
        trial(
            "forgets-and-resets",
            "state lost, strangers reset",
            Trial::sudden(Fault::Forgetting(Answer::Reset)),
        ),
        trial(
            "cut-at-forwarder",
            "the carrier's socket destroyed inside",
            Trial::sudden(Fault::Severed(Daemon::Forwarder)),
        ),
        trial(
            "cut-at-relay",
            "the carrier's socket destroyed outside",
            Trial::sudden(Fault::Severed(Daemon::Relay)),
        ),
        trial(
            "abandoned",
            "the carrier's packets vanish for good",
            Trial::sudden(Fault::Abandoned),
        ),
        trial("hole-1s", "no packet passes for 1 s", Trial::lasting(Fault::Hole, 1).harmless()),
        trial("hole-10s", "no packet passes for 10 s", Trial::lasting(Fault::Hole, 10)),
        trial(
            "address-change-20x",
            "another public address, 20 times",
            Trial::sudden(Fault::AddressChange).times(20),
        ),
        trial(
            "flapping-50x",
            "the outside goes down and up 50 times, 200 ms each",
            Trial::sudden(Fault::Flapping(50)),
        ),
        trial("quota-silent", "4 MB a connection, then silence", Trial::quota(Answer::Silence)),
        trial("quota-reset", "4 MB a connection, then a reset", Trial::quota(Answer::Reset)),
    ]
}

/// What else befalls a tunnel that lives long.
fn stories() -> Vec<Scenario> {
    let line = fault;
    vec![
        line(
            "idle-7s",
            "forgets after 7 s of silence; probes come each 5 s",
            Story::Idle { forgets_s: 7, idle_s: 60, is_resumed: false },
        ),
        line(
            "idle-3s",
            "forgets after 3 s of silence, before any probe",
            Story::Idle { forgets_s: 3, idle_s: 20, is_resumed: true },
        ),
        line("half-open-outward", "what goes out vanishes", Story::HalfOpen(Way::Outward)),
        line("half-open-inward", "what comes in vanishes", Story::HalfOpen(Way::Inward)),
        line(
            "one-sided-reset-forwarder",
            "only the forwarder's end is reset",
            Story::OneSided(Daemon::Forwarder),
        ),
        line(
            "one-sided-reset-relay",
            "only the relay's end is reset",
            Story::OneSided(Daemon::Relay),
        ),
        line("dies-unheard", "the forwarder dies, and nobody is told", Story::DiesUnheard),
        line("syns-blocked", "no new connection gets out", Story::SynsBlocked),
        line("pooling", "every new carrier leaves by another public address", Story::Pooling),
        line(
            "mtu-black-hole",
            "packets over 1300 bytes vanish, without a word",
            Story::MtuBlackHole,
        ),
    ]
}

fn lines() -> Vec<Scenario> {
    let line = |gateway, about, link| Scenario {
        gateway,
        group: Group::Lines,
        about,
        play: Play::Impaired(link),
    };
    let lossy = Link { delay_ms: 5.0, ..Link::CLEAR };
    // Without a limit to the rate it would be the processors that are compared.
    let limited = |rate: f64, delay_ms| Link { rate_mbit: Some(rate), delay_ms, ..Link::CLEAR };
    vec![
        line("loss-1", "1 % lost, 10 ms round trip", Link { loss: 0.01, ..lossy }),
        line("loss-5", "5 % lost, 10 ms round trip", Link { loss: 0.05, ..lossy }),
        line("loss-20", "20 % lost, 10 ms round trip", Link { loss: 0.2, ..lossy }),
        line("reorder-5", "5 % overtaken, 10 ms round trip", Link { reordering: 0.05, ..lossy }),
        line("duplicate-5", "5 % twice, 10 ms round trip", Link { duplication: 0.05, ..lossy }),
        line("rate-1-rtt-0", "1 Mbit/s, no delay", limited(1.0, 0.0)),
        line("rate-1-rtt-40", "1 Mbit/s, 40 ms round trip", limited(1.0, 20.0)),
        line("rate-1-rtt-200", "1 Mbit/s, 200 ms round trip", limited(1.0, 100.0)),
        line("rate-10-rtt-0", "10 Mbit/s, no delay", limited(10.0, 0.0)),
        line("rate-10-rtt-40", "10 Mbit/s, 40 ms round trip", limited(10.0, 20.0)),
        line("rate-10-rtt-200", "10 Mbit/s, 200 ms round trip", limited(10.0, 100.0)),
        line("rate-100-rtt-0", "100 Mbit/s, no delay", limited(100.0, 0.0)),
        line("rate-100-rtt-40", "100 Mbit/s, 40 ms round trip", limited(100.0, 20.0)),
        line("rate-100-rtt-200", "100 Mbit/s, 200 ms round trip", limited(100.0, 100.0)),
    ]
}
