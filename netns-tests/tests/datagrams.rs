//! Datagrams through the gateway, on a path of their own where it lets UDP out and on the carrier where
//! it does not, with real programs at both ends.

use std::fs;
use std::time::Duration;

use netns_tests::{
    Daemon, LONG, Lab, LabError, Process, SHORT, Topology, Tunnel, TunnelBuilder, wait_until,
};

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

fn unblock(lab: &Lab) -> Outcome {
    lab.gateway()
        .shell(&format!("iptables -w -D FORWARD -p udp -m comment --comment {STOPPED} -j DROP"))?;
    Ok(())
}

/// A UDP peer of the forwarder's configuration.
fn peer(name: &str, udp: &str, port: u16) -> String {
    format!("[[peer]]\nname = \"{name}\"\nudp = \"{udp}\"\ncontact = \"public:{port}\"\n")
}

fn plan(peers: &str) -> TunnelBuilder {
    Tunnel::builder().policy("udp_ports = [\"8000-8100\"]\n").tail(peers)
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

/// What a ping says of itself: answered, twice, altered, and the longest gap in milliseconds.
fn counts(said: &str) -> [u64; 4] {
    let words: Vec<&str> = said.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|found| *found == word);
        at.and_then(|at| words.get(at + 1)?.parse().ok())
    };
    let found = ["answered", "twice", "altered", "gap"].map(after);
    found.map(|count| count.unwrap_or_else(|| panic!("not a ping's last line: {said}")))
}

/// A name server inside answers the first question: nothing has to be asked twice.
fn a_name_server_inside_answers(lets_udp_out: bool) -> Outcome {
    let lab = lab(if lets_udp_out { "dns-open" } else { "dns-stopped" }, lets_udp_out)?;
    let mut server = lab.host("peer3").spawn([
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--log-facility=-",
        "--pid-file",
        "--user=root",
        "--listen-address=192.168.50.3",
        "--bind-interfaces",
        "--address=/inside.test/192.0.2.7",
    ])?;
    server.wait_for_log("started", SHORT)?;
    let plan = plan(&peer("dns", "192.168.50.3:53", 8053));
    let tunnel = start(plan, &lab, lets_udp_out)?;
    for name in 0..20 {
        let name = format!("host{name}.inside.test");
        let asked = ["dig", "+short", "+tries=1", "+time=2", "-p", "8053", "@203.0.113.20", &name];
        assert_eq!(lab.host("ext").run_ok(asked)?.stdout.trim(), "192.0.2.7");
    }
    assert_way(&tunnel, lets_udp_out);
    Ok(())
}

/// Where UDP is let out.
#[test]
fn a_name_server_inside_answers_over_udp() -> Outcome {
    a_name_server_inside_answers(true)
}

