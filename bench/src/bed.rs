//! The test bed: one lab in which all the ways that are compared stand at once.

use std::collections::BTreeMap;

use netns_tests::{Host, Lab, Process, SHORT, Topology, wait_until};

use crate::congestion::Allowed;
use crate::error::BenchError;
use crate::load::Load;
use crate::path::{Laid, Path};
use crate::throughput::Direction;
use crate::way::{ALL_SERVICES, DATAGRAM_ECHO, ECHO, SERVICES, SOURCE, Service, Way};
use crate::{adit, bore, frp, haproxy, machine, process_tree, rathole, socat, ssh, wireguard};

/// The internal peer.
pub(crate) const PEER: &str = "peer3";
/// The external peer.
pub(crate) const EXTERNAL: &str = "ext";

/// Which services the ways lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entries {
    /// Those that take connections.
    Streams,
    /// Those that take datagrams too.
    Both,
}

impl Entries {
    /// The services.
    pub(crate) fn services(self) -> impl Iterator<Item = Service> {
        let all: &[Service] = if self == Self::Both { &ALL_SERVICES } else { &SERVICES };
        all.iter().copied()
    }
}

/// Which congestion control the lab's ends shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Congestion {
    /// What figures are published under, if the machine allows it.
    AsAllowed,
    /// The same, allowed on this machine while the lab chooses.
    Allowing,
    /// The machine's own default.
    Machines,
}

/// The lab with its ways, and the internal peer's services.
#[derive(Debug)]
pub(crate) struct Bed {
    ways: BTreeMap<Way, Vec<Process>>,
    _services: Vec<Process>,
    laid: Laid,
    allowed: Option<(String, String)>,
    // Last, so that the lab outlives what runs in it.
    lab: Lab,
}

impl Bed {
    /// Builds the lab and starts what `ways` need.
    pub(crate) fn new(name: &str, ways: &[Way]) -> Result<Self, BenchError> {
        Self::over(Path::Veth, name, ways)
    }

    /// The same, with the gateway's outside link as `path` says.
    pub(crate) fn over(path: Path, name: &str, ways: &[Way]) -> Result<Self, BenchError> {
        Self::build((path, Congestion::AsAllowed), name, ways, Entries::Streams)
    }

    /// The same, and every way leads to the services that take datagrams too.
    pub(crate) fn with_datagrams(path: Path, name: &str, ways: &[Way]) -> Result<Self, BenchError> {
        Self::build((path, Congestion::AsAllowed), name, ways, Entries::Both)
    }

    /// The lab's own links, services of both kinds, and whatever congestion control is asked for.
    pub(crate) fn under(
        congestion: Congestion,
        name: &str,
        ways: &[Way],
    ) -> Result<Self, BenchError> {
        Self::build((Path::Veth, congestion), name, ways, Entries::Both)
    }

    fn build(
        (path, congestion): (Path, Congestion),
        name: &str,
        ways: &[Way],
        entries: Entries,
    ) -> Result<Self, BenchError> {
        let lab = Topology::STANDARD.build(name)?;
        let allowed = (congestion == Congestion::Allowing).then(Allowed::until_dropped);
        match congestion {
            Congestion::Machines => machine::choose_congestion(&lab, &machine::own_congestion())?,
            _ => machine::choose_congestion(&lab, machine::WANTED_CONGESTION)?,
        }
        let allowed = allowed.and_then(|allowed| allowed.condition());
        let laid = path.lay(&lab)?;
        // What the gateway lets in by DNAT must get past its policy, which drops.
        lab.gateway().run_ok([
            "iptables",
            "-I",
            "FORWARD",
            "-i",
            "wan0",
            "-o",
            "lan0",
            "-m",
            "conntrack",
            "--ctstate",
            "DNAT",
            "-j",
            "ACCEPT",
        ])?;
        let services = serve(&lab.host(PEER), entries)?;
        let mut started = BTreeMap::new();
        for &way in ways {
            started.insert(way, start(&lab, way, entries)?);
        }
        Ok(Self { ways: started, _services: services, laid, allowed, lab })
    }

    /// What has to be said of the gateway's outside link, if it is not the lab's own.
    pub(crate) fn link_condition(&mut self) -> Result<Option<(String, String)>, BenchError> {
        self.laid.condition()
    }

    /// What had to be allowed on this machine for the lab's congestion control.
    pub(crate) fn congestion_condition(&self) -> Option<(String, String)> {
        self.allowed.clone()
    }

    /// The lab.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where the external peer connects to, to reach `service`.
    pub(crate) fn entry(&self, way: Way, service: Service) -> (&str, u16) {
        (self.lab.host(way.entry_host()).address(), way.entry_port(service))
    }

    /// The processes in between.
    pub(crate) fn processes(&self, way: Way) -> &[Process] {
        self.ways.get(&way).map_or(&[], Vec::as_slice)
    }

