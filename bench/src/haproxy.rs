//! The comparison with a proxy: the same double hop by haproxy, which either copies or, where it is
//! forced to, splices. It is measured where it is installed; nothing here installs it.
//!
//! `splice-auto` is absent: on this path it never engages.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use netns_tests::{Host, Lab, Process};

use crate::bed::{PEER, lead_in, listening};
use crate::error::BenchError;
use crate::machine;
use crate::way::{SERVICES, Service, Way};

/// The program: `$HAPROXY_BIN`, or what the search path has.
pub(crate) fn program() -> Option<PathBuf> {
    machine::installed("haproxy", "HAPROXY_BIN")
}

/// Starts a haproxy on the relay's host and one inside, and lets the gateway pass the first on to
/// the second.
pub(crate) fn start(lab: &Lab, way: Way) -> Result<Vec<Process>, BenchError> {
    let program = program().ok_or_else(|| BenchError::unexpected("haproxy", "not installed"))?;
    let (relay, gateway, icp) = (lab.host("relay"), lab.gateway(), lab.host("icp"));
    for service in SERVICES {
        let port = way.entry_port(service);
        lead_in(&gateway, "tcp", port, icp.address())?;
    }
    let peer = lab.host(PEER).address();
    let inside = file(way, |service| format!("{peer}:{}", service.port));
    let outside = file(way, |service| format!("{}:{}", gateway.address(), way.entry_port(service)));
    let inside = run(&icp, &program, way, &inside)?;
    Ok(vec![run(&relay, &program, way, &outside)?, inside])
}

/// One listener for each service, and where it leads to. Without `maxconn` it takes as many
/// connections as its limit of open files allows, and refuses to start with more.
fn file(way: Way, to: impl Fn(Service) -> String) -> String {
    let splice = match way {
        Way::HaproxySplice => "    option splice-request\n    option splice-response\n",
        _ => "",
    };
    let mut text = format!(
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    \
         timeout server 1h\n{splice}"
    );
    for service in SERVICES {
        let (name, port, to) = (service.name, way.entry_port(service), to(service));
        // Writing to a String cannot fail.
        let written =
            write!(text, "listen {name}\n    bind 0.0.0.0:{port}\n    server next {to}\n");
        debug_assert!(written.is_ok());
    }
    text
}

fn run(host: &Host<'_>, program: &Path, way: Way, text: &str) -> Result<Process, BenchError> {
    let kind = if way == Way::HaproxySplice { "splice" } else { "copy" };
    let path = host.lab().path().join(format!("haproxy-{kind}-{}.cfg", host.name()));
    fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    let process =
        host.spawn([program.as_os_str(), "-db".as_ref(), "-f".as_ref(), path.as_os_str()])?;
    for service in SERVICES {
        listening(host, way.entry_port(service))?;
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the way that says so splices.
    #[test]
    fn splice_is_forced_only_where_asked_for() {
        let file = |way| file(way, |service| format!("192.0.2.1:{}", service.port));
        assert!(file(Way::HaproxySplice).contains("option splice-response"));
        assert!(!file(Way::Haproxy).contains("splice"));
        assert!(file(Way::Haproxy).contains("server next 192.0.2.1:5007"));
    }
}
