//! QUIC through the gateway, by a client and a server that know nothing of the tunnel.

use std::fs;

use netns_tests::{Daemon, Lab, LabError, SHORT, Topology, Tunnel, TunnelBuilder, wait_until};

type Outcome = Result<(), LabError>;

/// The gateway's rule that stops UDP.
const STOPPED: &str = "stopped-udp";

/// A lab whose gateway lets UDP out, or does not.
fn lab(name: &str, lets_udp_out: bool) -> Result<Lab, LabError> {
    let lab = Topology::STANDARD.build_verified(name)?;
    if !lets_udp_out {
        block(&lab)?;
    }
    Ok(lab)
}

fn block(lab: &Lab) -> Outcome {
    lab.gateway()
        .shell(&format!("iptables -w -I FORWARD -p udp -m comment --comment {STOPPED} -j DROP"))?;
    Ok(())
}

fn path(tunnel: &Tunnel<'_>, daemon: Daemon) -> Option<String> {
    let status = tunnel.status(daemon).ok()?;
    let session = match daemon {
        Daemon::Forwarder => &status,
        Daemon::Relay => &status["forwarders"][0],
    };
    session["datagrams"]["path"].as_str().map(str::to_owned)
}

/// Starts, and waits until datagrams have their way: their own path, or none if UDP is stopped.
fn start<'a>(
    plan: TunnelBuilder,
    lab: &'a Lab,
    lets_udp_out: bool,
) -> Result<Tunnel<'a>, LabError> {
    let mut tunnel = plan.start(lab)?;
    tunnel.process_mut(Daemon::Forwarder)?.wait_for_log("registered", SHORT)?;
    if lets_udp_out {
        wait_until(SHORT, "the datagram path", || {
            path(&tunnel, Daemon::Relay).is_some() && path(&tunnel, Daemon::Forwarder).is_some()
        })?;
    } else {
        wait_until(SHORT, "the gateway to stop a packet of the path", || {
            lab.gateway().rule_packets("FORWARD", STOPPED).is_ok_and(|packets| packets > 0)
        })?;
    }
    Ok(tunnel)
}

/// At the end nothing has gone another way than the one that was meant.
fn assert_way(tunnel: &Tunnel<'_>, lets_udp_out: bool) {
    for daemon in [Daemon::Relay, Daemon::Forwarder] {
        assert_eq!(path(tunnel, daemon).is_some(), lets_udp_out, "{daemon:?}");
    }
}

/// A file comes over QUIC, whole.
fn a_file_comes_over_quic(lets_udp_out: bool) -> Outcome {
    let lab = lab(if lets_udp_out { "quic-open" } else { "quic-stopped" }, lets_udp_out)?;
    let (ext, peer3) = (lab.host("ext"), lab.host("peer3"));
    let folder = lab.path().display().to_string();
    peer3.shell(&format!(
        "mkdir -p {folder}/www {folder}/got; head -c 3000000 /dev/urandom > {folder}/www/file; \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -subj /CN=inside.test -keyout {folder}/quic.key -out {folder}/quic.crt 2>&1"
    ))?;
    let (key, crt) = (format!("{folder}/quic.key"), format!("{folder}/quic.crt"));
    let www = format!("--htdocs={folder}/www");
    let _server = peer3.spawn(["gtlsserver", "-q", &www, "192.168.50.3", "4433", &key, &crt])?;
    wait_until(SHORT, "the QUIC server", || {
        let sockets = peer3.run(["ss", "-Hlun", "sport = :4433"]);
        sockets.is_ok_and(|output| !output.stdout.trim().is_empty())
    })?;
    let tunnel =
        start(Tunnel::builder().udp_peer("quic", "192.168.50.3:4433", 8043), &lab, lets_udp_out)?;
    let got = format!("--download={folder}/got");
    ext.run_ok([
        "timeout",
        "60",
        "gtlsclient",
        "-q",
        "--exit-on-all-streams-close",
        &got,
        "203.0.113.20",
        "8043",
        "https://inside.test/file",
    ])?;
    let read = |name: &str| fs::read(lab.path().join(name)).expect("a file of the test");
    assert!(read("www/file") == read("got/file"), "the file differs");
    assert_way(&tunnel, lets_udp_out);
    Ok(())
}

/// Where UDP is let out.
#[test]
fn a_file_comes_over_quic_on_the_path() -> Outcome {
    a_file_comes_over_quic(true)
}

/// Where it is stopped.
#[test]
fn a_file_comes_over_quic_on_the_carrier() -> Outcome {
    a_file_comes_over_quic(false)
}
