//! What an operator does: log in through the tunnel, reload, restart, stop.

use std::time::Duration;

use nix::sys::signal::Signal;

use netns_tests::{
    Daemon, Host, Lab, LabError, Peer, Process, SHORT, Topology, Tunnel, sshd, wait_until,
};

type Outcome = Result<(), LabError>;

/// How long a reconnection may take: the back-off's first steps, on a busy machine.
const RECONNECTION: Duration = Duration::from_secs(20);

/// The standard lab's echo, behind port 8003.
fn echo_and_tunnel(lab: &Lab) -> Result<(Process, Tunnel<'_>), LabError> {
    let echo = lab.host("peer3").serve("echo", 7, &[])?;
    Ok((echo, Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(lab)?))
}

fn works(ext: &Host<'_>, contact: &str) -> bool {
    ext.play("half-close", contact, &["1000"]).is_ok()
}

/// ssh logs in, runs a command, and copies data through the tunnel.
#[test]
fn ssh_works_through_the_tunnel() -> Outcome {
    let lab = Topology::STANDARD.build_verified("ssh")?;
    let (_sshd, key) = sshd(&lab.host("peer3"), 22)?;
    let _tunnel = Tunnel::builder().peer("ssh", "192.168.50.3:22", 2222).start(&lab)?;
    let ssh = format!(
        "ssh -F none -i {key} -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o IdentitiesOnly=yes -o LogLevel=ERROR root@203.0.113.20"
    );
    let ext = lab.host("ext");
    let said = ext.shell(&format!("{ssh} hostname -I || {ssh} ip -4 -br addr"))?.stdout;
    assert!(said.contains("192.168.50.3"), "{said}");
    let sums = ext.shell(&format!(
        "head -c 20000000 /dev/urandom > /run/sent; sha256sum < /run/sent; \
         {ssh} 'cat > /run/received' < /run/sent; {ssh} sha256sum < /dev/null '</run/received'"
    ))?;
    let sums: Vec<_> = sums.stdout.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
    Ok(())
}

/// A daemon told to end lets the running flows finish, takes no new ones, and ends well.
fn term_drains(daemon: Daemon, name: &str) -> Outcome {
    let lab = Topology::STANDARD.build(name)?;
    let (_echo, mut tunnel) = echo_and_tunnel(&lab)?;
    let mut hold = lab.host("ext").play_on("hold", &tunnel.contact(8003), &["5"])?;
    hold.wait_for_log("holding 5", SHORT)?;
    tunnel.process_mut(daemon)?.signal(Signal::SIGTERM)?;
    let contact = tunnel.contact(8003);
    wait_until(SHORT, "new connections to be refused", || !works(&lab.host("ext"), &contact))?;
    assert!(hold.finish(SHORT)?.contains("released 5"), "a running flow was cut");
    let status = tunnel.process_mut(daemon)?.wait(RECONNECTION)?;
    assert!(status.success(), "{daemon:?} ended with {status}");
    Ok(())
}

/// The forwarder drains.
#[test]
fn term_drains_the_forwarder() -> Outcome {
    term_drains(Daemon::Forwarder, "drain-forwarder")
}

/// The relay drains.
#[test]
fn term_drains_the_relay() -> Outcome {
    term_drains(Daemon::Relay, "drain-relay")
}

/// A reload adds and removes peers, and leaves the flows of the others alone.
#[test]
fn reload_adds_and_removes_peers() -> Outcome {
    let lab = Topology::STANDARD.build("reload")?;
    let (_echo, mut tunnel) = echo_and_tunnel(&lab)?;
    let ext = lab.host("ext");
    let mut pulse = ext.play_on("pulse", &tunnel.contact(8003), &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    let added = Peer {
        name: "added".to_owned(),
        target: "192.168.50.3:7".to_owned(),
        protocol: "tcp",
        port: 8004,
    };
    assert!(!works(&ext, &tunnel.contact(8004)));
    tunnel.peers_mut().push(added);
    tunnel.write_configurations()?;
    tunnel.reload()?;
    tunnel.wait_registered()?;
    assert!(works(&ext, &tunnel.contact(8004)));
    tunnel.peers_mut().retain(|peer| peer.name != "added");
    tunnel.write_configurations()?;
    tunnel.reload()?;
    let gone = tunnel.contact(8004);
    wait_until(SHORT, "the removed contact point to go", || !works(&ext, &gone))?;
    assert!(works(&ext, &tunnel.contact(8003)));
    pulse.finish(SHORT)?;
    Ok(())
}

/// A configuration with a mistake is refused at a reload, and the old one stays in force.
#[test]
fn broken_reload_changes_nothing() -> Outcome {
    let lab = Topology::STANDARD.build("broken-reload")?;
    let (_echo, mut tunnel) = echo_and_tunnel(&lab)?;
    let file = lab.path().join("adit.toml");
    std::fs::write(&file, "rely = \"203.0.113.20:443\"\n").expect("a file");
    tunnel.reload()?;
    tunnel.process_mut(Daemon::Forwarder)?.wait_for_log("rely", SHORT)?;
    assert!(works(&lab.host("ext"), &tunnel.contact(8003)));
    Ok(())
}

/// After a killed daemon is started again, the contact point serves again, without help.
fn restart_reconnects(daemon: Daemon, name: &str) -> Outcome {
    let lab = Topology::STANDARD.build(name)?;
    let (_echo, mut tunnel) = echo_and_tunnel(&lab)?;
    let ext = lab.host("ext");
    assert!(works(&ext, &tunnel.contact(8003)));
    tunnel.restart(daemon)?;
    let contact = tunnel.contact(8003);
    wait_until(RECONNECTION, "the contact point to serve again", || works(&ext, &contact))
}

/// The forwarder is killed.
#[test]
fn killed_forwarder_comes_back() -> Outcome {
    restart_reconnects(Daemon::Forwarder, "restart-forwarder")
}

/// The relay is killed.
#[test]
fn killed_relay_comes_back() -> Outcome {
    restart_reconnects(Daemon::Relay, "restart-relay")
}
