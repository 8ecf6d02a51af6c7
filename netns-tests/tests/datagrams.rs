//! Datagrams by ordinary programs and by the lab's own, through UDP contact points: with a datagram path
//! beside the carrier, and with all UDP dropped at the gateway.

use std::thread;
use std::time::Duration;

use netns_tests::{
    Daemon, Host, Lab, LabError, Process, SHORT, Topology, Tunnel, iperf3_server, wait_until,
};

type Outcome = Result<(), LabError>;

/// How long datagrams may stand still when the path under them is lost or comes back.
const GAP_MS_MAX: u64 = 3_000;
/// How long a state is kept under a steady ping: its own length, not a wait for anything.
const KEPT: Duration = Duration::from_secs(5);
/// Sources of the flood, and the first of them.
const SOURCES: u32 = 100_000;
const FIRST_SOURCE: &str = "10.64.0.1";
/// What a daemon may grow by under the flood.
const GROWTH_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The mark of the rule that drops datagrams.
const BLOCK: &str = "no-datagrams";

/// Whether the gateway lets datagrams out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Udp {
    Open,
    Blocked,
}

/// Plays once with UDP let out and once with it dropped, which the gateway's counter must show.
fn either_way(name: &str, play: impl Fn(&Lab) -> Outcome) -> Outcome {
    for udp in [Udp::Open, Udp::Blocked] {
        let lab = Topology::STANDARD.build_paced(&format!("{name}-{udp:?}"))?;
        if udp == Udp::Blocked {
            block(&lab.gateway())?;
        }
        play(&lab)?;
        if udp == Udp::Blocked {
            assert!(lab.gateway().rule_packets("FORWARD", BLOCK)? > 0, "nothing was blocked");
        }
    }
    Ok(())
}

fn block(gateway: &Host<'_>) -> Outcome {
    let rule = format!("iptables -w -I FORWARD -p udp -m comment --comment {BLOCK} -j DROP");
    gateway.shell(&rule).map(|_| ())
}

/// Returns how many packets were dropped.
fn unblock(gateway: &Host<'_>) -> Result<u64, LabError> {
    let packets = gateway.rule_packets("FORWARD", BLOCK)?;
    let rule = format!("iptables -w -D FORWARD -p udp -m comment --comment {BLOCK} -j DROP");
    gateway.shell(&rule)?;
    Ok(packets)
}

/// One number of what a steady ping said at its end.
fn said(beat: &mut Process, what: &str) -> Result<u64, LabError> {
    let log = beat.finish(SHORT)?;
    let words: Vec<_> = log.split_whitespace().collect();
    let value = words.windows(2).find(|pair| pair[0] == what);
    Ok(value.and_then(|pair| pair[1].parse().ok()).expect("a number"))
}

/// How many different callers an echo inside has seen.
fn callers(echo: &Process) -> usize {
    echo.log().lines().filter(|line| line.starts_with("caller ")).count()
}

/// An echo inside, reached at UDP port 8007.
fn echo_behind<'a>(lab: &'a Lab) -> Result<(Process, Tunnel<'a>), LabError> {
    let echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let tunnel = Tunnel::builder()
        .udp_peer("echo", "192.168.50.3:7", 8007)
        .peer("exchange", "192.168.50.4:7", 8008)
        .start(lab)?;
    Ok((echo, tunnel))
}

/// dig asks a dnsmasq inside through a public contact point.
#[test]
fn dig_is_answered_by_a_dnsmasq_inside() -> Outcome {
    either_way("dns", |lab| {
        let listen = "--listen-address=192.168.50.3";
        let _dnsmasq = lab.host("peer3").spawn([
            "dnsmasq",
            "--no-daemon",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--port=53",
            "--bind-interfaces",
            listen,
            "--address=/inside.test/192.0.2.7",
        ])?;
        let _tunnel = Tunnel::builder().udp_peer("dns", "192.168.50.3:53", 8053).start(lab)?;
        let dig = ["dig", "@203.0.113.20", "-p", "8053", "+short", "+tries=5", "+time=1"];
        for _ in 0..20 {
            let answer = lab.host("ext").run_ok([&dig[..], &["a.inside.test"]].concat())?.stdout;
            assert_eq!(answer.trim(), "192.0.2.7");
        }
        Ok(())
    })
}

