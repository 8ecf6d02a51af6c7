//! Probes a NAT's mapping and filtering as RFC 4787 describes, and a firewall's refusals.
//!
//! From one inside port, ask two ports of one host and one port of another which address they see:
//! that is the mapping. From a fresh port, address only the first, then let all three send: whoever
//! is heard tells the filtering. What must be heard is sent last, so that silence means something.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;

use crate::{Behaviour, Filtering, Firewall, Host, Lab, LabError, Mapping, Process, SHORT, helper};

/// The two ports of the first host outside.
const FIRST: u16 = 5001;
const SECOND: u16 = 5002;
/// The inside ports of the mapping and of the filtering probe.
const MAPPING: u16 = 40_001;
const FILTERING: u16 = 40_002;

/// Runs the program behind `lab-probe udp`: sockets on `ports`, told by lines on standard input.
///
/// `send PORT TARGET TEXT` sends; whatever arrives is printed as `got PORT FROM TEXT`; an arriving
/// `who …` is answered with `you ADDRESS …`. Ends with its input.
///
/// # Errors
/// When a port is taken, or a line is not understood.
pub fn udp_console(ports: &[u16]) -> io::Result<()> {
    let mut sockets = Vec::new();
    for &port in ports {
        let socket = Arc::new(UdpSocket::bind(("0.0.0.0", port))?);
        let reader = Arc::clone(&socket);
        thread::spawn(move || read_forever(&reader, port));
        sockets.push((port, socket));
    }
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.splitn(4, ' ');
        let parsed = (words.next(), words.next(), words.next(), words.next());
        let (Some("send"), Some(port), Some(target), Some(text)) = parsed else {
            return Err(io::Error::other(format!("cannot understand '{line}'")));
        };
        let from = sockets.iter().find(|(own, _)| port.parse() == Ok(*own));
        let (_, socket) = from.ok_or_else(|| io::Error::other(format!("no port {port}")))?;
        // A firewall that rejects makes the next send fail; that too is an observation.
        match socket.send_to(text.as_bytes(), target) {
            Ok(_) => println!("sent {text}"),
            Err(error) => println!("unsent {text}: {error}"),
        }
    }
    Ok(())
}

fn read_forever(socket: &UdpSocket, port: u16) {
    let mut buffer = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        println!("got {port} {from} {text}");
        if let Some(rest) = text.strip_prefix("who ")
            && let Err(error) = socket.send_to(format!("you {from} {rest}").as_bytes(), from)
        {
            println!("unsent answer to {from}: {error}");
        }
        if io::stdout().flush().is_err() {
            return;
        }
    }
}

/// See [`Lab::verify_nat`].
pub(crate) fn verify(
    lab: &Lab,
    inside: &Host<'_>,
    first: &Host<'_>,
    second: &Host<'_>,
) -> Result<(), LabError> {
    let preset = lab.gateways().iter().fold(String::new(), |mut text, gateway| {
        // Writing to a String cannot fail.
        let written = write!(text, "{} {:?} {:?}; ", gateway.name, gateway.nat, gateway.firewall);
        debug_assert!(written.is_ok());
        text
    });
    let misbehaved = |seen: String| LabError::Misbehaved { preset: preset.clone(), seen };
    let Some(promised) = lab.promised() else { return Ok(()) };
    if lab.gateways().iter().any(|gateway| gateway.firewall == Firewall::Tcp443Only) {
        verify_443(inside, first).map_err(misbehaved)?;
    } else {
        let seen = observe(inside, first, second)?;
        if seen != promised {
            return Err(misbehaved(format!("promised {promised}; seen {seen}")));
        }
    }
    verify_direct(lab, inside, first).map_err(misbehaved)
}