    /// Waits until no connection is left on the way: only then is its time accounted for.
    pub(crate) fn wait_until_idle(&self, way: Way) -> Result<(), BenchError> {
        match way {
            // Nobody in between knows of connections.
            Way::Kernel | Way::Boringtun | Way::WireguardGo => Ok(()),
            // They do not say; the sockets at their entry do.
            Way::Haproxy
            | Way::HaproxySplice
            | Way::Rathole
            | Way::RatholeNoise
            | Way::Ssh
            | Way::Bore
            | Way::Frp => {
                let relay = self.lab.host(way.entry_host());
                let what = format!("the end of all connections of {way}");
                let ports = SERVICES.map(|service| way.entry_port(service));
                Ok(wait_until(SHORT, &what, || no_connection(&relay, &ports).unwrap_or(false))?)
            }
            Way::Socat => {
                let children =
                    || self.processes(way).iter().map(process_tree::descendants).sum::<usize>();
                Ok(wait_until(SHORT, "the end of socat's children", || children() == 0)?)
            }
            Way::Adit => adit::wait_until_idle(&self.lab),
        }
    }

    /// Bytes that the external peer has sent (inwards) or received (outwards) since its start.
    pub(crate) fn moved_bytes(&self, direction: Direction) -> Result<u64, BenchError> {
        let side = if direction == Direction::Inwards { "tx" } else { "rx" };
        let shown = self.lab.host(EXTERNAL).run_ok(["ip", "-s", "-j", "link", "show", "eth0"])?;
        let links: serde_json::Value = serde_json::from_str(&shown.stdout)
            .map_err(|error| BenchError::unexpected("ip -s -j link", error.to_string()))?;
        links[0]["stats64"][side]["bytes"]
            .as_u64()
            .ok_or_else(|| BenchError::unexpected("ip -s -j link", shown.stdout))
    }
}

/// Starts what stands in between on one way.
fn start(lab: &Lab, way: Way, entries: Entries) -> Result<Vec<Process>, BenchError> {
    match way {
        Way::Kernel => {
            let to = lab.host(PEER).address();
            for service in entries.services() {
                lead_in(&lab.gateway(), service.protocol(), service.port, to)?;
            }
            Ok(Vec::new())
        }
        Way::Socat => socat::start(lab),
        Way::Haproxy | Way::HaproxySplice => haproxy::start(lab, way),
        Way::Adit => adit::start(lab, entries),
        Way::Rathole | Way::RatholeNoise => rathole::start(lab, way, entries),
        Way::Ssh => ssh::start(lab),
        Way::Bore => bore::start(lab),
        Way::Frp => frp::start(lab, entries),
        Way::Boringtun | Way::WireguardGo => wireguard::start(lab, way, entries),
    }
}

/// Starts the internal peer's services that are the bench's own.
fn serve(peer: &Host<'_>, entries: Entries) -> Result<Vec<Process>, BenchError> {
    let mut services = vec![
        Load::Echo { port: ECHO.port }.spawn(peer)?,
        Load::Source { port: SOURCE.port }.spawn(peer)?,
    ];
    listening(peer, ECHO.port)?;
    listening(peer, SOURCE.port)?;
    if entries == Entries::Both {
        services.push(Load::DatagramEcho { port: DATAGRAM_ECHO.port }.spawn(peer)?);
        takes(peer, DATAGRAM_ECHO, DATAGRAM_ECHO.port)?;
    }
    Ok(services)
}

/// Lets the gateway pass its own `port` on to the inside.
pub(crate) fn lead_in(
    gateway: &Host<'_>,
    protocol: &str,
    port: u16,
    to: &str,
) -> Result<(), BenchError> {
    gateway.shell(&format!(
        "iptables -w -t nat -A PREROUTING -i wan0 -p {protocol} --dport {port} \
         -j DNAT --to-destination {to}:{port}"
    ))?;
    Ok(())
}

/// Whether nobody has a connection to these ports that is still in use.
pub(crate) fn no_connection(relay: &Host<'_>, ports: &[u16]) -> Result<bool, BenchError> {
    let ports: Vec<_> = ports.iter().map(|port| format!("sport = :{port}")).collect();
    let filter = format!("( {} )", ports.join(" or "));
    let mut command = vec!["ss", "-Htn"];
    for state in ["established", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack"] {
        command.extend(["state", state]);
    }
    command.push(&filter);
    Ok(relay.run_ok(command)?.stdout.trim().is_empty())
}

/// Waits until somebody on `host` takes what comes for `service` at `port`.
pub(crate) fn takes(host: &Host<'_>, service: Service, port: u16) -> Result<(), BenchError> {
    if !service.is_datagrams {
        return listening(host, port);
    }
    let filter = format!("sport = :{port}");
    let takes = || {
        let shown = host.run(["ss", "-Hlun", &filter]);
        shown.is_ok_and(|shown| !shown.stdout.trim().is_empty())
    };
    Ok(wait_until(SHORT, &format!("datagrams' port {port} on {}", host.name()), takes)?)
}

/// Waits until somebody on `host` listens on `port`.
pub(crate) fn listening(host: &Host<'_>, port: u16) -> Result<(), BenchError> {
    let filter = format!("sport = :{port}");
    let listens = || {
        let shown = host.run(["ss", "-Hltn", &filter]);
        shown.is_ok_and(|shown| !shown.stdout.trim().is_empty())
    };
    Ok(wait_until(SHORT, &format!("port {port} on {}", host.name()), listens)?)
}
