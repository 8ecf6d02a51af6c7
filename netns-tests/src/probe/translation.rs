//! What the NATs between hosts do, by UDP and by TCP.

use std::net::SocketAddr;

use crate::lab::socket_address;
use crate::tunnel::is_gone;
use crate::{
    Behaviour, Filtering, Firewall, Hairpinning, Host, Lab, LabError, Mapping, Pooling, Process,
    SHORT, helper, wait_until,
};

/// The two ports of the first host outside.
const FIRST: u16 = 5001;
const SECOND: u16 = 5002;
/// The inside ports of the mapping and of the filtering probe.
const MAPPING: u16 = 40_001;
const FILTERING: u16 = 40_002;
/// How often those who may not be heard try, before the one who must. In the first round a stray may
/// overtake what is sent last, from another processor.
const ROUNDS: u32 = 2;

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) udp: Behaviour,
    pub(super) tcp: Behaviour,
}

/// A way out for the probe's ports through firewalls that would not let it out. What comes in unasked
/// is still judged by their own rules.
#[derive(Debug)]
pub(super) struct Way<'a> {
    gateways: Vec<Host<'a>>,
}

impl<'a> Way<'a> {
    const RULES: [&'static str; 4] = [
        "FORWARD -i lan0 -o wan0 -p udp -m multiport --dports 5001,5002 -j ACCEPT",
        "FORWARD -i lan0 -o wan0 -p tcp -m multiport --dports 5001,5002 -j ACCEPT",
        "FORWARD -i wan0 -o lan0 -p udp -m multiport --sports 5001,5002 \
         -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "FORWARD -i wan0 -o lan0 -p tcp -m multiport --sports 5001,5002 \
         -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    ];

    pub(super) fn open(lab: &'a Lab) -> Result<Self, LabError> {
        let closed = |firewall| !matches!(firewall, Firewall::Outbound | Firewall::Open);
        let gateways = lab.gateways().iter().filter(|gateway| closed(gateway.firewall));
        let way = Self { gateways: gateways.map(|gateway| lab.host(&gateway.name)).collect() };
        way.set("-I")?;
        Ok(way)
    }

    pub(super) fn close(self) -> Result<(), LabError> {
        self.set("-D")
    }

    fn set(&self, operation: &str) -> Result<(), LabError> {
        let lines = Self::RULES.map(|rule| format!("iptables -w {operation} {rule}\n"));
        self.gateways.iter().try_for_each(|gateway| gateway.shell(&lines.concat()).map(|_| ()))
    }
}

/// One of the two protocols, as the consoles know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// The line that addresses `to` from `port`; whoever is reached answers `you ADDRESS TAG`.
    fn ask(self, port: u16, to: &str, tag: &str) -> String {
        match self {
            Self::Udp => format!("send {port} {to} who {tag}"),
            Self::Tcp => format!("dial {port} {to} {tag}"),
        }
    }

    /// From where it tries again and again: a TCP port cannot dial the same address twice at once.
    fn again(self, port: u16) -> u16 {
        if self == Self::Tcp { 0 } else { port }
    }

    /// What the console prints when that has left.
    fn left(self, tag: &str) -> String {
        match self {
            Self::Udp => format!("sent who {tag}"),
            Self::Tcp => format!("dialling {tag}"),
        }
    }
}

/// The consoles of a probe.
struct Probe {
    client: Process,
    neighbour: Option<Process>,
    first: Process,
    second: Process,
    /// The two hosts outside.
    near: String,
    far: String,
    inside: String,
}

/// What the NATs between `inside` and the two hosts outside do.
pub(super) fn observe(
    inside: &Host<'_>,
    first: &Host<'_>,
    second: &Host<'_>,
    v6: bool,
) -> Result<Seen, LabError> {
    let probe = helper("lab-probe")?;
    let start = |host: &Host<'_>, ports: &[u16]| -> Result<Process, LabError> {
        let mut arguments = vec![probe.clone().into_os_string(), "console".into()];
        arguments.push(if v6 { "6" } else { "4" }.into());
        arguments.extend(ports.iter().map(|port| port.to_string().into()));
        host.spawn_console(arguments)
    };
    let address = |host: &Host<'_>| {
        if v6 { host.address6().unwrap_or_default() } else { host.address() }.to_owned()
    };
    // Whoever else is inside: the first host on the same LAN.
    let neighbour = inside.lab().neighbour_of(inside.name());
    let mut probe = Probe {
        client: start(inside, &[MAPPING, FILTERING])?,
        neighbour: neighbour.map(|host| start(&host, &[FILTERING])).transpose()?,
        first: start(first, &[FIRST, SECOND])?,
        second: start(second, &[FIRST])?,
        near: address(first),
        far: address(second),
        inside: address(inside),
    };
    let Probe { client, neighbour, first, second, .. } = &mut probe;
    for process in
        [Some(client), neighbour.as_mut(), Some(first), Some(second)].into_iter().flatten()
    {
        process.wait_for_log("ready", SHORT)?;
    }
    let seen = Seen { udp: probe.observe(Protocol::Udp)?, tcp: probe.observe(Protocol::Tcp)? };
    probe.end()?;
    Ok(seen)
}

