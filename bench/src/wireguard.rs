//! The comparison with a VPN in user space: a WireGuard between the relay's host and the inside, with
//! DNAT at both of its ends.
//!
//! ```text
//!   ext ──▶ relay:port (DNAT) ══ boringtun or wireguard-go ══ icp (DNAT) ──▶ peer3
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use netns_tests::{Host, Lab, Process, SHORT, wait_until};

use crate::bed::{Entries, PEER};
use crate::error::BenchError;
use crate::machine;
use crate::way::Way;

/// One of the programs, as a way of the bench.
#[derive(Debug, Clone, Copy)]
struct Kind {
    program: &'static str,
    variable: &'static str,
    /// Begins the device's name, which the socket's in the lab's shared `/run` comes from.
    device: &'static str,
    /// The tunnel's own network.
    network: &'static str,
}

const BORINGTUN: Kind =
    Kind { program: "boringtun-cli", variable: "BORINGTUN_BIN", device: "bt", network: "10.77.1" };
const WIREGUARD_GO: Kind = Kind {
    program: "wireguard-go",
    variable: "WIREGUARD_GO_BIN",
    device: "wgo",
    network: "10.77.2",
};

fn kind(way: Way) -> Kind {
    if way == Way::Boringtun { BORINGTUN } else { WIREGUARD_GO }
}

/// The program, where it is, and `wg` with it.
pub(crate) fn program(way: Way) -> Option<PathBuf> {
    let Kind { program, variable, .. } = kind(way);
    let installed = machine::installed(program, variable).filter(|path| path.is_file());
    installed.filter(|_| machine::installed("wg", "WG_BIN").is_some())
}

/// Its version, as it says itself.
pub(crate) fn version(way: Way) -> Option<String> {
    let said = Command::new(program(way)?).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.lines().next().map(|line| line.trim().to_owned())
}

/// Starts both ends, and leads what comes to the relay's ports through them.
pub(crate) fn start(lab: &Lab, way: Way, entries: Entries) -> Result<Vec<Process>, BenchError> {
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let port = way.tunnel_port().unwrap_or_default();
    let Kind { device, network, .. } = kind(way);
    let (outer, inner) = (format!("{device}-relay"), format!("{device}-icp"));
    let (outside, outside_key) = raise(&relay, way, &outer)?;
    let (inside, inside_key) = raise(&icp, way, &inner)?;
    let at = relay.address();
    relay.shell(&format!(
        "wg set {outer} listen-port {port} peer {inside_key} allowed-ips {network}.2/32
         ip addr add {network}.1/24 dev {outer}; ip link set {outer} mtu 1420 up
         sysctl -qw net.ipv4.ip_forward=1
         iptables -w -t nat -A POSTROUTING -o {outer} -j MASQUERADE"
    ))?;
    icp.shell(&format!(
        "wg set {inner} peer {outside_key} allowed-ips {network}.1/32 \
           endpoint {at}:{port} persistent-keepalive 5
         ip addr add {network}.2/24 dev {inner}; ip link set {inner} mtu 1420 up
         sysctl -qw net.ipv4.ip_forward=1
         iptables -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE"
    ))?;
    let peer = lab.host(PEER).address();
    for service in entries.services() {
        let (protocol, entry, own) = (service.protocol(), way.entry_port(service), service.port);
        for (host, arrives, to, to_port) in [
            (&relay, "eth0", format!("{network}.2"), entry),
            (&icp, inner.as_str(), peer.to_owned(), own),
        ] {
            host.shell(&format!(
                "iptables -w -t nat -A PREROUTING -i {arrives} -p {protocol} --dport {entry} \
                 -j DNAT --to-destination {to}:{to_port}"
            ))?;
        }
    }
    wait_until(SHORT, &format!("the tunnel of {way}"), || {
        let ping = ["ping", "-c", "1", "-W", "1", &format!("{network}.2")].map(str::to_owned);
        relay.run(ping).is_ok_and(|output| output.success())
    })?;
    Ok(vec![outside, inside])
}

/// Starts one end's process; returns it and its public key.
fn raise(host: &Host<'_>, way: Way, device: &str) -> Result<(Process, String), BenchError> {
    let program =
        program(way).ok_or_else(|| BenchError::unexpected(way.short(), "not installed"))?;
    let mut arguments = vec![program.into_os_string()];
    match way {
        Way::Boringtun => {
            arguments.extend(["--foreground", "--disable-drop-privileges"].map(Into::into));
        }
        _ => arguments.push("--foreground".into()),
    }
    arguments.push(device.into());
    let mut process = host.spawn(arguments)?;
    let stands = wait_until(SHORT, &format!("{device} of {way}"), || {
        !process.runs() || host.run(["wg", "show", device]).is_ok_and(|output| output.success())
    });
    if stands.is_err() || !process.runs() {
        return Err(BenchError::unexpected(format!("the start of {way}"), process.log()));
    }
    let key = host.lab().path().join(format!("{device}.key"));
    let private = host.run_ok(["wg", "genkey"])?.stdout;
    fs::write(&key, private).map_err(BenchError::io(format!("writing {}", key.display())))?;
    let key = key.display();
    let public = host.shell(&format!("wg set {device} private-key {key}; wg pubkey < {key}"))?;
    Ok((process, public.stdout.trim().to_owned()))
}