/// Datagrams of every size pass whole, the empty one and the largest among them.
#[test]
fn the_empty_and_the_largest_datagram_pass() -> Outcome {
    either_way("sizes", |lab| {
        let (_echo, tunnel) = echo_behind(lab)?;
        for bytes in ["0", "1", "1200", "1472", "9000", "65507"] {
            lab.host("ext").play("datagram", &tunnel.contact(8007), &[bytes])?;
        }
        Ok(())
    })
}

/// iperf3's UDP test runs both ways at a modest rate and loses next to nothing.
#[test]
fn iperf3_loses_next_to_nothing_at_a_modest_rate() -> Outcome {
    either_way("iperf3-udp", |lab| {
        let _server = iperf3_server(&lab.host("peer3"), 5201)?;
        let at = "192.168.50.3:5201";
        let plan = Tunnel::builder().peer("control", at, 8001).udp_peer("measured", at, 8001);
        let _tunnel = plan.start(lab)?;
        for reverse in [&[][..], &["-R"]] {
            let command = "iperf3 -c 203.0.113.20 -p 8001 -u -b 10M -l 1200 -t 3 -J";
            let command = [&command.split(' ').collect::<Vec<_>>()[..], reverse].concat();
            let report = lab.host("ext").run_ok(command)?.stdout;
            let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
            let sum = &report["end"]["sum"];
            let (lost, all) = (sum["lost_percent"].as_f64(), sum["packets"].as_u64());
            assert!(lost.is_some_and(|lost| lost < 1.0), "{report}");
            assert!(all.is_some_and(|all| all > 2_000), "{report}");
        }
        Ok(())
    })
}

/// One public port leads to one service for connections and to another for datagrams.
#[test]
fn a_port_is_a_contact_point_for_each_protocol() -> Outcome {
    let lab = Topology::STANDARD.build_paced("both-protocols")?;
    let _streams = lab.host("peer4").serve("echo", 7, &[])?;
    let _datagrams = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let plan = Tunnel::builder().peer("streams", "192.168.50.4:7", 8001);
    let tunnel = plan.udp_peer("datagrams", "192.168.50.3:7", 8001).start(&lab)?;
    lab.host("ext").play("half-close", &tunnel.contact(8001), &["100000"])?;
    lab.host("ext").play("datagram", &tunnel.contact(8001), &["1000"])?;
    Ok(())
}

/// UDP is dropped and let through again under a steady ping: it stands still for a few seconds at
/// most, no number is answered twice, and inside it is the same flow all the time.
#[test]
fn a_ping_outlives_the_loss_of_its_path_and_its_return() -> Outcome {
    let lab = Topology::STANDARD.build_paced("path-lost")?;
    let (echo, tunnel) = echo_behind(&lab)?;
    let mut beat = lab.host("ext").play_on("datagram-beat", &tunnel.contact(8007), &[])?;
    beat.wait_for_log("beating", SHORT)?;
    let gateway = lab.gateway();
    for _ in 0..2 {
        thread::sleep(KEPT);
        block(&gateway)?;
        thread::sleep(KEPT);
        assert!(unblock(&gateway)? > 0, "no datagram path was in use");
    }
    thread::sleep(KEPT);
    assert_eq!(callers(&echo), 1);
    let (twice, gap_ms) = (said(&mut beat, "twice")?, said(&mut beat, "gap_ms")?);
    assert_eq!(twice, 0);
    assert!(gap_ms <= GAP_MS_MAX, "{}", beat.log());
    Ok(())
}

