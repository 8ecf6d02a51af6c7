//! What befalls the tunnel.

use std::fmt;
use std::thread;
use std::time::Duration;

use crate::bed::Bed;
use crate::error::BenchError;
use crate::load::now_ns;
use crate::way::Way;

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The tunnel's TCP connections are reset.
    Kill,
    /// The gateway drops everything for a while.
    Hole,
}

/// A fault that struck, by the machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Just before it.
    pub(super) at_ns: u64,
    /// When the way was free again: for a kill at once.
    pub(super) over_ns: u64,
    /// Whether all flows flowed again.
    pub(super) recovered: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Hole => "hole",
        })
    }
}

/// Kills the tunnel's connections, at the relay or inside, by the parity of `number`.
pub(super) fn kill(bed: &Bed, way: Way, number: usize) -> Result<Fault, BenchError> {
    let port = way.tunnel_port().ok_or_else(|| {
        BenchError::unexpected("what to kill", format!("{way} has no tunnel: leave it out"))
    })?;
    let (host, filter) = if number.is_multiple_of(2) {
        ("relay", format!("sport = :{port}"))
    } else {
        ("icp", format!("dport = :{port}"))
    };
    let at_ns = now_ns();
    let killed =
        bed.lab().host(host).run_ok(["ss", "-K", "-Htn", "state", "established", &filter])?;
    if killed.stdout.trim().is_empty() {
        return Err(BenchError::unexpected("ss -K", format!("nothing to kill on {host}")));
    }
    Ok(Fault { kind: Kind::Kill, at_ns, over_ns: at_ns, recovered: true })
}

/// Lets the gateway drop everything for `length`.
pub(super) fn hole(bed: &Bed, length: Duration) -> Result<Fault, BenchError> {
    const RULE: [&str; 3] = ["FORWARD", "-j", "DROP"];
    let gateway = bed.lab().gateway();
    let at_ns = now_ns();
    gateway.run_ok(["iptables", "-w", "-I"].into_iter().chain(RULE))?;
    // The fault's length is what is asked for: there is no condition to wait on.
    thread::sleep(length);
    let over_ns = now_ns();
    gateway.run_ok(["iptables", "-w", "-D"].into_iter().chain(RULE))?;
    Ok(Fault { kind: Kind::Hole, at_ns, over_ns, recovered: true })
}
