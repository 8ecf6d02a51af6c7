//! Probes a NAT's mapping and filtering as RFC 4787 describes, and a firewall's refusals.
//!
//! From one inside port, ask two ports of one host and one port of another which address they see:
//! that is the mapping. From a fresh port, address only the first, then let all three send: whoever
//! is heard tells the filtering. What must be heard is sent last, so that silence means something.
//! The same by TCP, where to be heard is to be connected.

mod console;
mod firewall;
mod translation;

use crate::{Behaviour, Firewall, Host, Lab, LabError};

pub use console::console;
pub(crate) use firewall::verify_firewall;

/// See [`Lab::verify_nat`].
pub(crate) fn verify(
    lab: &Lab,
    inside: &Host<'_>,
    first: &Host<'_>,
    second: &Host<'_>,
) -> Result<(), LabError> {
    for (promised, v6) in [(lab.promised(), false), (lab.promised6(), true)] {
        let Some(promised) = promised else { continue };
        let way = translation::Way::open(lab)?;
        let seen = translation::observe(inside, first, second, v6)?;
        way.close()?;
        for (protocol, seen) in [("UDP", seen.udp), ("TCP", seen.tcp)] {
            // By TCP everything follows the same rules, but for one firewall's few ports, which say
            // nothing of who is let in, or of the address.
            let ten_ports = protocol == "TCP"
                && lab
                    .gateways()
                    .iter()
                    .any(|gateway| gateway.firewall == Firewall::PortExhaustion);
            let promised = if ten_ports {
                Behaviour { filtering: promised.filtering, pooling: promised.pooling, ..seen }
            } else {
                promised
            };
            if seen != promised {
                let family = if v6 { "IPv6" } else { "IPv4" };
                let seen = format!("{protocol} on {family}: promised {promised}; seen {seen}");
                return Err(misbehaved(lab, seen));
            }
        }
        direct(lab, inside, first, v6)?;
    }
    Ok(())
}

fn misbehaved(lab: &Lab, seen: String) -> LabError {
    let gateways = lab.gateways().iter().map(|gateway| {
        format!("{} {:?} {:?} {:?}", gateway.name, gateway.nat, gateway.nat6, gateway.firewall)
    });
    LabError::Misbehaved { preset: gateways.collect::<Vec<_>>().join("; "), seen }
}

/// Nobody outside reaches the inside directly, and the gateway's counter shows that it was tried;
/// where the gateway filters nothing, nobody has a route.
fn direct(lab: &Lab, inside: &Host<'_>, outside: &Host<'_>, v6: bool) -> Result<(), LabError> {
    let Some(outermost) = lab.gateways().first() else { return Ok(()) };
    let gateway = lab.host(&outermost.name);
    let target = match (v6, lab.gateways().len()) {
        (true, _) => inside.address6().unwrap_or_default(),
        (false, 1) => inside.address(),
        (false, _) => lab.gateway().address(),
    };
    if outermost.firewall == Firewall::Open {
        let route = outside.run(["ip", "route", "get", target])?;
        return if route.success() { Err(misbehaved(lab, route.stdout)) } else { Ok(()) };
    }
    let before = gateway.dropped_packets()?;
    let via = if v6 { gateway.address6().unwrap_or_default() } else { gateway.address() };
    let single = format!("{target}/{}", if v6 { 128 } else { 32 });
    outside.route(&single, via)?;
    // A SYN that leaves is at the gateway before `connect` waits; nothing needs a time.
    let tried =
        outside.play("connect", &crate::lab::socket_address(target, 7), &["--within-ms=100"]);
    outside.run_ok(["ip", "route", "del", &single])?;
    let after = gateway.dropped_packets()?;
    if tried.is_ok() || after <= before {
        return Err(misbehaved(
            lab,
            format!(
                "{target} was tried directly: {tried:?}; {before} packets dropped before, {after} after"
            ),
        ));
    }
    Ok(())
}