/// The carrier's socket is destroyed, and a steady ping on the datagram path does not notice.
#[test]
fn the_loss_of_the_carrier_leaves_datagrams_alone() -> Outcome {
    let lab = Topology::STANDARD.build_paced("carrier-lost")?;
    let (echo, tunnel) = echo_behind(&lab)?;
    let mut beat = lab.host("ext").play_on("datagram-beat", &tunnel.contact(8007), &[])?;
    beat.wait_for_log("beating", SHORT)?;
    thread::sleep(KEPT);
    let session = tunnel.session()?;
    let killed = lab.host("icp").run_ok(["ss", "-HtnK", "dport = :443"])?.stdout;
    assert!(!killed.trim().is_empty(), "no carrier to destroy");
    wait_until(SHORT, "the session to go on", || tunnel.resumptions().is_ok_and(|n| n >= 1))?;
    thread::sleep(KEPT);
    assert_eq!(tunnel.session()?, session);
    assert_eq!(callers(&echo), 1);
    let (gap_ms, twice) = (said(&mut beat, "gap_ms")?, said(&mut beat, "twice")?);
    assert_eq!(twice, 0);
    assert!(gap_ms < 1_000, "{}", beat.log());
    Ok(())
}

/// A flow of bytes does not notice that UDP is dropped.
#[test]
fn the_loss_of_the_path_leaves_streams_alone() -> Outcome {
    let lab = Topology::STANDARD.build_paced("streams-alone")?;
    let _streams = lab.host("peer4").serve("echo", 7, &[])?;
    let (_echo, tunnel) = echo_behind(&lab)?;
    lab.host("ext").play("datagram", &tunnel.contact(8007), &["100"])?;
    let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8008), &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    block(&lab.gateway())?;
    thread::sleep(KEPT);
    let slowest_ms = said(&mut pulse, "slowest_ms")?;
    assert!(slowest_ms < 1_000, "{slowest_ms} ms");
    assert_eq!(tunnel.resumptions()?, 0);
    assert!(unblock(&lab.gateway())? > 0, "no datagram path was in use");
    Ok(())
}

/// A hundred thousand sources strike a contact point: the daemons stay small, and a flow that was
/// there before goes on.
#[test]
fn a_hundred_thousand_sources_do_not_take_the_memory() -> Outcome {
    let lab = Topology::STANDARD.build_paced("sources")?;
    let (ext, relay) = (lab.host("ext"), lab.host("relay"));
    let (echo, mut tunnel) = echo_behind(&lab)?;
    ext.shell("ip route add local 10.64.0.0/10 dev lo")?;
    relay.route("10.64.0.0/10", ext.address())?;
    let mut beat = ext.play_on("datagram-beat", &tunnel.contact(8007), &[])?;
    beat.wait_for_log("beating", SHORT)?;
    let daemons = [Daemon::Forwarder, Daemon::Relay];
    let mut resident = || -> Result<Vec<u64>, LabError> {
        daemons.iter().map(|&daemon| tunnel.process_mut(daemon)?.resident_bytes()).collect()
    };
    let before = resident()?;
    let (to, count) = ("203.0.113.20:8007", SOURCES.to_string());
    ext.play("datagram-flood", to, &[FIRST_SOURCE, &count])?;
    let after = resident()?;
    for (before, after) in before.iter().zip(&after) {
        assert!(after.saturating_sub(*before) < GROWTH_BYTES_MAX, "{before} to {after} bytes");
    }
    assert!(callers(&echo) > 1, "the flood did not arrive");
    thread::sleep(KEPT);
    let (gap_ms, twice) = (said(&mut beat, "gap_ms")?, said(&mut beat, "twice")?);
    assert_eq!(twice, 0);
    assert!(gap_ms <= GAP_MS_MAX, "{}", beat.log());
    ext.play("datagram", to, &["100"])?;
    Ok(())
}

/// Messages out: a listener inside leads to an allowed address and to the private name of an external
/// peer; an address that the relay does not list is refused.
#[test]
fn datagrams_go_out_to_what_is_allowed_and_nowhere_else() -> Outcome {
    either_way("out-udp", |lab| {
        let ext = lab.host("ext");
        let allowed = ext.serve("datagram-echo", 9007, &[])?;
        let other = ext.serve("datagram-echo", 9008, &[])?;
        let listeners = [
            ("allowed", 9007, "address:203.0.113.10:9007"),
            ("other", 9008, "address:203.0.113.10:9008"),
        ];
        let tail: String = listeners
            .iter()
            .map(|(name, port, to)| {
                format!(
                    "[[listener]]\nname = \"{name}\"\nlisten = \"192.168.50.2:{port}\"\n\
                     to = \"{to}\"\nprotocol = \"udp\"\n"
                )
            })
            .collect();
        let plan = Tunnel::builder().peer("three", "192.168.50.3:7", 8003).tail(&tail);
        let policy = "dials = [\"udp/203.0.113.10:9007\"]";
        let _tunnel = plan.policy(policy).start(lab)?;
        let peer3 = lab.host("peer3");
        peer3.play("datagram", "192.168.50.2:9007", &["1000"])?;
        peer3.play("datagram", "192.168.50.2:9007", &["1000"])?;
        assert_eq!(callers(&allowed), 2, "two sources are two flows");
        peer3.play("datagram-unanswered", "192.168.50.2:9008", &[])?;
        assert_eq!(callers(&other), 0);
        Ok(())
    })
}

