//! Pictures of topologies, drawn from what would be built.

mod svg;

use crate::{Gateway, LabBuilder, LabError, Topology};

pub use svg::svg;

/// The width of the picture's boxes, in letters.
const WIDTH: usize = 62;

/// What stands in a picture, from the outside inwards.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layer {
    /// A segment with its hosts.
    Segment { name: String, hosts: Vec<Placed> },
    /// A gateway between the segments before and after.
    Gateway { name: String, outside: String, inside: String, rules: String },
}

/// A host with its address, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    name: String,
    address: String,
    role: &'static str,
}

fn layers(builder: &LabBuilder) -> Vec<Layer> {
    let segment = |name: &str, owner: &str| {
        let is_gateway = |host: &str| builder.gateways().iter().any(|gateway| gateway.name == host);
        let hosts = builder
            .joined()
            .filter(|(host, _, holder)| *holder == owner && !is_gateway(host))
            .map(|(host, address, _)| Placed {
                name: host.to_owned(),
                address: address.join(", "),
                role: role(host),
            });
        Layer::Segment { name: name.to_owned(), hosts: hosts.collect() }
    };
    let mut layers = Vec::new();
    if let Some(outermost) = builder.gateways().first() {
        layers.push(segment(&outermost.outside, &outermost.outside));
    }
    for gateway in builder.gateways() {
        layers.push(Layer::Gateway {
            name: gateway.name.clone(),
            outside: gateway.outside_addresses.join(", "),
            inside: gateway.inside_addresses.join(", "),
            rules: rules(gateway),
        });
        layers.push(segment(&gateway.inside, &gateway.name));
    }
    layers
}

fn rules(gateway: &Gateway) -> String {
    let Gateway { nat, nat6, firewall, .. } = gateway;
    let has = |v6: bool| gateway.outside_addresses.iter().any(|at| at.contains(':') == v6);
    let mut rules = Vec::new();
    rules.extend(has(false).then(|| format!("NAT {nat:?}")));
    rules.extend(has(true).then(|| format!("IPv6 {nat6:?}")));
    rules.push(format!("firewall {firewall:?}"));
    rules.join(", ")
}

fn role(host: &str) -> &'static str {
    match host {
        "relay" => "adit-relay, port 443",
        "icp" => "adit, the forwarder",
        "ext" => "an external peer",
        _ => "an internal peer",
    }
}

/// The topology in letters.
///
/// # Errors
/// None at the moment.
pub fn ascii(topology: Topology) -> Result<String, LabError> {
    let mut lines = Vec::new();
    for layer in layers(&topology.draw("picture")) {
        match layer {
            Layer::Segment { name, hosts } => {
                lines.push(format!("  {name}"));
                for Placed { name, address, role } in hosts {
                    lines.push(format!("  ├── {name:8} {address:22} {role}"));
                }
                lines.push("  │".to_owned());
            }
            Layer::Gateway { name, outside, inside, rules } => {
                let bar = "─".repeat(WIDTH);
                lines.push(format!("┌─┴{bar}┐"));
                for text in [format!("{name}  {outside} outside, {inside} inside"), rules] {
                    lines.push(format!("│  {text:WIDTH$}│"));
                }
                lines.push(format!("└─┬{bar}┘"));
            }
        }
    }
    // Nothing is below the innermost segment.
    if lines.last().is_some_and(|line| line == "  │") {
        lines.pop();
        if let Some(last) = lines.last_mut() {
            *last = last.replace('├', "└");
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// Text between tags, and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::topologies;

    /// Every topology's picture shows every host and gateway that would be built, with its address.
    #[test]
    fn pictures_show_every_host() {
        for scenario in topologies() {
            let builder = scenario.topology().draw("picture");
            let (ascii, svg) = (ascii(scenario.topology()).unwrap(), svg(scenario.topology()));
            for (host, addresses, _) in builder.joined() {
                for shown in [host].into_iter().chain(addresses) {
                    assert!(ascii.contains(shown), "{shown}: {ascii}");
                    assert!(svg.contains(shown), "{shown}: {svg}");
                }
            }
        }
    }
}