/// Where it is stopped.
#[test]
fn a_name_server_inside_answers_over_the_carrier() -> Outcome {
    a_name_server_inside_answers(false)
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
    let tunnel = start(plan(&peer("quic", "192.168.50.3:4433", 8043)), &lab, lets_udp_out)?;
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

/// A WireGuard server inside; a client outside sends a stream through it.
fn wireguard_carries_a_stream(lets_udp_out: bool) -> Outcome {
    let lab = lab(if lets_udp_out { "wg-open" } else { "wg-stopped" }, lets_udp_out)?;
    let (ext, peer3) = (lab.host("ext"), lab.host("peer3"));
    let keys = |name: &str| -> Result<String, LabError> {
        let file = lab.path().join(format!("{name}.wg")).display().to_string();
        let made = ext.shell(&format!("umask 77; wg genkey > {file}; wg pubkey < {file}"))?;
        Ok(made.stdout.trim().to_owned())
    };
    let (server_key, client_key) = (keys("server")?, keys("client")?);
    let mut processes: Vec<Process> = Vec::new();
    for (host, device, own, address, other, at) in [
        (&peer3, "wg3", "server", "10.9.0.1/24", &client_key, "allowed-ips 10.9.0.2/32"),
        (
            &ext,
            "wge",
            "client",
            "10.9.0.2/24",
            &server_key,
            "allowed-ips 10.9.0.1/32 endpoint 203.0.113.20:8051",
        ),
    ] {
        processes.push(host.spawn(["wireguard-go", "-f", device])?);
        wait_until(SHORT, "the WireGuard device", || {
            host.run(["ip", "link", "show", device]).is_ok_and(|output| output.success())
        })?;
        let key = lab.path().join(format!("{own}.wg")).display().to_string();
        host.shell(&format!(
            "wg set {device} listen-port 51820 private-key {key} peer {other} {at}; \
             ip address add {address} dev {device}; ip link set {device} mtu 1420 up"
        ))?;
    }
    let tunnel = start(plan(&peer("wg", "192.168.50.3:51820", 8051)), &lab, lets_udp_out)?;
    let mut sink = peer3.spawn(["socat", "-u", "TCP-LISTEN:7000", "SYSTEM:sha256sum"])?;
    wait_until(SHORT, "the stream's end", || {
        let sockets = peer3.run(["ss", "-Hltn", "sport = :7000"]);
        sockets.is_ok_and(|output| !output.stdout.trim().is_empty())
    })?;
    let file = lab.path().join("stream").display().to_string();
    ext.shell(&format!("head -c 20000000 /dev/urandom > {file}"))?;
    ext.run_ok(["timeout", "60", "socat", "-u", &format!("FILE:{file}"), "TCP:10.9.0.1:7000"])?;
    let sum = ext.run_ok(["sha256sum", &file])?.stdout;
    let sum = sum.split_whitespace().next().expect("a checksum").to_owned();
    sink.wait_for_log(&sum, LONG)?;
    assert_way(&tunnel, lets_udp_out);
    Ok(())
}

/// Where UDP is let out.
#[test]
fn wireguard_carries_a_stream_on_the_path() -> Outcome {
    wireguard_carries_a_stream(true)
}

/// Where it is stopped.
#[test]
fn wireguard_carries_a_stream_on_the_carrier() -> Outcome {
    wireguard_carries_a_stream(false)
}

/// iperf3's datagrams arrive in both directions, all but a few.
fn iperf3_counts_what_arrives(lets_udp_out: bool) -> Outcome {
    let lab = lab(if lets_udp_out { "iperf-open" } else { "iperf-stopped" }, lets_udp_out)?;
    let _server = netns_tests::iperf3_server(&lab.host("peer3"), 5201)?;
    let plan = plan(&peer("iperf-udp", "192.168.50.3:5201", 8001));
    let plan = plan.peer("iperf", "192.168.50.3:5201", 8001);
    let tunnel = start(plan, &lab, lets_udp_out)?;
    for direction in [&[][..], &["--reverse"]] {
        let run = ["iperf3", "-u", "-c", "203.0.113.20", "-p", "8001", "-b", "20M", "-t", "3"];
        let run = [&run[..], &["-l", "1200", "--json"], direction].concat();
        let said = lab.host("ext").run_ok(run)?.stdout;
        let said: serde_json::Value = serde_json::from_str(&said).expect("iperf3 speaks JSON");
        let sum = &said["end"]["sum"];
        let lost = sum["lost_percent"].as_f64().expect("a share that was lost");
        assert!(sum["packets"].as_u64().is_some_and(|packets| packets > 1_000), "{sum}");
        assert!(lost < 5.0, "{sum}");
    }
    assert_way(&tunnel, lets_udp_out);
    Ok(())
}

/// Where UDP is let out.
#[test]
fn iperf3_counts_what_arrives_on_the_path() -> Outcome {
    iperf3_counts_what_arrives(true)
}

/// Where it is stopped.
#[test]
fn iperf3_counts_what_arrives_on_the_carrier() -> Outcome {
    iperf3_counts_what_arrives(false)
}

/// UDP is stopped at the gateway and let out again while datagrams go: they move to the carrier and back
/// within three seconds each, the internal peer notices nothing but that, and nothing comes twice.
#[test]
fn datagrams_move_over_and_back() -> Outcome {
    let lab = lab("move", true)?;
    let mut echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let tunnel = start(plan(&peer("echo", "192.168.50.3:7", 8007)), &lab, true)?;
    let ext = lab.host("ext");
    let mut ping = ext.play_on("datagram-ping", "203.0.113.20:8007", &["900"])?;
    ping.wait_for_log("pinging", SHORT)?;
    echo.wait_for_log("heard", SHORT)?;
    let is_on_path = |daemon| path(&tunnel, daemon).is_some();
    let ends = [Daemon::Relay, Daemon::Forwarder];
    block(&lab)?;
    wait_until(SHORT, "datagrams to ride the carrier", || !ends.into_iter().any(is_on_path))?;
    assert!(lab.gateway().rule_packets("FORWARD", STOPPED)? > 0);
    unblock(&lab)?;
    let three_seconds = Duration::from_secs(3);
    wait_until(three_seconds, "datagrams to have their path again", || {
        ends.into_iter().all(is_on_path)
    })?;
    let said = ping.finish(LONG)?;
    let [answered, twice, altered, gap] = counts(&said);
    assert_eq!((twice, altered), (0, 0), "{said}");
    assert!(gap <= 3_000 && answered >= 700, "{said}");
    assert_eq!(echo.log().matches("heard").count(), 1, "the internal peer saw another source");
    Ok(())
}

/// The carrier is killed while datagrams go, and another takes its place: not one datagram is held up
/// for it.
#[test]
fn datagrams_do_not_wait_for_a_lost_carrier() -> Outcome {
    let lab = lab("carrier-lost", true)?;
    let _echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let tunnel = start(plan(&peer("echo", "192.168.50.3:7", 8007)), &lab, true)?;
    let ext = lab.host("ext");
    let mut ping = ext.play_on("datagram-ping", "203.0.113.20:8007", &["300"])?;
    ping.wait_for_log("pinging", SHORT)?;
    lab.host("icp").shell("ss -tK dst 203.0.113.20 dport = :443")?;
    wait_until(SHORT, "another carrier", || tunnel.resumptions().is_ok_and(|count| count > 0))?;
    let said = ping.finish(LONG)?;
    let [answered, twice, altered, gap] = counts(&said);
    assert_eq!((twice, altered), (0, 0), "{said}");
    assert!(answered >= 290 && gap < 500, "{said}");
    Ok(())
}

/// Datagrams of every size are answered whole, the empty and the longest included.
#[test]
fn datagrams_of_every_size_are_answered() -> Outcome {
    for lets_udp_out in [true, false] {
        let lab = lab(if lets_udp_out { "sizes-open" } else { "sizes-stopped" }, lets_udp_out)?;
        let _echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
        let tunnel = start(plan(&peer("echo", "192.168.50.3:7", 8007)), &lab, lets_udp_out)?;
        let sizes = ["0", "1", "1200", "1452", "1472", "9000", "65507"];
        lab.host("ext").play("datagram-sizes", "203.0.113.20:8007", &sizes)?;
        assert_way(&tunnel, lets_udp_out);
    }
    Ok(())
}

/// A hundred thousand sources that are forged call one contact point: neither daemon grows beyond a
/// bound, and who was there before is answered all the while.
#[test]
fn a_crowd_of_forged_sources_pushes_nobody_out() -> Outcome {
    let lab = lab("crowd", true)?;
    let _echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let mut tunnel = start(plan(&peer("echo", "192.168.50.3:7", 8007)), &lab, true)?;
    let ext = lab.host("ext");
    // Whole networks are this host's own: what is sent from there is answered to nobody.
    ext.shell("ip route add local 10.64.0.0/14 dev lo; sysctl -qw net.ipv4.ip_nonlocal_bind=1")?;
    lab.host("relay").shell("ip route add 10.64.0.0/14 via 203.0.113.10")?;
    let mut ping = ext.play_on("datagram-ping", "203.0.113.20:8007", &["1000"])?;
    ping.wait_for_log("pinging", SHORT)?;
    let resident = |tunnel: &mut Tunnel<'_>, daemon| -> Result<u64, LabError> {
        tunnel.process_mut(daemon)?.resident_bytes()
    };
    let before = [Daemon::Relay, Daemon::Forwarder].map(|daemon| resident(&mut tunnel, daemon));
    let said = ext.play("datagram-crowd", "203.0.113.20:8007", &["10.64.0.1", "100000"])?;
    assert!(said.contains("sent 100000"), "{said}");
    let said = ping.finish(LONG)?;
    let [answered, twice, altered, _] = counts(&said);
    assert_eq!((twice, altered), (0, 0), "{said}");
    assert!(answered >= 900, "{said}");
    for (daemon, before) in [Daemon::Relay, Daemon::Forwarder].into_iter().zip(before) {
        let grown = resident(&mut tunnel, daemon)?.saturating_sub(before?);
        assert!(grown < 64 << 20, "{daemon:?} has grown by {grown} bytes");
    }
    let flows = tunnel.status(Daemon::Relay)?["forwarders"][0]["flows"].as_u64();
    assert!(flows.is_some_and(|flows| (2..=4_096).contains(&flows)), "{flows:?}");
    Ok(())
}

