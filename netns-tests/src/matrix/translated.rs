//! A gateway that translates or filters: a hundred flows of a mebibyte each way through the tunnel,
//! beside plain traffic, which it must stop on its way in.

use std::time::Duration;

use super::{Direction, Protocol, Row, claim};
use crate::{
    Firewall, Host, LONG, Lab, LabError, Process, SHORT, Swarm, SwarmPlan, Tunnel, TunnelBuilder,
    wait_until,
};

/// Flows at once.
const FLOWS: u64 = 100;
/// Of a hundred datagrams, how many may have to be sent again: queues of two busy processors.
const AGAIN_MAX_PERCENT: u64 = 1;
/// What each carries, each way.
const BYTES: u64 = 1 << 20;
/// What follows the bytes of a flow on the wire: its sum, and a verdict.
const TRAILER: u64 = 33;
/// As fast as it goes: what a hundred flows of a mebibyte have each second.
const KBYTES_PER_SECOND: u64 = 400_000;
/// Where internal and external peers serve.
const INSIDE_PORT: u16 = 7000;
const OUTSIDE_PORT: u16 = 9000;
/// Where internal peers find the way out.
const LISTENER_PORT: u16 = 9001;
/// The contact points.
const CONTACTS: [u16; 2] = [8003, 8004];
const PEERS: [&str; 2] = ["peer3", "peer4"];

/// Plays the row; returns what was seen.
pub(super) fn play(row: Row, lab: &Lab) -> Result<String, LabError> {
    play_with(row, lab, "")
}

/// The same, with these tables in the forwarder's configuration.
pub(super) fn play_with(row: Row, lab: &Lab, tables: &str) -> Result<String, LabError> {
    let Row { protocol, direction, .. } = row;
    let servers = servers(protocol, direction, lab)?;
    let control = match direction {
        Direction::Inwards => shut(protocol, lab)?,
        Direction::Outwards => way_out(protocol, lab)?,
    };
    let tunnel = plan(protocol, direction, lab, tables).start(lab)?;
    let carried = match (protocol, direction) {
        (Protocol::Tcp, Direction::Inwards) => {
            let contacts = CONTACTS.map(|port| tunnel.contact(port));
            streams(lab, "ext", &contacts.each_ref().map(String::as_str), servers)?
        }
        (Protocol::Tcp, Direction::Outwards) => {
            let listener = lab.host("icp").at(LISTENER_PORT);
            streams(lab, "peer3", &[&listener], servers)?
        }
        (Protocol::Udp, Direction::Inwards) => datagrams(lab, "ext", &tunnel.contact(CONTACTS[0]))?,
        (Protocol::Udp, Direction::Outwards) => {
            datagrams(lab, "peer3", &lab.host("icp").at(LISTENER_PORT))?
        }
    };
    claim(tunnel.resumptions()? == 0, || "the carrier was lost on the way".to_owned())?;
    Ok(format!("{carried}; {control}"))
}

/// What answers, at the far end.
#[derive(Debug)]
enum Servers {
    Exchanges(Vec<Swarm>),
    Echoes { _processes: Vec<Process> },
}

fn servers(protocol: Protocol, direction: Direction, lab: &Lab) -> Result<Servers, LabError> {
    let (hosts, port) = match direction {
        Direction::Inwards => (&PEERS[..], INSIDE_PORT),
        Direction::Outwards => (&["ext"][..], OUTSIDE_PORT),
    };
    let hosts = hosts.iter().map(|name| lab.host(name));
    Ok(match protocol {
        Protocol::Tcp => Servers::Exchanges(
            hosts.map(|host| Swarm::exchange(&host, port)).collect::<Result<_, _>>()?,
        ),
        Protocol::Udp => Servers::Echoes {
            _processes: hosts
                .map(|host| host.serve("datagram-echo", port, &[]))
                .collect::<Result<_, _>>()?,
        },
    })
}

