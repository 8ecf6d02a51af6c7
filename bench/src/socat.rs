//! The comparison: a plain double hop, as one would build it without a tunnel.

use netns_tests::{Host, Lab, Process};

use crate::bed::{PEER, lead_in, listening};
use crate::error::BenchError;
use crate::way::{SERVICES, Way};

/// Starts a socat on the relay's host and one inside for each service, and lets the gateway pass
/// the first on to the second.
pub(crate) fn start(lab: &Lab) -> Result<Vec<Process>, BenchError> {
    let (relay, gateway, icp) = (lab.host("relay"), lab.gateway(), lab.host("icp"));
    let mut processes = Vec::new();
    for service in SERVICES {
        let port = Way::Socat.entry_port(service);
        lead_in(&gateway, "tcp", port, icp.address())?;
        processes.push(hop(&icp, port, lab.host(PEER).address(), service.port)?);
        processes.push(hop(&relay, port, gateway.address(), port)?);
    }
    Ok(processes)
}

/// 64 KiB a turn: a multiple of socat's own default, and its best on this path.
fn hop(host: &Host<'_>, port: u16, to: &str, to_port: u16) -> Result<Process, BenchError> {
    let from = format!("TCP-LISTEN:{port},fork,reuseaddr,backlog=128");
    let process = host.spawn(["socat", "-b", "65536", &from, &format!("TCP:{to}:{to_port}")])?;
    listening(host, port)?;
    Ok(process)
}