/// Messages out: a registered peer reaches a named external peer and an address that is allowed; an
/// external peer reaches a private name; what is not listed is not reached.
#[test]
fn datagrams_go_out_by_name_and_by_address() -> Outcome {
    let lab = lab("out", true)?;
    let (ext, peer3) = (lab.host("ext"), lab.host("peer3"));
    let _outside = ext.serve("datagram-echo", 7, &[])?;
    let _inside = peer3.serve("datagram-echo", 7, &[])?;
    let listener = |name: &str, port: u16, to: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"192.168.50.2:{port}\"\n\
             protocol = \"udp\"\nto = \"{to}\"\n"
        )
    };
    let tail = [
        "[[peer]]\nname = \"db\"\nudp = \"192.168.50.3:7\"\ncontact = \"private\"\n".to_owned(),
        listener("laptop", 9000, "name:laptop-echo"),
        listener("outside", 9001, "address:203.0.113.10:7"),
        listener("forbidden", 9002, "address:203.0.113.10:8"),
    ];
    let policy = "names = [\"db\"]\ncalls = [\"laptop-*\"]\ndials = [\"udp/203.0.113.10:7\"]\n";
    let plan = Tunnel::builder().policy(policy).tail(&tail.concat());
    let plan = plan.external("laptop", "names = [\"laptop-echo\"]\ncalls = [\"db\"]\n");
    let tunnel = start(plan, &lab, true)?;
    let offer = ["db", "--listen", "127.0.0.1:5300", "--udp"];
    let offer = [&offer[..], &["--serve", "laptop-echo=203.0.113.10:7/udp"]].concat();
    let mut laptop = tunnel.connect(&ext, "laptop", &offer)?;
    laptop.wait_for_log("registered", SHORT)?;
    let sizes = ["64", "1400", "20000"];
    peer3.play("datagram-sizes", "192.168.50.2:9000", &sizes)?;
    peer3.play("datagram-sizes", "192.168.50.2:9001", &sizes)?;
    ext.play("datagram-sizes", "127.0.0.1:5300", &sizes)?;
    let said = peer3.play("datagram-ping", "192.168.50.2:9002", &["5"])?;
    assert_eq!(counts(&said)[0], 0, "{said}");
    assert!(tunnel.refused("dial_forbidden")? > 0);
    Ok(())
}
