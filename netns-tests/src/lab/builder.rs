//! Draws a lab, then builds it with one script.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::atomic::AtomicU32;

use super::own::Own;
use super::{Congestion, Lab};
use crate::nat::rules;
use crate::sandbox::Sandbox;
use crate::slot::Slot;
use crate::{Firewall, LabError, Nat, Nat6, preflight};

/// Whether all gateways' packets are recorded, both sides, and every lab's folder is kept with its
/// logs; any value but 0.
const RECORD: &str = "ADIT_LAB_PCAP";

/// A gateway between the segment outside and a new segment inside, which it bridges itself.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its name, as a host of the lab.
    pub name: String,
    /// How it translates IPv4.
    pub nat: Nat,
    /// How it passes IPv6 on.
    pub nat6: Nat6,
    /// What it lets out.
    pub firewall: Firewall,
    /// The segment outside.
    pub outside: String,
    /// Its addresses there, with the prefix length: of IPv4, of IPv6, or one of each.
    pub outside_addresses: Vec<String>,
    /// The segment inside.
    pub inside: String,
    /// Its addresses there.
    pub inside_addresses: Vec<String>,
}

impl Gateway {
    /// Its IPv4 address outside, without the prefix length.
    pub(crate) fn outside_v4(&self) -> Option<&str> {
        self.outside_addresses.iter().find(|address| !is_v6(address)).map(|address| bare(address))
    }

    /// Its IPv4 address inside, with the prefix length.
    pub(crate) fn inside_v4(&self) -> Option<&str> {
        self.inside_addresses.iter().find(|address| !is_v6(address)).map(String::as_str)
    }
}

/// A host's addresses, without prefix lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Of IPv4.
    pub(crate) v4: Option<String>,
    /// Of IPv6.
    pub(crate) v6: Option<String>,
}

impl Addresses {
    fn of(addresses: &[&str]) -> Self {
        let one = |v6: bool| {
            let mut found = addresses.iter().filter(|address| is_v6(address) == v6);
            found.next().map(|address| bare(address).to_owned())
        };
        Self { v4: one(false), v6: one(true) }
    }
}

/// How a host is joined to its segment.
#[derive(Debug, Clone)]
pub(crate) struct Plug {
    /// The host's device.
    pub(crate) device: String,
    /// The namespace that holds the segment's bridge.
    pub(crate) owner: String,
    /// The other end of the cable, there.
    pub(crate) far_device: String,
    /// The bridge.
    pub(crate) bridge: &'static str,
}

#[derive(Debug)]
struct Segment {
    /// The namespace that holds the bridge.
    owner: String,
    /// The bridge's name there.
    bridge: &'static str,
    /// Where the hosts of the segment send what is not theirs: by IPv4, IPv6, or both.
    routes: Vec<String>,
}

/// The drawing of a lab; see [`Lab::new`].
#[derive(Debug)]
pub struct LabBuilder {
    name: String,
    script: String,
    segments: BTreeMap<String, Segment>,
    hosts: BTreeMap<String, Addresses>,
    plugs: BTreeMap<String, Plug>,
    gateways: Vec<Gateway>,
    paced: bool,
    own_everything: bool,
}

fn is_v6(address: &str) -> bool {
    address.contains(':')
}

/// The address without its prefix length.
fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

