//! A built lab: its hosts, and the gateway's own evidence of what passed and what did not.

mod builder;
mod host;
mod own;

pub(crate) use builder::{Addresses, Plug};
pub use builder::{Gateway, LabBuilder};
pub use host::Host;
pub(crate) use host::socket_address;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tempfile::TempDir;

use self::own::Own;
use crate::nat::{Behaviour, marks};
use crate::sandbox::Sandbox;
use crate::slot::Slot;
use crate::{LabError, Nat6, Output, Process, probe};

/// The congestion control that connections in the lab use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Congestion {
    /// Debian's default, which all published figures are taken under.
    Cubic,
    /// The machine's own: its root namespace does not allow children to choose cubic
    /// (`sysctl net.ipv4.tcp_allowed_congestion_control`). The lab changes nothing there.
    Kept(String),
}

/// Namespaces, their links, and the processes in them. All of it is gone when this is dropped, and
/// when this process dies; only the logs stay if a test fails.
#[derive(Debug)]
pub struct Lab {
    name: String,
    // Before the sandbox, so that they end first.
    captures: Vec<Process>,
    own: BTreeMap<String, Own>,
    sandbox: Sandbox,
    directory: Option<TempDir>,
    path: PathBuf,
    hosts: BTreeMap<String, Addresses>,
    plugs: BTreeMap<String, Plug>,
    gateways: Vec<Gateway>,
    congestion: Congestion,
    keep: bool,
    logs: AtomicU32,
    _slot: Slot,
}

impl Lab {
    /// Begins a lab; `name` appears in the names of its files.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "a lab is drawn first and built at the end")]
    pub fn new(name: &str) -> LabBuilder {
        LabBuilder::new(name)
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the lab's configurations, keys, sockets and logs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which congestion control the lab's hosts have.
    #[must_use]
    pub fn congestion(&self) -> &Congestion {
        &self.congestion
    }

    /// Whether the lab stands in a user namespace, without root's rights.
    #[must_use]
    pub fn rootless(&self) -> bool {
        self.sandbox.rootless()
    }

    /// The outer number of the process whose end is the end of the lab.
    #[must_use]
    pub fn anchor_pid(&self) -> i32 {
        self.sandbox.anchor()
    }

    /// Keeps the lab's folder when the lab is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The host called `name`: a host, a gateway or a bridge.
    ///
    /// # Panics
    /// When the lab has no such host: a mistake in the test.
    #[must_use]
    pub fn host(&self, name: &str) -> Host<'_> {
        let (name, addresses) = self
            .hosts
            .get_key_value(name)
            .unwrap_or_else(|| panic!("the lab '{}' has no host '{name}'", self.name));
        Host::new(self, name, addresses)
    }

