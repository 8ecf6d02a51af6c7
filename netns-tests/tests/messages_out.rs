//! Registered internal peers reach external peers through the tunnel: those with a name, and
//! addresses that the relay dials; and external peers with a name reach private contact points.

use std::fs;

use netns_tests::{
    Daemon, Host, LONG, Lab, LabError, Process, SHORT, Topology, Tunnel, nginx, sshd, wait_until,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), LabError>;

/// The forwarder's way out: a named external peer, an address, and SOCKS5.
const WAYS_OUT: &str = "\
[[listener]]
name = \"laptop\"
listen = \"192.168.50.2:9000\"
to = \"name:laptop-web\"
[[listener]]
name = \"outside\"
listen = \"192.168.50.2:9001\"
to = \"address:203.0.113.10:8080\"
[socks]
listen = \"192.168.50.2:1080\"
";
const POLICY: &str = "names = [\"db\"]\ncalls = [\"laptop-*\"]\ndials = [\"203.0.113.10:8080\"]\n";

fn standard(name: &str) -> Result<Lab, LabError> {
    Topology::STANDARD.build_verified(name)
}

/// A web server outside, with a page; returns what a reader is to get.
fn web(host: &Host<'_>) -> Result<(Process, String), LabError> {
    let root = host.lab().path().join("www");
    fs::create_dir_all(&root).expect("a file of the test");
    let page: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    fs::write(root.join("page"), &page).expect("a file of the test");
    Ok((nginx(host, 8080, &root)?, page))
}

fn fetch(from: &Host<'_>, words: &[&str]) -> Result<String, LabError> {
    let words = [&["curl", "-sS", "--fail", "--max-time", "10"], words].concat();
    Ok(from.run_ok(words)?.stdout)
}

/// Peers 3 and 4 are inside; only 3 is registered.
fn tunnel(lab: &Lab) -> Result<Tunnel<'_>, LabError> {
    let laptop = "names = [\"laptop-web\"]\ncalls = [\"db\"]\n";
    let plan = Tunnel::builder().peer("three", "192.168.50.3:7", 8003).policy(POLICY);
    plan.tail(WAYS_OUT).external("laptop", laptop).start(lab)
}

/// A registered internal peer fetches from the web server of an external peer that has a name and
/// no address that anybody knows.
#[test]
fn a_registered_peer_reaches_a_named_external_peer() -> Outcome {
    let lab = standard("named")?;
    let (ext, tunnel) = (lab.host("ext"), tunnel(&lab)?);
    let (_web, page) = web(&ext)?;
    let offer = ["--serve", "laptop-web=203.0.113.10:8080"];
    let mut laptop = tunnel.connect(&ext, "laptop", &offer)?;
    laptop.wait_for_log("registered", SHORT)?;
    let there = "http://192.168.50.2:9000/page";
    assert!(fetch(&lab.host("peer3"), &[there])? == page);
    let by_socks = ["--socks5-hostname", "192.168.50.2:1080", "http://laptop-web.adit/page"];
    assert!(fetch(&lab.host("peer3"), &by_socks)? == page);
    Ok(())
}

/// A registered internal peer reaches an address that the relay's policy names, by a listener and
/// by SOCKS5, and no other.
#[test]
fn a_registered_peer_reaches_an_allowed_address_and_no_other() -> Outcome {
    let lab = standard("address")?;
    let (ext, peer3, mut tunnel) = (lab.host("ext"), lab.host("peer3"), tunnel(&lab)?);
    let (_web, page) = web(&ext)?;
    let _other = ext.serve("echo", 8081, &[])?;
    let socks = "192.168.50.2:1080";
    assert!(fetch(&peer3, &["http://192.168.50.2:9001/page"])? == page);
    assert!(fetch(&peer3, &["--socks5", socks, "http://203.0.113.10:8080/page"])? == page);
    let refused = fetch(&peer3, &["--socks5", socks, "http://203.0.113.10:8081/"]);
    assert!(refused.is_err(), "{refused:?}");
    wait_until(SHORT, "the relay to count it", || {
        tunnel.refused("dial_forbidden").is_ok_and(|n| n >= 1)
    })?;
    assert!(tunnel.process_mut(Daemon::Relay)?.runs());
    Ok(())
}

/// A host inside that is not registered is turned away at each way out; once it registers it is
/// not, and when it unregisters it is again.
#[test]
fn a_host_that_is_not_registered_is_refused() -> Outcome {
    let lab = standard("unregistered")?;
    let (ext, peer4, tunnel) = (lab.host("ext"), lab.host("peer4"), tunnel(&lab)?);
    let (_web, page) = web(&ext)?;
    let ways: [&[&str]; 2] = [
        &["http://192.168.50.2:9001/page"],
        &["--socks5", "192.168.50.2:1080", "http://203.0.113.10:8080/page"],
    ];
    let is_let_out = |way: &[&str]| fetch(&peer4, way).is_ok_and(|got| got == page);
    assert!(ways.iter().all(|way| !is_let_out(way)));
    let register = ["register", "four", "tcp", "192.168.50.4:7", "--contact", "public:8004"];
    assert!(tunnel.ask(Daemon::Forwarder, &register)?.success());
    for way in ways {
        wait_until(SHORT, "the registered peer to be let out", || is_let_out(way))?;
    }
    assert!(tunnel.ask(Daemon::Forwarder, &["unregister", "four"])?.success());
    for way in ways {
        wait_until(SHORT, "the peer to be refused again", || !is_let_out(way))?;
    }
    Ok(())
}