fn plan(protocol: Protocol, direction: Direction, lab: &Lab, tables: &str) -> TunnelBuilder {
    let builder = Tunnel::builder();
    if direction == Direction::Outwards {
        let (from, to) = (lab.host("icp").at(LISTENER_PORT), lab.host("ext").at(OUTSIDE_PORT));
        let (kind, prefix) = match protocol {
            Protocol::Tcp => ("", ""),
            Protocol::Udp => ("protocol = \"udp\"\n", "udp/"),
        };
        let listener = format!(
            "[[listener]]\nname = \"outside\"\nlisten = \"{from}\"\nto = \"address:{to}\"\n{kind}"
        );
        // Only who is registered is let out.
        return builder
            .peer("peer3", &lab.host("peer3").at(INSIDE_PORT), CONTACTS[0])
            .tail(&format!("{listener}{tables}"))
            .policy(&format!("dials = [\"{prefix}{to}\"]\n"));
    }
    let builder = builder.tail(tables);
    PEERS.into_iter().zip(CONTACTS).fold(builder, |builder, (name, contact)| {
        let at = lab.host(name).at(INSIDE_PORT);
        match protocol {
            Protocol::Tcp => builder.peer(name, &at, contact),
            Protocol::Udp => builder.udp_peer(name, &at, contact),
        }
    })
}

/// A hundred connections, a mebibyte each way on each, both sums right at both ends.
fn streams(lab: &Lab, from: &str, to: &[&str], servers: Servers) -> Result<String, LabError> {
    let Servers::Exchanges(mut exchanges) = servers else {
        return Err(LabError::Claim("streams need exchanges".to_owned()));
    };
    let plan = SwarmPlan::new(usize::try_from(FLOWS).unwrap_or(usize::MAX))
        .bytes(BYTES)
        .kbytes_per_second(KBYTES_PER_SECOND)
        .slice(Duration::from_millis(5));
    let tally = Swarm::launch(&lab.host(from), to, &plan)?.finish(LONG)?;
    let expected = FLOWS * (BYTES + TRAILER);
    let is_right = tally.right == FLOWS && tally.received == expected;
    claim(is_right, || format!("the callers' end: {tally:?}, {expected} bytes expected"))?;
    let (mut right, mut received) = (0, 0);
    for exchange in &mut exchanges {
        let mut tally = exchange.mark()?;
        // Their ends come when they have heard ours.
        wait_until(SHORT, "the servers' ends", || {
            tally = exchange.mark().unwrap_or(tally);
            tally.ended() == tally.flows
        })?;
        (right, received) = (right + tally.right, received + tally.received);
    }
    claim(right == FLOWS && received == expected, || {
        format!("the servers' end: {right} flows right, {received} of {expected} bytes")
    })?;
    Ok(format!("{FLOWS} connections × {} MiB each way, every SHA-256 right", BYTES >> 20))
}

/// A hundred flows of datagrams, a mebibyte each way on each, every datagram as it was sent.
fn datagrams(lab: &Lab, from: &str, to: &str) -> Result<String, LabError> {
    let (flows, bytes) = (FLOWS.to_string(), BYTES.to_string());
    let mut crowd = lab.host(from).play_on("datagram-crowd", to, &[&flows, &bytes])?;
    let said = crowd.finish(LONG)?;
    let line = said.lines().find(|line| line.starts_with("crowd ")).unwrap_or_default();
    let number = |what: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let pair = words.windows(2).find(|pair| pair[0] == what);
        pair.and_then(|pair| pair[1].parse::<u64>().ok())
    };
    let is_carried = number("flows") == Some(FLOWS);
    let again = number("again").zip(number("datagrams")).filter(|_| is_carried);
    let (again, all) = again.ok_or_else(|| LabError::Claim(format!("the callers said: {said}")))?;
    claim(again * 100 <= all * AGAIN_MAX_PERCENT, || {
        format!("{again} of {all} datagrams had to be sent again: more than {AGAIN_MAX_PERCENT} %")
    })?;
    Ok(format!(
        "{FLOWS} flows of datagrams × {} MiB each way, every byte right, {again} of {all} datagrams \
         sent again",
        BYTES >> 20
    ))
}

