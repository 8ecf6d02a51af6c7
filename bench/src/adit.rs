//! The relay and the forwarder, as an operator would start them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_tests::{Host, Lab, Process, SHORT, binaries, wait_until};
use serde_json::Value;

use crate::bed::{Entries, PEER};
use crate::error::BenchError;
use crate::way::{Service, Way};

/// How long the tunnel and its contact points may take to stand.
const REGISTERED_WITHIN: Duration = Duration::from_secs(20);

/// Starts both daemons, the relay's first, and waits until every service is registered.
pub(crate) fn start(lab: &Lab, entries: Entries) -> Result<Vec<Process>, BenchError> {
    let programs = binaries()?;
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let relay_key = make_key(&relay, &programs.relay, "relay.key")?;
    let forwarder_key = make_key(&icp, &programs.adit, "adit.key")?;
    write(lab, "relay.toml", &relay_file(relay.address(), &forwarder_key, entries))?;
    write(lab, "adit.toml", &forwarder_file(lab, &relay_key, entries))?;
    let outside = run(&relay, &programs.relay, "relay.toml")?;
    crate::bed::listening(&relay, 443)?;
    let mut inside = run(&icp, &programs.adit, "adit.toml")?;
    let registered = wait_until(REGISTERED_WITHIN, "the contact points of Adit", || {
        inside.runs() && all_registered(&icp, &programs.adit, entries).unwrap_or(false)
    });
    if let Err(error) = registered {
        let text = format!("{error}\nrelay:\n{}\nforwarder:\n{}", outside.log(), inside.log());
        return Err(BenchError::unexpected("the start of Adit", text));
    }
    Ok(vec![outside, inside])
}

/// Waits until both daemons say that no flow is open.
pub(crate) fn wait_until_idle(lab: &Lab) -> Result<(), BenchError> {
    let programs = binaries()?;
    let ends = [(lab.host("relay"), programs.relay), (lab.host("icp"), programs.adit)];
    for (host, program) in ends {
        wait_until(SHORT, &format!("the end of all flows on {}", host.name()), || {
            status(&host, &program).is_ok_and(|status| status["flows"] == 0)
        })?;
    }
    Ok(())
}

/// Both programs.
pub(crate) fn programs() -> Result<[PathBuf; 2], BenchError> {
    let programs = binaries()?;
    Ok([programs.relay, programs.adit])
}

fn make_key(host: &Host<'_>, program: &Path, file: &str) -> Result<String, BenchError> {
    let path = host.lab().path().join(file);
    let arguments = [program.as_os_str(), "keygen".as_ref(), "--out".as_ref(), path.as_os_str()];
    Ok(host.run_ok(arguments)?.stdout.trim().to_owned())
}

fn write(lab: &Lab, file: &str, text: &str) -> Result<(), BenchError> {
    let path = lab.path().join(file);
    fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))
}

fn relay_file(address: &str, forwarder_key: &str, entries: Entries) -> String {
    let ports = |is_datagrams| {
        let services = entries.services().filter(|one: &Service| one.is_datagrams == is_datagrams);
        let ports = services.map(|service| format!("\"{}\"", Way::Adit.entry_port(service)));
        ports.collect::<Vec<_>>().join(", ")
    };
    let (tcp, udp) = (ports(false), ports(true));
    let udp = if udp.is_empty() { udp } else { format!("udp_ports = [{udp}]\n") };
    format!(
        "key = \"relay.key\"\nlisten = \"{address}:443\"\nsocket = \"relay.sock\"\n\n\
         [[forwarder]]\nname = \"bench\"\nkey = \"{forwarder_key}\"\nports = [{tcp}]\n\
         {udp}"
    )
}

fn forwarder_file(lab: &Lab, relay_key: &str, entries: Entries) -> String {
    let (relay, peer) = (lab.host("relay").address(), lab.host(PEER).address());
    let mut text = format!(
        "key = \"adit.key\"\nrelay = \"{relay}:443\"\nrelay_key = \"{relay_key}\"\n\
         socket = \"adit.sock\"\n"
    );
    for service in entries.services() {
        let (name, port, protocol) = (service.name, service.port, service.protocol());
        let contact = Way::Adit.entry_port(service);
        // Writing to a String cannot fail.
        let written = write!(
            text,
            "\n[[peer]]\nname = \"{name}\"\n{protocol} = \"{peer}:{port}\"\n\
             contact = \"public:{contact}\"\n"
        );
        debug_assert!(written.is_ok());
    }
    text
}

fn run(host: &Host<'_>, program: &Path, file: &str) -> Result<Process, BenchError> {
    let path = host.lab().path().join(file);
    let arguments = [program.as_os_str(), "run".as_ref(), "--config".as_ref(), path.as_os_str()];
    Ok(host.spawn(arguments)?)
}

fn all_registered(icp: &Host<'_>, program: &Path, entries: Entries) -> Result<bool, BenchError> {
    let status = status(icp, program)?;
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(peers.len() == entries.services().count()
        && peers.iter().all(|peer| peer["registered"] == true))
}

/// The daemon's status; `program` tells which of the two.
fn status(host: &Host<'_>, program: &Path) -> Result<Value, BenchError> {
    let socket = if host.name() == "relay" { "relay.sock" } else { "adit.sock" };
    let path = host.lab().path().join(socket);
    let output = host.run_ok([
        program.as_os_str(),
        "status".as_ref(),
        "--json".as_ref(),
        "--socket".as_ref(),
        path.as_os_str(),
    ])?;
    serde_json::from_str(&output.stdout)
        .map_err(|error| BenchError::unexpected("a daemon's status", error.to_string()))
}
