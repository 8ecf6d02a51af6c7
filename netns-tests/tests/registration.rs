//! Internal peers register at run time, for as long as they say so, and are reached for as long as
//! they are registered.

use std::fs;
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

/// An internal peer whose server dies is withdrawn, and comes back with it; who calls meanwhile is
/// turned away instead of being kept.
#[test]
fn a_dead_peer_is_withdrawn_until_it_lives_again() -> Outcome {
    let lab = standard("health")?;
    let echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().start(&lab)?;
    let contact = tunnel.contact(8003);
    let more = ["--contact", "public:8003", "--health", "1s"];
    register(&tunnel, "echo", "192.168.50.3:7", &more)?;
    assert!(answers(&lab, &contact));
    let is_listed = |state: &str| {
        let peers = tunnel.ask(Daemon::Forwarder, &["peers"]);
        peers.is_ok_and(|peers| peers.stdout.contains(state))
    };
    drop(echo);
    wait_until(SHORT, "the dead peer to be withdrawn", || is_listed("down"))?;
    wait_until(SHORT, "the port to be closed", || {
        lab.host("ext").play("connect", &contact, &[]).is_err()
    })?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    wait_until(SHORT, "the peer to be back", || answers(&lab, &contact))?;
    Ok(())
}

/// A real server that understands the PROXY protocol is told the external peer's address, in
/// either version; without it, it sees the internal contact point's.
#[test]
fn an_internal_peer_is_told_who_calls() -> Outcome {
    let lab = standard("proxy")?;
    let (ext, peer3) = (lab.host("ext"), lab.host("peer3"));
    let folder = lab.path().display();
    let server = |port: u16, how: &str, who: &str| {
        format!("server {{ listen 192.168.50.3:{port}{how}; return 200 ${who}; }}\n")
    };
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr notice; user root;\n\
         events {{ }}\nhttp {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
         fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{}{} }}\n",
        server(80, "", "remote_addr"),
        server(81, " proxy_protocol", "proxy_protocol_addr"),
    );
    let file = format!("{folder}/nginx.conf");
    fs::write(&file, configuration).expect("a file of the test");
    let _nginx = peer3.spawn(["nginx", "-e", "stderr", "-c", &file])?;
    let tunnel = Tunnel::builder().start(&lab)?;
    let cases: [(&str, &str, u16, &[&str], &str); 3] = [
        ("plain", "192.168.50.3:80", 8001, &[], "192.168.50.2"),
        ("first", "192.168.50.3:81", 8002, &["--proxy-protocol", "v1"], "203.0.113.10"),
        ("second", "192.168.50.3:81", 8003, &["--proxy-protocol", "v2"], "203.0.113.10"),
    ];
    for (name, at, port, more, seen) in cases {
        let contact = format!("public:{port}");
        register(&tunnel, name, at, &[&["--contact", contact.as_str()], more].concat())?;
        let url = format!("http://{}/", tunnel.contact(port));
        let mut said = String::new();
        wait_until(SHORT, "nginx to answer", || {
            said = ext.run(["curl", "-s", &url]).map(|output| output.stdout).unwrap_or_default();
            !said.is_empty()
        })?;
        assert_eq!(said.trim(), seen, "{name}");
    }
    Ok(())
}
