//! The comparison with frp, as its documentation configures it: TLS and one multiplexed connection, both
//! of which are its defaults. It is measured where `frps` and `frpc` are installed; nothing here installs
//! them, since no package registry has them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netns_tests::{Host, Lab, Process};

use crate::bed::{Entries, PEER, listening, takes};
use crate::error::BenchError;
use crate::machine;
use crate::way::Way;

/// Server and client: `$FRPS_BIN` and `$FRPC_BIN`, or what the search path has.
pub(crate) fn programs() -> Option<[PathBuf; 2]> {
    Some([machine::installed("frps", "FRPS_BIN")?, machine::installed("frpc", "FRPC_BIN")?])
}

/// Its version, as it says itself.
pub(crate) fn version() -> Option<String> {
    let [server, _] = programs()?;
    let said = Command::new(server).arg("--version").output().ok()?;
    Some(format!("frp {}", String::from_utf8_lossy(&said.stdout).trim()))
}

/// Starts the server on the relay's host and the client inside, and waits until each service listens.
pub(crate) fn start(lab: &Lab, entries: Entries) -> Result<Vec<Process>, BenchError> {
    let [server, client] =
        programs().ok_or_else(|| BenchError::unexpected("frp", "not installed"))?;
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let port = Way::Frp.tunnel_port().unwrap_or_default();
    let text = format!("bindPort = {port}\nauth.token = \"bench\"\nlog.level = \"warn\"\n");
    let server = run(&relay, &server, "frps.toml", &text)?;
    listening(&relay, port)?;
    let text = client_file(relay.address(), lab.host(PEER).address(), entries);
    let client = run(&icp, &client, "frpc.toml", &text)?;
    for service in entries.services() {
        takes(&relay, service, Way::Frp.entry_port(service))?;
    }
    Ok(vec![server, client])
}

fn client_file(relay: &str, peer: &str, entries: Entries) -> String {
    let port = Way::Frp.tunnel_port().unwrap_or_default();
    let mut text = format!(
        "serverAddr = \"{relay}\"\nserverPort = {port}\nauth.token = \"bench\"\n\
         log.level = \"warn\"\n"
    );
    for service in entries.services() {
        let (name, protocol, own) = (service.name, service.protocol(), service.port);
        let entry = Way::Frp.entry_port(service);
        // Writing to a String cannot fail.
        let written = write!(
            text,
            "\n[[proxies]]\nname = \"{name}\"\ntype = \"{protocol}\"\nlocalIP = \"{peer}\"\n\
             localPort = {own}\nremotePort = {entry}\n"
        );
        debug_assert!(written.is_ok());
    }
    text
}

fn run(host: &Host<'_>, program: &Path, file: &str, text: &str) -> Result<Process, BenchError> {
    let path = host.lab().path().join(file);
    fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    Ok(host.spawn([program.as_os_str(), "-c".as_ref(), path.as_os_str()])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams and datagrams are proxies of their own kinds.
    #[test]
    fn datagrams_are_proxies_of_their_own_kind() {
        let text = client_file("192.0.2.1", "192.0.2.9", Entries::Both);
        assert_eq!(text.matches("type = \"tcp\"").count(), 3);
        assert_eq!(text.matches("type = \"udp\"").count(), 2);
        assert!(text.contains("localPort = 5008\nremotePort = 20008\n"), "{text}");
    }
}
