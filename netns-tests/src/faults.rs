//! What befalls a connection that lives long: a gateway that forgets, a path that swallows, an end
//! that is cut. Every fault shows by counters or listings that it really struck; one that struck
//! nothing is an error.
//!
//! Order of calls: [`Fault::prepare`] before anything connects, [`Fault::inject`] while traffic
//! flows, [`Struck::hold`] for those that last, [`Struck::lift`]. They strike whatever crosses the
//! gateway, so that a plain connection beside the tunnel is the control.

mod crossing;
mod rules;

use std::thread;
use std::time::{Duration, Instant};

use crate::{Daemon, Host, Lab, LabError, SHORT, wait_until};
use crossing::{Crossing, crossing};
use rules::Rules;

/// Where the control's server listens, outside.
pub const CONTROL_PORT: u16 = 9000;
/// Where the tunnel is dialled.
const TUNNEL_PORT: u16 = 443;
/// The gateway's two public addresses, for [`Fault::AddressChange`].
const ADDRESSES: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

/// What a gateway does with packets of a connection that it does not know, or no longer allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// A reset to whoever sent them.
    Reset,
}

impl Answer {
    fn target(self) -> &'static str {
        match self {
            Self::Silence => "DROP",
            Self::Reset => "REJECT --reject-with tcp-reset",
        }
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the inside to the outside.
    Outward,
    /// From the outside to the inside.
    Inward,
}

impl Direction {
    fn rule(self) -> (&'static str, String) {
        let devices = match self {
            Self::Outward => "-i lan0 -o wan0",
            Self::Inward => "-i wan0 -o lan0",
        };
        ("FORWARD", format!("{devices} -j DROP"))
    }
}

/// A fault, for the standard lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The gateway forgets all connections, as one that was restarted.
    Forgetting(Answer),
    /// The carrier's socket is destroyed at one end, which resets the other.
    Severed(Daemon),
    /// All packets in one direction vanish, until it is lifted.
    OneWay(Direction),
    /// All packets vanish, until it is lifted.
    Hole,
    /// The packets of the connections that cross now vanish; new connections are fine.
    Abandoned,
    /// The gateway has another public address from now on.
    AddressChange,
    /// The gateway's outside goes down and up again, so many times, 100 ms each.
    Flapping(u32),
    /// A connection may carry so many bytes, then its packets are answered so.
    Quota {
        /// Both directions together, headers included.
        bytes: u64,
        /// What then.
        answer: Answer,
    },
}

impl Fault {
    /// Makes the lab ready for the fault, before anything connects.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn prepare(self, lab: &Lab) -> Result<(), LabError> {
        let Self::Quota { .. } = self else { return Ok(()) };
        // Only connections that begin after this are counted.
        lab.gateway().shell("sysctl -qw net.netfilter.nf_conntrack_acct=1")?;
        // The cut shall fall within a record: with offload a packet may be a whole one.
        for (host, device) in [("icp", "eth0"), ("relay", "eth0"), ("ext", "eth0"), ("gw", "wan0")]
        {
            lab.host(host).shell(&format!("ethtool -K {device} tso off gso off gro off"))?;
        }
        Ok(())
    }

    /// Strikes.
    ///
    /// # Errors
    /// When there is nothing to strike, or a tool fails.
    pub fn inject(self, lab: &Lab) -> Result<Struck<'_>, LabError> {
        let gateway = lab.gateway();
        let before = crossing(&gateway)?;
        if before.is_empty() {
            return Err(self.harmless("no connection crosses the gateway"));
        }
        let mut struck = Struck { fault: self, gateway, rules: None, at: Instant::now() };
        let rules = match self {
            Self::Forgetting(answer) => forgetting(answer),
            Self::OneWay(direction) => vec![direction.rule()],
            Self::Hole => vec![Direction::Outward.rule(), Direction::Inward.rule()],
            Self::Abandoned => before.iter().flat_map(abandoned).collect(),
            Self::Quota { bytes, answer } => vec![quota(bytes, answer)],
            Self::Severed(_) | Self::AddressChange | Self::Flapping(_) => Vec::new(),
        };
        if !rules.is_empty() {
            struck.rules = Some(Rules::insert(gateway, &rules)?);
        }
        match self {
            Self::Forgetting(_) => {
                gateway.run_ok(["conntrack", "-F"])?;
            }
            Self::Severed(end) => self.sever(lab, end)?,
            Self::AddressChange => change_address(&gateway, &before)?,
            Self::Flapping(times) => {
                gateway.shell(&format!(
                    "for turn in $(seq {times}); do \
                     ip link set wan0 down; sleep 0.1; ip link set wan0 up; sleep 0.1; done"
                ))?;
            }
            _ => {}
        }
        if let Self::Flapping(_) = self
            && let Some(kept) = before.iter().find(|kept| survives(&gateway, kept))
        {
            return Err(self.harmless(&format!("the gateway still knows {kept:?}")));
        }
        Ok(struck)
    }

    /// Destroys the sockets of the carrier and of the control at one of their ends.
    fn sever(self, lab: &Lab, end: Daemon) -> Result<(), LabError> {
        let sides = match end {
            Daemon::Forwarder => {
                vec![("icp", "dport", TUNNEL_PORT), ("icp", "dport", CONTROL_PORT)]
            }
            Daemon::Relay => vec![("relay", "sport", TUNNEL_PORT), ("ext", "sport", CONTROL_PORT)],
        };
        for (host, side, port) in sides {
            let filter = format!("( {side} = :{port} )");
            let host = lab.host(host);
            let count = |arguments: &[&str]| -> Result<usize, LabError> {
                let arguments = [arguments, &["state", "established", &filter]].concat();
                Ok(host.run_ok(arguments)?.stdout.lines().count())
            };
            // The control is there only where a test has one.
            let (there, killed) = (count(&["ss", "-Htn"])?, count(&["ss", "-HtnK"])?);
            if killed == 0 && (there > 0 || port == TUNNEL_PORT) {
                return Err(self.harmless(&format!("no socket with {side} {port} to destroy")));
            }
        }
        Ok(())
    }

    fn harmless(self, seen: &str) -> LabError {
        LabError::Misbehaved { preset: format!("{self:?}"), seen: seen.to_owned() }
    }
}