/// An external peer with a key reaches a private contact point by its name; without the right to
/// call it, or for a name that is none, it is refused in the same words.
#[test]
fn a_private_contact_point_is_reached_by_name() -> Outcome {
    let lab = standard("private")?;
    let (ext, tunnel) = (lab.host("ext"), tunnel(&lab)?);
    let _echo = lab.host("peer4").serve("echo", 7, &[])?;
    let register = ["register", "db", "tcp", "192.168.50.4:7", "--contact", "private"];
    let output = tunnel.ask(Daemon::Forwarder, &register)?;
    assert!(output.success(), "{}", output.stderr);
    let listen = ["db", "--listen", "127.0.0.1:7000"];
    let mut caller = tunnel.connect(&ext, "laptop", &listen)?;
    caller.wait_for_log("tunnel up", SHORT)?;
    ext.play("half-close", "127.0.0.1:7000", &["8000000"])?;
    let refusal = |name: &str| -> Result<String, LabError> {
        let mut command = tunnel.connect_command("laptop");
        command.extend([name.to_owned(), "--stdio".to_owned()]);
        let output = ext.run(command)?;
        assert!(!output.success());
        Ok(output.stderr.replace(name, "NAME"))
    };
    // The first is registered by nobody; the second is, and this key may not call it.
    let (unknown, forbidden) = (refusal("nothing")?, refusal("three")?);
    assert_eq!(unknown, forbidden);
    assert!(unknown.contains("NAME"), "{unknown}");
    Ok(())
}

/// ssh, and scp of 100 MiB, through `ProxyCommand adit connect --stdio` to an sshd inside.
#[test]
fn ssh_goes_through_a_proxy_command() -> Outcome {
    let lab = standard("ssh")?;
    let (ext, tunnel) = (lab.host("ext"), tunnel(&lab)?);
    let (_sshd, key) = sshd(&lab.host("peer4"), 22)?;
    let register = ["register", "db", "tcp", "192.168.50.4:22", "--contact", "private"];
    assert!(tunnel.ask(Daemon::Forwarder, &register)?.success());
    let command = format!("{} db --stdio", tunnel.connect_command("laptop").join(" "));
    let options = format!(
        "-i {key} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o 'ProxyCommand={command}'"
    );
    let said = ext.shell(&format!("ssh {options} root@db echo hello from inside"))?.stdout;
    assert_eq!(said.trim(), "hello from inside");
    let folder = lab.path().display();
    let sums = ext.shell(&format!(
        "head -c 104857600 /dev/urandom > {folder}/sent; \
         scp -O -q {options} {folder}/sent root@db:{folder}/received; \
         sha256sum < {folder}/sent; sha256sum < {folder}/received"
    ))?;
    let sums: Vec<_> = sums.stdout.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
    Ok(())
}

/// Who connects to a listener inside while there is no tunnel waits, and is let through when it is
/// back.
#[test]
fn who_waits_at_a_listener_is_let_through_when_the_tunnel_is_back() -> Outcome {
    let lab = standard("waits")?;
    let (ext, peer3, mut tunnel) = (lab.host("ext"), lab.host("peer3"), tunnel(&lab)?);
    let (_web, page) = web(&ext)?;
    let there = "http://192.168.50.2:9001/page";
    assert!(fetch(&peer3, &[there])? == page);
    // Told to end, the relay ends the session; the next one begins with nobody registered.
    tunnel.process_mut(Daemon::Relay)?.signal(Signal::SIGTERM)?;
    tunnel.process_mut(Daemon::Forwarder)?.wait_for_log("tunnel down", SHORT)?;
    let folder = lab.path().display();
    let script = format!("curl -sS --fail --max-time 30 -o {folder}/got {there} && echo fetched");
    let mut waiting = peer3.spawn(["sh", "-c", &script])?;
    let waits = ["ss", "-Htn", "state", "established", "dst", "192.168.50.2"];
    wait_until(SHORT, "curl to wait at the listener", || {
        peer3.run(waits).is_ok_and(|output| output.stdout.contains(":9001"))
    })?;
    tunnel.restart(Daemon::Relay)?;
    assert!(waiting.finish(LONG)?.contains("fetched"));
    assert!(fs::read_to_string(lab.path().join("got")).expect("the page") == page);
    Ok(())
}

/// Two programs on one host call with one key at once, and neither takes the other's tunnel.
#[test]
fn one_key_calls_twice_at_once() -> Outcome {
    let lab = standard("twice")?;
    let (ext, tunnel) = (lab.host("ext"), tunnel(&lab)?);
    let _echo = lab.host("peer4").serve("echo", 7, &[])?;
    let register = ["register", "db", "tcp", "192.168.50.4:7", "--contact", "private"];
    assert!(tunnel.ask(Daemon::Forwarder, &register)?.success());
    let mut callers = Vec::new();
    for port in ["7001", "7002"] {
        let at = format!("127.0.0.1:{port}");
        let mut caller = tunnel.connect(&ext, "laptop", &["db", "--listen", &at])?;
        caller.wait_for_log("tunnel up", SHORT)?;
        let mut pulse = ext.play_on("pulse", &at, &[])?;
        pulse.wait_for_log("beating", SHORT)?;
        callers.push((caller, pulse));
    }
    ext.play("half-close", "127.0.0.1:7001", &["4000000"])?;
    for (caller, mut pulse) in callers {
        let said = pulse.finish(SHORT)?;
        assert!(said.contains("slowest"), "{said}");
        drop(caller);
    }
    Ok(())
}
