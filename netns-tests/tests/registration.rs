//! Internal peers register at run time, for as long as they say so, and are reached for as long as
//! they are registered.

use std::time::Duration;

use netns_tests::{Daemon, Lab, LabError, SHORT, Topology, Tunnel, wait_until};

type Outcome = Result<(), LabError>;

/// The shortest lease, and how long its end may take to show.
const LEASE: &str = "10s";
const LEASE_OVER: Duration = Duration::from_secs(14);

fn standard(name: &str) -> Result<Lab, LabError> {
    Topology::STANDARD.build_verified(name)
}

/// Registers a peer by the command line; the contact address is what that prints.
fn register(tunnel: &Tunnel<'_>, name: &str, at: &str, more: &[&str]) -> Result<String, LabError> {
    let words = [&["register", name, "tcp", at], more].concat();
    let output = tunnel.ask(Daemon::Forwarder, &words)?;
    assert!(output.success(), "{}{}", output.stdout, output.stderr);
    Ok(output.stdout)
}

/// Whether somebody outside reaches `contact` and hears back what it says.
fn answers(lab: &Lab, contact: &str) -> bool {
    lab.host("ext").play("half-close", contact, &["10000"]).is_ok()
}

/// A peer that registers at run time is told its contact address, is reached there, answers, and
/// is gone as soon as it unregisters.
#[test]
fn a_peer_registers_at_run_time_and_messages_go_in_and_back() -> Outcome {
    let lab = standard("register")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().start(&lab)?;
    let contact = tunnel.contact(8003);
    assert!(!answers(&lab, &contact), "the control: nothing is registered yet");
    let said = register(&tunnel, "echo", "192.168.50.3:7", &["--contact", "public:8003"])?;
    assert!(said.contains(&contact), "{said}");
    lab.host("ext").play("half-close", &contact, &["8000000"])?;
    let peers = tunnel.ask(Daemon::Forwarder, &["peers"])?.stdout;
    assert!(peers.contains("echo") && peers.contains("registered"), "{peers}");
    assert!(tunnel.ask(Daemon::Forwarder, &["unregister", "echo"])?.success());
    wait_until(SHORT, "the contact point to be gone", || !answers(&lab, &contact))?;
    Ok(())
}

/// Peers that registered at run time share the one connection through the gateway.
#[test]
fn one_connection_polls_for_all_registered_peers() -> Outcome {
    let lab = standard("poll")?;
    let tunnel = Tunnel::builder().start(&lab)?;
    let mut echoes = Vec::new();
    for (host, port) in [("peer3", 8003), ("peer4", 8004), ("peer5", 8005)] {
        let host = lab.host(host);
        echoes.push(host.serve("echo", 7, &[])?);
        let (at, contact) = (format!("{}:7", host.address()), format!("public:{port}"));
        register(&tunnel, host.name(), &at, &["--contact", &contact])?;
    }
    let mut holds = Vec::new();
    for port in [8003, 8004, 8005] {
        holds.push(lab.host("ext").play_on("hold", &tunnel.contact(port), &["20"])?);
    }
    for hold in &mut holds {
        hold.wait_for_log("holding 20", SHORT)?;
    }
    let crossing = lab.gateway().crossing_connections()?;
    assert_eq!(crossing.len(), 1, "{crossing:#?}");
    for hold in &mut holds {
        assert!(hold.finish(SHORT)?.contains("released 20"));
    }
    Ok(())
}

/// A peer that does not renew is gone when its lease ends; one that keeps renewing stays.
#[test]
fn a_lease_ends_unless_it_is_renewed() -> Outcome {
    let lab = standard("lease")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().start(&lab)?;
    let (silent, kept) = (tunnel.contact(8003), tunnel.contact(8004));
    let mut keeper = tunnel.ask_on(
        Daemon::Forwarder,
        &[
            "register",
            "kept",
            "tcp",
            "192.168.50.3:7",
            "--contact",
            "public:8004",
            "--lease",
            LEASE,
            "--keep",
        ],
    )?;
    keeper.wait_for_log(&kept, SHORT)?;
    register(&tunnel, "silent", "192.168.50.3:7", &["--contact", "public:8003", "--lease", LEASE])?;
    assert!(answers(&lab, &silent) && answers(&lab, &kept));
    wait_until(LEASE_OVER, "the lease to end", || !answers(&lab, &silent))?;
    assert!(answers(&lab, &kept), "the one that is renewed has gone, too");
    let peers = tunnel.ask(Daemon::Forwarder, &["peers"])?.stdout;
    assert!(!peers.contains("silent") && peers.contains("kept"), "{peers}");
    Ok(())
}

/// What the relay does not allow, and what somebody else has, is refused in words, and nothing
/// stays behind.
#[test]
fn a_registration_that_is_not_allowed_leaves_nothing() -> Outcome {
    let lab = standard("not-allowed")?;
    let tunnel = Tunnel::builder().peer("web", "192.168.50.3:7", 8001).start(&lab)?;
    let cases: [(&[&str], &str); 3] = [
        (&["register", "a", "tcp", "192.168.50.3:7", "--contact", "public:9999"], "9999"),
        (&["register", "web", "tcp", "192.168.50.4:7", "--contact", "public:8002"], "web"),
        (&["register", "b", "tcp", "192.168.50.3:7", "--contact", "public:8001"], "8001"),
    ];
    for (words, named) in cases {
        let output = tunnel.ask(Daemon::Forwarder, words)?;
        assert!(!output.success(), "{words:?}: {}", output.stdout);
        assert!(output.stderr.contains(named), "{words:?}: {}", output.stderr);
    }
    let peers = tunnel.status(Daemon::Forwarder)?;
    assert_eq!(peers["peers"].as_array().map(Vec::len), Some(1), "{peers}");
    Ok(())
}

/// A thousand registered peers share one tunnel; registering, renewing and dropping ten thousand
/// leaves no trace in memory or descriptors.
#[test]
fn thousands_of_registrations_come_and_go() -> Outcome {
    let lab = standard("thousands")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let mut tunnel = Tunnel::builder().allow(&["10000-10999"]).start(&lab)?;
    let socket = lab.path().join("adit.sock").display().to_string();
    let icp = lab.host("icp");
    let peers = ["192.168.50.3:7", "10000", "1000"];
    let churn =
        |rounds| icp.play("register", &socket, &[&peers[..], &["--rounds", rounds]].concat());
    // The first round makes the tables as large as they get.
    churn("1")?;
    let files = [tunnel.open_files(Daemon::Forwarder)?, tunnel.open_files(Daemon::Relay)?];
    let mut resident = |daemon| tunnel.process_mut(daemon)?.resident_bytes();
    let memory = [resident(Daemon::Forwarder)?, resident(Daemon::Relay)?];
    churn("10")?;
    for (index, daemon) in [Daemon::Forwarder, Daemon::Relay].into_iter().enumerate() {
        let what = format!("{daemon:?} to give its descriptors back");
        wait_until(SHORT, &what, || {
            tunnel.open_files(daemon).is_ok_and(|now| now <= files[index])
        })?;
        let grown = tunnel.process_mut(daemon)?.resident_bytes()?.saturating_sub(memory[index]);
        assert!(grown < 4 << 20, "{daemon:?} has grown by {grown} bytes");
    }
    icp.play("register", &socket, &peers)?;
    for port in [10_000, 10_123, 10_500, 10_999] {
        assert!(answers(&lab, &tunnel.contact(port)), "{port}");
    }
    assert_eq!(lab.gateway().crossing_connections()?.len(), 1);
    Ok(())
}