/// A fault that has struck.
#[derive(Debug)]
pub struct Struck<'a> {
    fault: Fault,
    gateway: Host<'a>,
    rules: Option<Rules<'a>>,
    at: Instant,
}

impl Struck<'_> {
    /// When it struck.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Lets the fault last until `duration` after it struck: its own length, not a wait for anything.
    pub fn hold(&self, duration: Duration) {
        thread::sleep(duration.saturating_sub(self.at.elapsed()));
    }

    /// How many packets it has struck so far, for those that strike packets.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn packets(&self) -> Result<u64, LabError> {
        self.rules.as_ref().map_or(Ok(0), Rules::packets)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it turns out that it struck nothing, or a tool fails.
    pub fn lift(self) -> Result<(), LabError> {
        let Self { fault, gateway, rules, .. } = self;
        if let Some(rules) = rules
            && rules.remove()? == 0
        {
            return Err(fault.harmless("its rules matched no packet"));
        }
        if fault == Fault::AddressChange {
            let now = address(&gateway)?;
            wait_until(SHORT, &format!("a connection by way of {now}"), || {
                crossing(&gateway).is_ok_and(|all| all.iter().any(|one| one.outside == now))
            })?;
        }
        Ok(())
    }
}

/// The gateway has no connection any more, hence packets in the middle of one are invalid; what
/// comes from outside finds no mapping, and is the gateway's own to answer.
fn forgetting(answer: Answer) -> Vec<(&'static str, String)> {
    let rule = format!("-p tcp -m conntrack --ctstate INVALID -j {}", answer.target());
    vec![("FORWARD", rule.clone()), ("INPUT", format!("-i wan0 {rule}"))]
}

fn abandoned(crossing: &Crossing) -> [(&'static str, String); 2] {
    let Crossing { inside, inside_port, .. } = crossing;
    [
        ("FORWARD", format!("-p tcp -s {inside} --sport {inside_port} -j DROP")),
        ("FORWARD", format!("-p tcp -d {inside} --dport {inside_port} -j DROP")),
    ]
}

fn quota(bytes: u64, answer: Answer) -> (&'static str, String) {
    let spent = format!("--connbytes {bytes}: --connbytes-dir both --connbytes-mode bytes");
    ("FORWARD", format!("-p tcp -m connbytes {spent} -j {}", answer.target()))
}

/// The gateway's address outside.
fn address(gateway: &Host<'_>) -> Result<&'static str, LabError> {
    let listing = gateway.run_ok(["ip", "-4", "-o", "addr", "show", "dev", "wan0"])?.stdout;
    let found = ADDRESSES.into_iter().find(|address| listing.contains(&format!("{address}/")));
    found.ok_or(LabError::Unexpected { what: "the gateway's address".to_owned(), text: listing })
}

fn change_address(gateway: &Host<'_>, before: &[Crossing]) -> Result<(), LabError> {
    let old = address(gateway)?;
    let new = if old == ADDRESSES[0] { ADDRESSES[1] } else { ADDRESSES[0] };
    // In this order: an address of the same network goes with the one that was there before it.
    gateway.shell(&format!(
        "ip addr del {old}/24 dev wan0; ip addr add {new}/24 dev wan0; ip -4 -o addr show dev wan0"
    ))?;
    // Masquerading forgets what had the old address, in its own time.
    wait_until(SHORT, "the gateway to forget its old address", || {
        before.iter().all(|old| !survives(gateway, old))
    })
}

fn survives(gateway: &Host<'_>, old: &Crossing) -> bool {
    // Not knowing is no proof of an end.
    crossing(gateway).map_or(true, |now| now.contains(old))
}
