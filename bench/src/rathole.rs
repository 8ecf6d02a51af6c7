//! The comparison with a tunnel: rathole, plain or under its Noise transport, configured as its
//! README says. It is measured where it is installed; nothing here installs it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netns_tests::{Host, Lab, Process};

use crate::bed::{Entries, PEER, takes};
use crate::error::BenchError;
use crate::machine;
use crate::way::Way;

/// The program: `$RATHOLE_BIN`, or what the search path has.
pub(crate) fn program() -> Option<PathBuf> {
    machine::installed("rathole", "RATHOLE_BIN")
}

/// Its version, as it says itself.
pub(crate) fn version() -> Option<String> {
    let said = Command::new(program()?).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.lines().find_map(|line| line.strip_prefix("Build Version:"))?;
    Some(format!("rathole {}", version.trim()))
}

/// Starts the server on the relay's host and the client inside, and waits until each service listens.
pub(crate) fn start(lab: &Lab, way: Way, entries: Entries) -> Result<Vec<Process>, BenchError> {
    let program = program().ok_or_else(|| BenchError::unexpected("rathole", "not installed"))?;
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let keys = if way == Way::RatholeNoise { Some(Keys::make(&relay, &program)?) } else { None };
    let peer = lab.host(PEER).address();
    let server =
        run(&relay, &program, way, "server", &server_file(way, relay.address(), &keys, entries))?;
    let client = client_file(way, relay.address(), peer, &keys, entries);
    let client = run(&icp, &program, way, "client", &client)?;
    for service in entries.services() {
        takes(&relay, service, way.entry_port(service))?;
    }
    Ok(vec![server, client])
}

/// The server's key pair for Noise.
#[derive(Debug)]
struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn make(host: &Host<'_>, program: &Path) -> Result<Self, BenchError> {
        let said = host.run_ok([program.as_os_str(), "--genkey".as_ref()])?.stdout;
        let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let after = |title: &str| {
            let at = lines.iter().position(|line| line.starts_with(title))?;
            lines.get(at + 1).map(|line| (*line).to_owned())
        };
        match (after("Private"), after("Public")) {
            (Some(private), Some(public)) => Ok(Self { private, public }),
            _ => Err(BenchError::unexpected("rathole --genkey", said)),
        }
    }
}

fn server_file(way: Way, address: &str, keys: &Option<Keys>, entries: Entries) -> String {
    let port = way.tunnel_port().unwrap_or_default();
    let mut text =
        format!("[server]\nbind_addr = \"{address}:{port}\"\ndefault_token = \"bench\"\n");
    if let Some(Keys { private, .. }) = keys {
        text += &format!(
            "[server.transport]\ntype = \"noise\"\n\
             [server.transport.noise]\nlocal_private_key = \"{private}\"\n"
        );
    }
    for service in entries.services() {
        let (name, entry) = (service.name, way.entry_port(service));
        let protocol = service.protocol();
        // Writing to a String cannot fail.
        let written = write!(
            text,
            "[server.services.{name}]\ntype = \"{protocol}\"\nbind_addr = \"0.0.0.0:{entry}\"\n"
        );
        debug_assert!(written.is_ok());
    }
    text
}

fn client_file(
    way: Way,
    address: &str,
    peer: &str,
    keys: &Option<Keys>,
    entries: Entries,
) -> String {
    let port = way.tunnel_port().unwrap_or_default();
    let mut text =
        format!("[client]\nremote_addr = \"{address}:{port}\"\ndefault_token = \"bench\"\n");
    if let Some(Keys { public, .. }) = keys {
        text += &format!(
            "[client.transport]\ntype = \"noise\"\n\
             [client.transport.noise]\nremote_public_key = \"{public}\"\n"
        );
    }
    for service in entries.services() {
        let (name, own, protocol) = (service.name, service.port, service.protocol());
        // Writing to a String cannot fail.
        let written = write!(
            text,
            "[client.services.{name}]\ntype = \"{protocol}\"\nlocal_addr = \"{peer}:{own}\"\n"
        );
        debug_assert!(written.is_ok());
    }
    text
}

fn run(
    host: &Host<'_>,
    program: &Path,
    way: Way,
    role: &str,
    text: &str,
) -> Result<Process, BenchError> {
    let noise = if way == Way::RatholeNoise { "-noise" } else { "" };
    let path = host.lab().path().join(format!("rathole-{role}{noise}.toml"));
    fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    let role = format!("--{role}");
    Ok(host.spawn([program.as_os_str(), role.as_ref(), path.as_os_str()])?)
}