impl LabBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            script: String::new(),
            segments: BTreeMap::new(),
            hosts: BTreeMap::new(),
            plugs: BTreeMap::new(),
            gateways: Vec::new(),
            paced: false,
            own_everything: false,
        }
    }

    /// Adds a switch of its own: the segment `name`.
    #[must_use]
    pub fn bridge(mut self, name: &str) -> Self {
        self.namespace(name, &[]);
        self.line(&format!("ip -n {name} link add br0 type bridge"));
        self.line(&format!("ip -n {name} link set br0 up"));
        let segment = Segment { owner: name.to_owned(), bridge: "br0", routes: Vec::new() };
        self.segments.insert(name.to_owned(), segment);
        self
    }

    /// Adds a host on `segment`, with `address` such as `192.168.50.2/24`. Its default route is the
    /// gateway that the segment is inside of, if any.
    ///
    /// # Panics
    /// When the segment was not drawn before: a mistake in the test.
    #[must_use]
    pub fn host(self, name: &str, segment: &str, address: &str) -> Self {
        self.host_at(name, segment, &[address])
    }

    /// The same, with an address of IPv4, one of IPv6, or both.
    ///
    /// # Panics
    /// When the segment was not drawn before: a mistake in the test.
    #[must_use]
    pub fn host_at(mut self, name: &str, segment: &str, addresses: &[&str]) -> Self {
        self.namespace(name, addresses);
        self.plug(name, "eth0", segment, addresses);
        self
    }

    /// Makes the host `name` send what lies in `network` to its neighbour `via`.
    #[must_use]
    pub fn route(mut self, name: &str, network: &str, via: &str) -> Self {
        self.line(&format!("ip -n {name} route add {network} via {via}"));
        self
    }

    /// Adds a gateway, and with it the segment inside.
    ///
    /// # Panics
    /// When the segment outside was not drawn before: a mistake in the test.
    #[must_use]
    pub fn gateway(mut self, gateway: Gateway) -> Self {
        let Gateway { name, outside, outside_addresses, inside, inside_addresses, .. } = &gateway;
        let outside_addresses: Vec<&str> = outside_addresses.iter().map(String::as_str).collect();
        self.namespace(name, &outside_addresses);
        self.plug(name, "wan0", outside, &outside_addresses);
        self.line(&format!("ip -n {name} link add lan0 type bridge"));
        for address in inside_addresses {
            self.line(&add_address(name, "lan0", address));
        }
        self.line(&format!("ip -n {name} link set lan0 up"));
        let rules = rules(&gateway);
        self.line(&format!("ip netns exec {name} sh -e <<'RULES'\n{rules}RULES"));
        let routes = inside_addresses.iter().map(|address| bare(address).to_owned()).collect();
        let segment = Segment { owner: name.clone(), bridge: "lan0", routes };
        self.segments.insert(inside.clone(), segment);
        self.gateways.push(gateway);
        self
    }

    /// Says that the lab's traffic will be paced, so that more labs may stand beside it.
    #[must_use]
    pub fn paced(mut self) -> Self {
        self.paced = true;
        self
    }

    /// Gives each host processes of its own, and files of its own in `/etc`, `/var/lib`, `/root` and
    /// `/run`, where nothing of Adit and no ssh key is at first. Root's right.
    #[must_use]
    pub fn own_everything(mut self) -> Self {
        self.own_everything = true;
        self
    }

    /// The gateways, outermost first, as they were drawn.
    #[must_use]
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// The hosts that are joined to a segment, each with its addresses and the namespace that
    /// holds the segment's bridge.
    pub(crate) fn joined(&self) -> impl Iterator<Item = (&str, Vec<&str>, &str)> {
        self.hosts.iter().filter_map(|(name, Addresses { v4, v6 })| {
            let plug = self.plugs.get(name)?;
            let addresses = v4.iter().chain(v6).map(String::as_str).collect();
            Some((name.as_str(), addresses, plug.owner.as_str()))
        })
    }

    /// Builds the lab, when one of the machine's few slots is free.
    ///
    /// # Errors
    /// When tools are missing, namespaces are not allowed, or a link cannot be made.
    pub fn build(mut self) -> Result<Lab, LabError> {
        preflight::ensure()?;
        if self.gateways.iter().any(|gateway| gateway.firewall.judges_packets()) {
            self.split_packets();
        }
        let slot = Slot::take(self.paced)?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("adit-lab-{}-", self.name))
            .tempdir()
            .map_err(LabError::io("making the lab's folder"))?;
        let sandbox = Sandbox::new()?;
        sandbox.script(&self.script)?;
        let congestion = choose_cubic(&sandbox, self.hosts.keys())?;
        let mut lab = Lab {
            name: self.name,
            sandbox,
            path: directory.path().to_owned(),
            directory: Some(directory),
            hosts: self.hosts,
            plugs: self.plugs,
            gateways: self.gateways,
            congestion,
            own: BTreeMap::new(),
            keep: false,
            logs: AtomicU32::new(0),
            captures: Vec::new(),
            _slot: slot,
        };
        if self.own_everything {
            let make = |name: &String| Ok((name.clone(), Own::make(&lab, name)?));
            lab.own = lab.plugs.keys().map(make).collect::<Result<_, LabError>>()?;
        }
        if std::env::var_os(RECORD).is_some_and(|value| value != "0") {
            lab.captures = lab.record_gateways()?;
            // Whoever wants recordings wants to read them.
            lab.keep = true;
        }
        Ok(lab)
    }

    /// Switches offloads off, everywhere: a rule that judges packets must see those of the wire.
    fn split_packets(&mut self) {
        let mut lines = String::new();
        for (name, plug) in &self.plugs {
            let Plug { device, owner, far_device, .. } = plug;
            for (namespace, device) in [(name, device), (owner, far_device)] {
                lines += &format!(
                    "ip netns exec {namespace} ethtool -K {device} tso off gso off gro off\n"
                );
            }
        }
        self.script.push_str(&lines);
    }

    fn namespace(&mut self, name: &str, addresses: &[&str]) {
        let twice = self.hosts.insert(name.to_owned(), Addresses::of(addresses));
        assert!(twice.is_none(), "the lab '{}' has two hosts '{name}'", self.name);
        self.line(&format!("ip netns add {name}"));
        if addresses.iter().any(|address| is_v6(address)) {
            // An address that is looked for twice is not there for a second or two.
            self.line(&format!(
                "ip netns exec {name} sysctl -qw net.ipv6.conf.all.accept_dad=0 \
                 net.ipv6.conf.default.accept_dad=0"
            ));
        }
        self.line(&format!("ip -n {name} link set lo up"));
    }

    /// A veth pair from `device` of the namespace `name` to the segment's bridge.
    fn plug(&mut self, name: &str, device: &str, segment: &str, addresses: &[&str]) {
        let Some(Segment { owner, bridge, routes }) = self.segments.get(segment) else {
            panic!("the lab '{}' has no segment '{segment}' yet", self.name);
        };
        let plug = Plug {
            device: device.to_owned(),
            owner: owner.clone(),
            far_device: format!("p-{name}"),
            bridge,
        };
        self.plugs.insert(name.to_owned(), plug);
        let mut lines = format!(
            "ip link add {device} netns {name} mtu 1500 type veth peer name p-{name} netns {owner}\n\
             ip -n {owner} link set p-{name} master {bridge} up\n"
        );
        for address in addresses {
            lines += &(add_address(name, device, address) + "\n");
        }
        lines += &format!("ip -n {name} link set {device} up");
        for route in routes {
            if addresses.iter().any(|address| is_v6(address) == is_v6(route)) {
                lines += &format!("\nip -n {name} route add default via {route}");
            }
        }
        self.line(&lines);
    }

    fn line(&mut self, line: &str) {
        self.script.push_str(line);
        self.script.push('\n');
    }
}

/// An address of IPv6 is not looked for on the segment first: the lab gives each once.
fn add_address(namespace: &str, device: &str, address: &str) -> String {
    let nodad = if is_v6(address) { " nodad" } else { "" };
    format!("ip -n {namespace} addr add {address} dev {device}{nodad}")
}

/// Sets cubic in every namespace, as the published figures want it, where the machine allows that.
fn choose_cubic<'a>(
    sandbox: &Sandbox,
    hosts: impl Iterator<Item = &'a String>,
) -> Result<Congestion, LabError> {
    const KEY: &str = "net.ipv4.tcp_congestion_control";
    for host in hosts {
        let sysctl = |arguments: &[&str]| -> Result<Output, LabError> {
            let mut command = sandbox.command(Some(host), None);
            command.arg("sysctl").args(arguments).output().map_err(LabError::io("sysctl"))
        };
        sysctl(&["-q", "-w", &format!("{KEY}=cubic")])?;
        // Whether it was allowed shows in what is there now.
        let now = String::from_utf8_lossy(&sysctl(&["-n", KEY])?.stdout).trim().to_owned();
        if now != "cubic" {
            return Ok(Congestion::Kept(now));
        }
    }
    Ok(Congestion::Cubic)
}