/// What the NATs between `inside` and the two hosts outside do.
pub(crate) fn observe(
    inside: &Host<'_>,
    first: &Host<'_>,
    second: &Host<'_>,
) -> Result<Behaviour, LabError> {
    let probe = helper("lab-probe")?;
    let console = |host: &Host<'_>, ports: &[u16]| -> Result<Process, LabError> {
        let mut arguments = vec![probe.clone().into_os_string(), "udp".into()];
        arguments.extend(ports.iter().map(|port| port.to_string().into()));
        let mut process = host.spawn_console(arguments)?;
        process.wait_for_log("ready", SHORT)?;
        Ok(process)
    };
    let mut a = console(first, &[FIRST, SECOND])?;
    let mut b = console(second, &[FIRST])?;
    let mut client = console(inside, &[MAPPING, FILTERING])?;
    let mut ask = |port: u16, host: &str, at: u16, tag: &str| -> Result<SocketAddr, LabError> {
        client.say(&format!("send {port} {host}:{at} who {tag}"))?;
        let what = format!(" {tag}");
        let line = client
            .wait_for_line(&what, SHORT, |line| line.contains("you ") && line.ends_with(&what))?;
        let address = line.split("you ").nth(1).and_then(|rest| rest.split(' ').next());
        address
            .and_then(|address| address.parse().ok())
            .ok_or(LabError::Unexpected { what: "the probe".to_owned(), text: line.clone() })
    };
    let (near, far) = (first.address(), second.address());
    let seen = [
        ask(MAPPING, near, FIRST, "m1")?,
        ask(MAPPING, near, SECOND, "m2")?,
        ask(MAPPING, far, FIRST, "m3")?,
    ];
    let mapping = match (seen[0] == seen[1], seen[0] == seen[2]) {
        (true, true) => Mapping::EndpointIndependent,
        (true, false) => Mapping::AddressDependent,
        _ => Mapping::AddressAndPortDependent,
    };
    let hole = ask(FILTERING, near, FIRST, "f1")?;
    // Two rounds: in the first a stray may overtake what is sent last, from another processor.
    for round in 0..2 {
        b.say(&format!("send {FIRST} {hole} stranger {round}"))?;
        b.wait_for_log(&format!("sent stranger {round}"), SHORT)?;
        a.say(&format!("send {SECOND} {hole} sibling {round}"))?;
        a.say(&format!("send {FIRST} {hole} asked {round}"))?;
        client.wait_for_log(&format!("asked {round}"), SHORT)?;
    }
    let log = client.log();
    let filtering = match (log.contains("stranger 0"), log.contains("sibling 0")) {
        (true, true) => Filtering::EndpointIndependent,
        (false, true) => Filtering::AddressDependent,
        _ => Filtering::AddressAndPortDependent,
    };
    Ok(Behaviour { mapping, filtering })
}

/// Port 443 gets out, port 80 does not, and the rule that stops it counts.
fn verify_443(inside: &Host<'_>, outside: &Host<'_>) -> Result<(), String> {
    let text = |error: LabError| error.to_string();
    let peer = helper("lab-peer").map_err(text)?;
    for port in [443, 80] {
        let at = format!("{}:{port}", outside.address());
        let mut echo =
            outside.spawn([peer.as_os_str(), "echo".as_ref(), at.as_ref()]).map_err(text)?;
        echo.wait_for_log("listening", SHORT).map_err(text)?;
        let gateway = inside.lab().gateway();
        let before = gateway.dropped_packets().map_err(text)?;
        let tried = inside
            .run([peer.as_os_str(), "connect".as_ref(), at.as_ref(), "--within-ms=500".as_ref()])
            .map_err(text)?;
        let after = gateway.dropped_packets().map_err(text)?;
        match (port, tried.success(), after > before) {
            (443, true, _) | (80, false, true) => {}
            _ => {
                let counted = after - before;
                return Err(format!("port {port}: {}; dropped {counted}", tried.stdout.trim()));
            }
        }
    }
    Ok(())
}

/// Nobody outside reaches the inside directly, and the gateway's counter shows that it was tried;
/// where the gateway filters nothing, nobody has a route.
fn verify_direct(lab: &Lab, inside: &Host<'_>, outside: &Host<'_>) -> Result<(), String> {
    let text = |error: LabError| error.to_string();
    let Some(outermost) = lab.gateways().first() else { return Ok(()) };
    let gateway = lab.host(&outermost.name);
    let peer = helper("lab-peer").map_err(text)?;
    let inside_net = if lab.gateways().len() == 1 { inside.address() } else { "100.64.0.2" };
    if outermost.firewall == Firewall::Open {
        let route = outside.run(["ip", "route", "get", inside_net]).map_err(text)?;
        return if route.success() { Err(route.stdout) } else { Ok(()) };
    }
    let before = gateway.dropped_packets().map_err(text)?;
    outside.route(&format!("{inside_net}/32"), gateway.address()).map_err(text)?;
    let at = format!("{inside_net}:7");
    let tried = outside
        .run([peer.as_os_str(), "connect".as_ref(), at.as_ref(), "--within-ms=300".as_ref()])
        .map_err(text)?;
    outside.run_ok(["ip", "route", "del", &format!("{inside_net}/32")]).map_err(text)?;
    let after = gateway.dropped_packets().map_err(text)?;
    if tried.success() || after <= before {
        return Err(format!(
            "{inside_net} was tried directly: {}; {before} packets dropped before, {after} after",
            tried.stdout.trim()
        ));
    }
    Ok(())
}