/// An external peer reaches a private contact point for datagrams by its name, and no other name.
#[test]
fn an_external_peer_sends_datagrams_to_a_private_name() -> Outcome {
    either_way("private-udp", |lab| {
        let ext = lab.host("ext");
        let echo = lab.host("peer4").serve("datagram-echo", 7, &[])?;
        let tail = "[[peer]]\nname = \"db\"\nudp = \"192.168.50.4:7\"\ncontact = \"private\"\n";
        let plan = Tunnel::builder().udp_peer("three", "192.168.50.3:7", 8003).tail(tail);
        let plan = plan.policy("names = [\"db\"]").external("laptop", "calls = [\"db\"]");
        let tunnel = plan.start(lab)?;
        let mut callers_of = Vec::new();
        for (name, at) in [("db", "127.0.0.1:7000"), ("nothing", "127.0.0.1:7001")] {
            let mut caller = tunnel.connect(&ext, "laptop", &[name, "--listen", at, "--udp"])?;
            caller.wait_for_log("tunnel up", SHORT)?;
            callers_of.push(caller);
        }
        for _ in 0..2 {
            ext.play("datagram", "127.0.0.1:7000", &["1000"])?;
        }
        assert_eq!(callers(&echo), 2, "two sources are two flows");
        ext.play("datagram-unanswered", "127.0.0.1:7001", &[])?;
        Ok(())
    })
}

/// A WireGuard between an external peer and one inside runs over a contact point, and carries a
/// transfer whose sum is right.
#[test]
fn a_wireguard_inside_carries_a_transfer() -> Outcome {
    either_way("wireguard", |lab| {
        let (ext, peer) = (lab.host("ext"), lab.host("peer3"));
        let _tunnel = Tunnel::builder().udp_peer("vpn", "192.168.50.3:51820", 8020).start(lab)?;
        let mut ends = Vec::new();
        let mut keys = Vec::new();
        for (host, device, address) in [(&ext, "lab-ext", 1), (&peer, "lab-peer", 2)] {
            ends.push(host.spawn(["wireguard-go", "--foreground", device])?);
            wait_until(SHORT, "a WireGuard's device", || {
                host.run(["wg", "show", device]).is_ok_and(|output| output.success())
            })?;
            let key = lab.path().join(format!("{device}.wg"));
            let key = key.display();
            let public = host.shell(&format!(
                "wg genkey > {key}; wg set {device} private-key {key} listen-port 51820
                 ip addr add 10.88.0.{address}/24 dev {device}; ip link set {device} up
                 wg pubkey < {key}"
            ))?;
            keys.push(public.stdout.trim().to_owned());
        }
        peer.shell(&format!("wg set lab-peer peer {} allowed-ips 10.88.0.1/32", keys[0]))?;
        ext.shell(&format!(
            "wg set lab-ext peer {} allowed-ips 10.88.0.2/32 endpoint 203.0.113.20:8020",
            keys[1]
        ))?;
        let _echo = peer.spawn(["socat", "TCP-LISTEN:7070,fork,reuseaddr", "EXEC:cat"])?;
        wait_until(SHORT, "the service behind the WireGuard", || {
            ext.play("connect", "10.88.0.2:7070", &["--within-ms", "1000"]).is_ok()
        })?;
        ext.play("half-close", "10.88.0.2:7070", &["20000000"])?;
        Ok(())
    })
}