impl Probe {
    /// Waits until nothing of the probe runs: its connections cross the gateways no more, and no test
    /// takes them for its own.
    fn end(self) -> Result<(), LabError> {
        let Self { client, neighbour, first, second, .. } = self;
        for mut process in
            [Some(client), neighbour, Some(first), Some(second)].into_iter().flatten()
        {
            process.kill();
            let pid = process.pid();
            wait_until(SHORT, "the probe to end", || is_gone(pid))?;
        }
        Ok(())
    }

    fn observe(&mut self, by: Protocol) -> Result<Behaviour, LabError> {
        let (near, far) = (self.near.clone(), self.far.clone());
        let seen = [
            self.ask(by, MAPPING, &socket_address(&near, FIRST), "m1")?,
            self.ask(by, MAPPING, &socket_address(&near, SECOND), "m2")?,
            self.ask(by, MAPPING, &socket_address(&far, FIRST), "m3")?,
        ];
        let mapping = match (seen[0] == seen[1], seen[0] == seen[2]) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            _ => Mapping::AddressAndPortDependent,
        };
        let paired = seen.iter().all(|at| at.ip() == seen[0].ip());
        let hole = self.ask(by, FILTERING, &socket_address(&near, FIRST), "f1")?;
        Ok(Behaviour {
            mapping,
            filtering: self.filtering(by, hole)?,
            pooling: if paired { Pooling::Paired } else { Pooling::Arbitrary },
            hairpinning: self.hairpinning(by, hole)?,
        })
    }

    /// Which address `to` sees of the client's `port`.
    fn ask(
        &mut self,
        by: Protocol,
        port: u16,
        to: &str,
        tag: &str,
    ) -> Result<SocketAddr, LabError> {
        let tag = format!("{by:?}-{tag}");
        self.client.say(&by.ask(port, to, &tag))?;
        let end = format!(" {tag}");
        let answers =
            |line: &str| line.starts_with("got ") && line.contains(" you ") && line.ends_with(&end);
        let line = self.client.wait_for_line(&end, SHORT, answers)?;
        let address = line.split(" you ").nth(1).and_then(|rest| rest.split(' ').next());
        address
            .and_then(|address| address.parse().ok())
            .ok_or(LabError::Unexpected { what: "the probe".to_owned(), text: line.clone() })
    }

    /// Who reaches the hole, beside the one it was made for.
    fn filtering(&mut self, by: Protocol, hole: SocketAddr) -> Result<Filtering, LabError> {
        for round in 0..ROUNDS {
            let (stranger, sibling) =
                (format!("{by:?}-stranger-{round}"), format!("{by:?}-sibling-{round}"));
            self.second.say(&by.ask(by.again(FIRST), &hole.to_string(), &stranger))?;
            self.second.wait_for_log(&by.left(&stranger), SHORT)?;
            self.first.say(&by.ask(by.again(SECOND), &hole.to_string(), &sibling))?;
            self.first.wait_for_log(&by.left(&sibling), SHORT)?;
            let asked = format!("{by:?}-asked-{round}");
            match by {
                Protocol::Udp => {
                    self.first.say(&format!("send {FIRST} {hole} {asked}"))?;
                    self.client.wait_for_log(&asked, SHORT)?;
                }
                // What the client says comes back on the connection that made the hole.
                Protocol::Tcp => {
                    self.client.say(&format!("tell {FILTERING} {by:?}-f1 who {asked}"))?;
                    self.client.wait_for_line(&asked, SHORT, |line| {
                        line.contains(" you ") && line.ends_with(&asked)
                    })?;
                }
            }
        }
        let log = self.client.log();
        let heard = |who: &str| log.contains(&format!("who {by:?}-{who}-"));
        match (heard("stranger"), heard("sibling")) {
            (true, true) => Ok(Filtering::EndpointIndependent),
            (false, true) => Ok(Filtering::AddressDependent),
            (false, false) => Ok(Filtering::AddressAndPortDependent),
            // No filter that is known does this: the probe, or the lab, is broken.
            (true, false) => Err(LabError::Unexpected {
                what: format!("the filtering by {by:?}"),
                text: "another host is heard, another port of the same host is not".to_owned(),
            }),
        }
    }

    /// Whether a neighbour reaches the hole by its outside address.
    fn hairpinning(&mut self, by: Protocol, hole: SocketAddr) -> Result<Hairpinning, LabError> {
        let direct = socket_address(&self.inside, FILTERING);
        if hole.to_string() == direct {
            return Ok(Hairpinning::Refused);
        }
        let Some(neighbour) = &mut self.neighbour else { return Ok(Hairpinning::Refused) };
        for round in 0..ROUNDS {
            let (turned, plain) =
                (format!("{by:?}-turned-{round}"), format!("{by:?}-plain-{round}"));
            neighbour.say(&by.ask(by.again(FILTERING), &hole.to_string(), &turned))?;
            neighbour.say(&by.ask(by.again(FILTERING), &direct, &plain))?;
            let what = format!("who {plain}");
            self.client.wait_for_line(&what, SHORT, |line| line.ends_with(&what))?;
        }
        let log = self.client.log();
        let turned = log.lines().find(|line| line.contains(&format!("who {by:?}-turned-")));
        let source = turned.and_then(|line| line.split(' ').nth(2)?.parse::<SocketAddr>().ok());
        Ok(match source {
            None => Hairpinning::Refused,
            Some(source) if source.ip() == hole.ip() => Hairpinning::ExternalSource,
            Some(_) => Hairpinning::InternalSource,
        })
    }
}