    /// The gateway nearest to the inside: the last that the builder was given.
    ///
    /// # Panics
    /// When the lab has none.
    #[must_use]
    pub fn gateway(&self) -> Host<'_> {
        let gateway = self.gateways.last();
        self.host(&gateway.unwrap_or_else(|| panic!("'{}' has no gateway", self.name)).name)
    }

    /// The gateways, outermost first, as they were drawn.
    #[must_use]
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// What the NATs of this lab, taken together, promise for IPv4.
    #[must_use]
    pub fn promised(&self) -> Option<Behaviour> {
        let mut inwards =
            self.gateways.iter().rev().filter(|gateway| gateway.outside_v4().is_some());
        let inner = inwards.next()?.nat.behaviour();
        Some(inwards.fold(inner, |inner, outer| inner.behind(outer.nat.behaviour())))
    }

    /// What they promise for IPv6, if all of them have it.
    #[must_use]
    pub fn promised6(&self) -> Option<Behaviour> {
        let mut inwards = self.gateways.iter().rev();
        let inner = inwards.next()?.nat6.behaviour()?;
        inwards.try_fold(inner, |inner, outer| Some(inner.behind(outer.nat6.behaviour()?)))
    }

    /// Whether any gateway of this lab passes IPv6 on.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.nat6 != Nat6::None)
    }

    /// Probes the NAT from `inside`, against `first` and `second` outside, by UDP and TCP, and by
    /// each family that the lab has; compares with what the presets promise; and makes sure that the
    /// inside is not reached directly. A test that skips this may show nothing.
    ///
    /// # Errors
    /// When they behave otherwise, or when a counter that must move did not.
    pub fn verify_nat(&self, inside: &str, first: &str, second: &str) -> Result<(), LabError> {
        probe::verify(self, &self.host(inside), &self.host(first), &self.host(second))
    }

    /// Makes sure that the firewall blocks what it promises to block, in the way it promises, and that
    /// what it lets pass passes; the counters of its rules are the evidence. Between `inside` and
    /// `outside`, before anything else connects: the gateways forget all connections, and their
    /// rules are as new afterwards, counters and quotas too.
    ///
    /// # Errors
    /// When it behaves otherwise, or when a counter that must move did not.
    pub fn verify_firewall(&self, inside: &str, outside: &str) -> Result<(), LabError> {
        probe::verify_firewall(self, &self.host(inside), &self.host(outside))
    }

    /// Another host than `name` on the innermost gateway's LAN.
    pub(crate) fn neighbour_of(&self, name: &str) -> Option<Host<'_>> {
        let gateway = self.gateways.last()?;
        let mut inside = self.plugs.iter().filter(|(_, plug)| plug.owner == gateway.name);
        inside.find(|(other, _)| *other != name).map(|(other, _)| self.host(other))
    }

    /// Records all gateways, both sides, until the processes are dropped.
    fn record_gateways(&self) -> Result<Vec<Process>, LabError> {
        let mut captures = Vec::new();
        for gateway in &self.gateways {
            for device in ["wan0", "lan0"] {
                captures.push(self.host(&gateway.name).capture_ring(device)?);
            }
        }
        Ok(captures)
    }

    /// A path for a new log, numbered so that the order of starts shows.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{number:02}-{name}.log"))
    }

    /// How the host called `name` is joined to its segment.
    pub(crate) fn plug(&self, name: &str) -> &Plug {
        let plug = self.plugs.get(name);
        plug.unwrap_or_else(|| panic!("the host '{name}' of '{}' has no cable", self.name))
    }

    /// Whose files and processes the host called `name` has, if it has its own.
    pub(crate) fn own_of(&self, name: &str) -> Option<i32> {
        self.own.get(name).map(Own::first_pid)
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take()
            && (self.keep || thread::panicking())
        {
            eprintln!("lab '{}': logs kept in {}", self.name, directory.keep().display());
        }
    }
}

/// A gateway's evidence.
impl Host<'_> {
    /// Packets that came to the gateway itself unasked, and were dropped.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn dropped_input(&self) -> Result<u64, LabError> {
        self.packets_of(marks::DROP_INPUT)
    }

    /// Packets that wanted through the gateway against its rules, and were dropped.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn dropped_packets(&self) -> Result<u64, LabError> {
        self.packets_of(marks::DROP_FORWARD)
    }

    /// The packets that the rule with `comment` in the filter table's `chain` has seen.
    ///
    /// # Errors
    /// When the rules cannot be read, or there is no such rule.
    pub fn rule_packets(&self, chain: &str, comment: &str) -> Result<u64, LabError> {
        let listing = self.run_ok(["iptables", "-w", "-nvxL", chain])?.stdout;
        listing
            .lines()
            .find(|line| line.contains(comment))
            .and_then(|line| line.split_whitespace().next())
            .and_then(|packets| packets.parse().ok())
            .ok_or_else(|| LabError::Unexpected {
                what: format!("the counter of rule '{comment}'"),
                text: listing.clone(),
            })
    }

    /// The packets that all rules with `comment` have seen, in every table and family.
    ///
    /// # Errors
    /// When the rules cannot be read, or there is no such rule.
    pub fn packets_of(&self, comment: &str) -> Result<u64, LabError> {
        let mut text = self.run_ok(["iptables-save", "-c"])?.stdout;
        if self.lab().has_v6() {
            text += &self.run_ok(["ip6tables-save", "-c"])?.stdout;
        }
        // `[PACKETS:BYTES] -A CHAIN … --comment COMMENT …`, quoted or not.
        let marked =
            |line: &&str| line.split_whitespace().any(|word| word.trim_matches('"') == comment);
        let packets = |line: &str| line.strip_prefix('[')?.split_once(':')?.0.parse::<u64>().ok();
        let mut counts = text.lines().filter(marked).filter_map(packets).peekable();
        if counts.peek().is_none() {
            return Err(LabError::Unexpected {
                what: format!("the counter of rule '{comment}'"),
                text: text.clone(),
            });
        }
        Ok(counts.sum())
    }

    /// The established TCP connections that cross this gateway, one line of `conntrack` each.
    ///
    /// # Errors
    /// When `conntrack` fails.
    pub fn crossing_connections(&self) -> Result<Vec<String>, LabError> {
        let Output { stdout, .. } = self.run_ok(["conntrack", "-L", "-p", "tcp"])?;
        Ok(stdout.lines().filter(|line| line.contains("ESTABLISHED")).map(str::to_owned).collect())
    }
}