/// The direct way in is shut: a neighbour of the internal peer reaches it, whoever is outside of a
/// gateway does not, though it has a route; the gateway counts what it drops.
fn shut(protocol: Protocol, lab: &Lab) -> Result<String, LabError> {
    let (peer, ext) = (lab.host(PEERS[0]), lab.host("ext"));
    let to = peer.at(INSIDE_PORT);
    match protocol {
        Protocol::Tcp => lab.host("icp").play("connect", &to, &[])?,
        Protocol::Udp => lab.host("icp").play("datagram", &to, &["100"])?,
    };
    if lab.gateways().iter().any(|gateway| gateway.firewall == Firewall::Open) {
        // With a route it would be open; without a filter, only addresses hide.
        let route = ext.run(["ip", "route", "get", peer.address()])?;
        claim(!route.success(), || format!("outside there is a route: {}", route.stdout))?;
        return Ok("the direct way in is not routed".to_owned());
    }
    let gateways: Vec<_> = lab.gateways().iter().map(|gateway| lab.host(&gateway.name)).collect();
    // Each gateway is tried by its neighbour outside: of the inner, that is the outer.
    let mut outside = ext;
    for gateway in &gateways {
        outside.route(peer.address(), gateway.address())?;
        outside = *gateway;
    }
    let mut outside = ext;
    for gateway in &gateways {
        let before = gateway.dropped_packets()?;
        let reached = match protocol {
            Protocol::Tcp => outside.play("connect", &to, &["--within-ms=400"]).is_ok(),
            Protocol::Udp => outside.play("datagram-unanswered", &to, &[]).is_err(),
        };
        claim(!reached, || format!("{to} is reached from {} without a tunnel", outside.name()))?;
        let dropped = gateway.dropped_packets()?.saturating_sub(before);
        claim(dropped > 0, || {
            format!("{} dropped nothing on the direct way from {}", gateway.name(), outside.name())
        })?;
        outside = *gateway;
    }
    let by = gateways.iter().map(Host::name).collect::<Vec<_>>().join(" and ");
    Ok(format!("the direct way in is shut, dropped by {by}"))
}

/// Plain traffic out passes where the firewall lets it, and nowhere else.
fn way_out(protocol: Protocol, lab: &Lab) -> Result<String, LabError> {
    let (from, to) = (lab.host(PEERS[0]), lab.host("ext").at(OUTSIDE_PORT));
    let promised = lab.gateways().iter().all(|gateway| lets_out(gateway.firewall));
    let passes = match protocol {
        Protocol::Tcp => from.play("connect", &to, &["--within-ms=1000"]).is_ok(),
        Protocol::Udp if promised => from.play("datagram", &to, &["100"]).is_ok(),
        Protocol::Udp => from.play("datagram-unanswered", &to, &[]).is_err(),
    };
    let does = |passes| if passes { "passes" } else { "is stopped" };
    claim(passes == promised, || {
        format!("plain {protocol} out {}, where it {} by its rules", does(passes), does(promised))
    })?;
    Ok(format!("plain {protocol} out {}", does(passes)))
}

/// Whether plain traffic to any port gets out.
fn lets_out(firewall: Firewall) -> bool {
    match firewall {
        Firewall::Outbound
        | Firewall::MtuBlackHole
        | Firewall::StripOptions
        | Firewall::SniBlocked { .. }
        | Firewall::Quota { .. }
        | Firewall::Connbytes { .. }
        | Firewall::Connlimit { .. }
        | Firewall::PortExhaustion
        | Firewall::Open => true,
        Firewall::Tcp443Only
        | Firewall::Tcp443Reject(_)
        | Firewall::TlsOnly
        | Firewall::ProxyOnly => false,
    }
}
