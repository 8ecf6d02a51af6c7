//! A built lab: its hosts, and the gateway's own evidence of what passed and what did not.

mod builder;
mod host;
mod own;

pub(crate) use builder::Plug;
pub use builder::{Gateway, LabBuilder};
pub use host::Host;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tempfile::TempDir;

use self::own::Own;
use crate::nat::{Behaviour, DROP_FORWARD, DROP_INPUT};
use crate::sandbox::Sandbox;
use crate::slot::Slot;
use crate::{LabError, Output, probe};

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
    own: BTreeMap<String, Own>,
    sandbox: Sandbox,
    directory: Option<TempDir>,
    path: PathBuf,
    hosts: BTreeMap<String, String>,
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
        let (name, address) = self
            .hosts
            .get_key_value(name)
            .unwrap_or_else(|| panic!("the lab '{}' has no host '{name}'", self.name));
        Host::new(self, name, address)
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

    /// What the NATs of this lab, taken together, promise.
    #[must_use]
    pub fn promised(&self) -> Option<Behaviour> {
        let mut inwards = self.gateways.iter().rev().map(|gateway| gateway.nat);
        let inner = inwards.next()?;
        Some(inwards.next().map_or(inner.behaviour(), |outer| inner.behaviour_behind(outer)))
    }

    /// Probes the NAT and the firewall from `inside`, against `first` and `second` outside, and
    /// compares with what the presets promise. A test that skips this may show nothing.
    ///
    /// # Errors
    /// When they behave otherwise, or when a counter that must move did not.
    pub fn verify_nat(&self, inside: &str, first: &str, second: &str) -> Result<(), LabError> {
        probe::verify(self, &self.host(inside), &self.host(first), &self.host(second))
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
        self.rule_packets("INPUT", DROP_INPUT)
    }

    /// Packets that wanted through the gateway against its rules, and were dropped.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn dropped_packets(&self) -> Result<u64, LabError> {
        self.rule_packets("FORWARD", DROP_FORWARD)
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

    /// The established TCP connections that cross this gateway, one line of `conntrack` each.
    ///
    /// # Errors
    /// When `conntrack` fails.
    pub fn crossing_connections(&self) -> Result<Vec<String>, LabError> {
        let Output { stdout, .. } = self.run_ok(["conntrack", "-L", "-p", "tcp"])?;
        Ok(stdout.lines().filter(|line| line.contains("ESTABLISHED")).map(str::to_owned).collect())
    }
}
