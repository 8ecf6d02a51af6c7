//! The comparison with bore: a plain tunnel, a client for each service. It is measured where it is
//! installed.

use std::path::PathBuf;
use std::process::Command;

use netns_tests::{Lab, Process};

use crate::bed::{PEER, listening};
use crate::error::BenchError;
use crate::machine;
use crate::way::{SERVICES, Way};

/// The program: `$BORE_BIN`, or what the search path has.
pub(crate) fn program() -> Option<PathBuf> {
    machine::installed("bore", "BORE_BIN")
}

/// Its version, as it says itself.
pub(crate) fn version() -> Option<String> {
    let said = Command::new(program()?).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // The name that it calls itself by is `bore-cli`.
    said.lines().next().map(|line| line.trim().to_owned())
}

/// Starts the server on the relay's host and the clients inside, and waits until each service listens.
pub(crate) fn start(lab: &Lab) -> Result<Vec<Process>, BenchError> {
    let program = program().ok_or_else(|| BenchError::unexpected("bore", "not installed"))?;
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let server = relay.spawn([program.as_os_str(), "server".as_ref()])?;
    // It has a port of its own, which cannot be chosen.
    listening(&relay, Way::Bore.tunnel_port().unwrap_or_default())?;
    let mut processes = vec![server];
    let (at, peer) = (relay.address(), lab.host(PEER).address());
    for service in SERVICES {
        let (entry, own) = (Way::Bore.entry_port(service), service.port);
        let words = format!("local {own} --local-host {peer} --to {at} --port {entry}");
        let words = words.split(' ').map(Into::into);
        let arguments: Vec<_> =
            std::iter::once(program.clone().into_os_string()).chain(words).collect();
        processes.push(icp.spawn(arguments)?);
        listening(&relay, entry)?;
    }
    Ok(processes)
}
