//! The lab's probe of NATs; see `netns_tests::console`. Also holds a lab for the test that kills it.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::process::ExitCode;

use clap::Parser;
use netns_tests::{Firewall, LabError, Nat, Nat6, Topology, console, helper};

#[derive(Debug, Parser)]
enum Probe {
    /// Sockets told by lines on standard input.
    Console {
        /// The family: 4 or 6.
        family: u8,
        /// The ports to bind.
        ports: Vec<u16>,
    },
    /// Builds the standard lab with a process in it, prints their numbers, and waits for its end.
    Hold,
    /// Builds labs that need most of the machine, verifies them, and ends.
    Verify,
}

fn main() -> ExitCode {
    let outcome = match Probe::parse() {
        Probe::Console { family, ports } => {
            console(family == 6, &ports).map_err(|error| error.to_string())
        }
        Probe::Hold => hold().map_err(|error| error.to_string()),
        Probe::Verify => verify().map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold() -> Result<(), LabError> {
    let lab = Topology::STANDARD.build("hold")?;
    let probe = helper("lab-probe")?;
    let mut process = lab.host("icp").spawn_console([
        probe.as_os_str(),
        "console".as_ref(),
        "4".as_ref(),
        "9".as_ref(),
    ])?;
    process.wait_for_log("ready", netns_tests::SHORT)?;
    println!("holding {} {} {}", lab.anchor_pid(), process.pid(), lab.path().display());
    let mut rest = Vec::new();
    if let Err(error) = io::stdin().read_to_end(&mut rest) {
        eprintln!("lab-probe: {error}");
    }
    Ok(())
}

fn verify() -> Result<(), LabError> {
    // What needs most of the kernel: an address set, prefix translation, marks and byte matching.
    let cone = Nat::RestrictedCone { inside: "192.168.50.2" };
    Topology::Single(cone, Firewall::Outbound).build_paced("verify-set")?;
    Topology::V6 { nat: Nat6::PrefixTranslation, v4: true }.build_paced("verify-v6")?;
    let tls = Topology::Single(Nat::PortRestricted, Firewall::TlsOnly).build_paced("verify-tls")?;
    tls.verify_firewall("icp", "ext")?;
    drop(tls);
    let lab = Topology::STANDARD.build_verified("verify")?;
    println!("verified, {}", if lab.rootless() { "rootless" } else { "as root" });
    Ok(())
}
