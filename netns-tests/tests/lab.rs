//! The lab is what it says: its NATs behave, its firewall counts, and nothing of it outlives it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use netns_tests::{Firewall, Lab, LabError, Nat, SHORT, Topology, helper, wait_until};

type Outcome = Result<(), LabError>;

/// How many labs one test has at once.
const AT_ONCE: usize = 3;

/// Builds and checks each lab, some at a time; reports all that fail, by name.
fn check_all(topologies: &[Topology], check: impl Fn(Topology) -> Outcome + Sync) -> Outcome {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&topology) = topologies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = check(topology) {
                        failed.lock().expect("no panic").push(format!("{topology}: {error}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

fn verify_nat(topology: Topology) -> Outcome {
    topology.build_paced("nat").map(|_| ())
}

/// Every NAT shows the mapping, filtering, pooling and hairpinning that its name promises, by UDP
/// and by TCP.
#[test]
fn nat_presets_behave_as_promised() -> Outcome {
    check_all(&Topology::NATS, verify_nat)
}

/// Two layers give what the stricter one gives: three at home by four at the provider.
#[test]
fn double_nat_combinations_behave_as_promised() -> Outcome {
    check_all(&Topology::doubles(), verify_nat)
}

/// IPv6 passes as its preset promises, beside IPv4 and where there is none.
#[test]
fn ipv6_presets_behave_as_promised() -> Outcome {
    check_all(&Topology::V6, verify_nat)
}

/// Firewalls block what they promise to block, as they promise, and pass the rest; their counters
/// say so. What the NAT beside them does stays the same.
#[test]
fn firewall_presets_behave_as_promised() -> Outcome {
    check_all(&Topology::firewalls(), |topology| {
        topology.build_paced("firewall")?.verify_firewall("icp", "ext")
    })
}

/// The probe tells NATs apart: what translates as another preset does not pass for its own.
#[test]
fn probe_refuses_nats_that_are_not_what_they_promise() -> Outcome {
    check_all(&Topology::NATS[..8], |topology| {
        let lab = topology.draw("misjudged").paced().build()?;
        let random = if topology == Topology::SYMMETRIC { "" } else { "--random-fully" };
        lab.gateway().shell(&format!(
            "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE {random}"
        ))?;
        let verdict = lab.verify_nat("icp", "ext", "relay");
        assert!(matches!(verdict, Err(LabError::Misbehaved { .. })), "{topology}: {verdict:?}");
        Ok(())
    })
}

/// The same for IPv6.
#[test]
fn probe_refuses_ipv6_that_is_not_what_it_promises() -> Outcome {
    check_all(&Topology::V6[4..], |topology| {
        let lab = topology.draw("misjudged-6").paced().build()?;
        let random = if topology == Topology::V6[5] { "" } else { "--random-fully" };
        lab.gateway().shell(&format!(
            "ip6tables -t raw -F; ip6tables -t mangle -F; ip6tables -t nat -F; \
             ip6tables -t nat -A POSTROUTING -o wan0 -j MASQUERADE {random}"
        ))?;
        let verdict = lab.verify_nat("icp", "ext", "relay");
        assert!(matches!(verdict, Err(LabError::Misbehaved { .. })), "{topology}: {verdict:?}");
        Ok(())
    })
}

/// A firewall whose rules stand there and do nothing does not pass its check.
#[test]
fn check_refuses_firewalls_that_block_nothing() -> Outcome {
    let all = Topology::firewalls();
    let blocking: Vec<_> = all
        .into_iter()
        .filter(|topology| {
            !matches!(topology, Topology::Single(_, Firewall::Open | Firewall::Outbound))
        })
        .collect();
    check_all(&blocking, |topology| {
        let lab = topology.draw("harmless").paced().build()?;
        lab.gateway().shell(
            "for chain in INPUT FORWARD OUTPUT; do iptables -I $chain -j ACCEPT; done; \
             iptables -t mangle -I FORWARD -j ACCEPT; \
             iptables -t nat -I POSTROUTING -o wan0 -j MASQUERADE",
        )?;
        let verdict = lab.verify_firewall("icp", "ext");
        assert!(matches!(verdict, Err(LabError::Misbehaved { .. })), "{topology}: {verdict:?}");
        Ok(())
    })
}

/// Checks leave no connection on the gateway and no count, so that a test sees its own alone.
#[test]
fn checks_leave_nothing_behind() -> Outcome {
    for firewall in [Firewall::TlsOnly, Firewall::Quota { bytes: 100_000 }, Firewall::MtuBlackHole]
    {
        let topology = Topology::Single(Nat::PortRestricted, firewall);
        let lab = topology.build_paced("left")?;
        let crossing = lab.gateway().crossing_connections()?;
        assert!(crossing.is_empty(), "after the NAT's, {firewall:?}: {crossing:?}");
        lab.verify_firewall("icp", "ext")?;
        let crossing = lab.gateway().crossing_connections()?;
        assert!(crossing.is_empty(), "after the firewall's, {firewall:?}: {crossing:?}");
        for host in ["icp", "ext"] {
            let sockets = lab.host(host).run_ok(["ss", "-Htn", "exclude", "time-wait"])?.stdout;
            assert_eq!(sockets, "", "{firewall:?} on {host}");
        }
        assert_eq!(lab.gateway().dropped_packets()?, 0, "{firewall:?}");
    }
    Ok(())
}

/// Where there is no IPv4, connecting to it fails at once, for want of a route.
#[test]
fn ipv6_alone_has_no_way_to_ipv4() -> Outcome {
    let lab = Topology::V6_ONLY.draw("v6-only").paced().build()?;
    let peer = helper("lab-peer")?.display().to_string();
    let tried = lab.host("icp").run([&peer, "connect", "203.0.113.20:443"])?;
    assert!(tried.stdout.contains("os error 101"), "{}", tried.stdout);
    let _echo = lab.host("relay").serve("echo", 443, &[])?;
    lab.host("icp").play("connect", &lab.host("relay").at(443), &[])?;
    Ok(())
}

/// A real TLS client passes where only TLS may, and is reset for the name that is blocked.
#[test]
fn real_tls_is_told_from_others_and_by_its_name() -> Outcome {
    let name = "relay.example.test";
    for (firewall, asked, passes) in [
        (Firewall::TlsOnly, name, true),
        (Firewall::SniBlocked { name }, name, false),
        (Firewall::SniBlocked { name }, "www.example.test", true),
    ] {
        let topology = Topology::Single(Nat::PortRestricted, firewall);
        let lab = topology.draw("tls").paced().build()?;
        let relay = lab.host("relay");
        relay.shell(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=lab -keyout tls.key -out tls.crt 2>/dev/null",
        )?;
        let server = ["s_server", "-accept", "443", "-key", "tls.key", "-cert", "tls.crt"];
        let mut server = relay.spawn_console([&["openssl"], &server[..]].concat())?;
        server.wait_for_log("ACCEPT", SHORT)?;
        let client = ["s_client", "-connect", "203.0.113.20:443", "-servername", asked];
        let said = lab.host("icp").run([&["openssl"], &client[..]].concat())?.stdout;
        let shaken = said.contains("Cipher is TLS_") || said.contains("Cipher    : TLS_");
        assert_eq!(shaken, passes, "{firewall:?}, {asked}: {said}");
    }
    Ok(())
}

/// From outside no internal peer is reached, and the gateway counts each attempt.
#[test]
fn firewall_blocks_the_direct_way_and_counts() -> Outcome {
    let lab = Topology::STANDARD.build("blocked")?;
    let peer = helper("lab-peer")?.display().to_string();
    let mut echo = lab.host("peer3").spawn([&peer, "echo", "192.168.50.3:80"])?;
    echo.wait_for_log("listening", SHORT)?;
    let (ext, gateway) = (lab.host("ext"), lab.gateway());
    ext.route("192.168.50.0/24", gateway.address())?;
    let (forwarded, input) = (gateway.dropped_packets()?, gateway.dropped_input()?);
    for target in ["192.168.50.3:80", "203.0.113.1:80"] {
        let tried = ext.run([&peer, "connect", target, "--within-ms=300"])?;
        assert!(!tried.success(), "{target} was reached");
    }
    assert!(gateway.dropped_packets()? > forwarded);
    assert!(gateway.dropped_input()? > input);
    // The control: the same server answers its neighbour, and the way out is open.
    lab.host("icp").run_ok([&peer, "connect", "192.168.50.3:80"])?;
    Ok(())
}

/// `conntrack` on the gateway counts what crosses it.
#[test]
fn crossing_connections_are_counted() -> Outcome {
    let lab = Topology::STANDARD.build("crossing")?;
    let peer = helper("lab-peer")?.display().to_string();
    let mut echo = lab.host("relay").spawn([&peer, "echo", "203.0.113.20:443"])?;
    echo.wait_for_log("listening", SHORT)?;
    assert_eq!(lab.gateway().crossing_connections()?.len(), 0);
    let mut hold = lab.host("icp").spawn_console([&peer, "hold", "203.0.113.20:443", "3"])?;
    hold.wait_for_log("holding 3", SHORT)?;
    assert_eq!(lab.gateway().crossing_connections()?.len(), 3);
    hold.finish(SHORT)?;
    Ok(())
}

/// A recording of the gateway's outside shows the packets that passed.
#[test]
fn capture_records_the_outside() -> Outcome {
    let lab = Topology::STANDARD.build("capture")?;
    let peer = helper("lab-peer")?.display().to_string();
    let mut echo = lab.host("relay").spawn([&peer, "echo", "203.0.113.20:443"])?;
    echo.wait_for_log("listening", SHORT)?;
    let capture = lab.gateway().capture("wan0")?;
    lab.host("icp").run_ok([&peer, "connect", "203.0.113.20:443"])?;
    let file = lab.path().join("gw-wan0.pcap");
    wait_until(SHORT, "packets in the file", || {
        fs::metadata(&file).is_ok_and(|found| found.len() > 100)
    })?;
    drop(capture);
    Ok(())
}

/// Who asks for recordings has those of every gateway, both sides, and the logs beside them.
#[test]
fn recordings_are_kept_where_they_are_asked_for() -> Outcome {
    let mut verify = Command::new(helper("lab-probe")?);
    let output = verify.arg("verify").env("ADIT_LAB_PCAP", "1").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let folders: Vec<_> =
        said.lines().filter_map(|line| line.split("logs kept in ").nth(1)).collect();
    assert!(!folders.is_empty(), "{said}");
    for folder in folders {
        for device in ["wan0", "lan0"] {
            let file = Path::new(folder).join(format!("gw-{device}.pcap0"));
            assert!(fs::metadata(&file).is_ok_and(|found| found.len() > 100), "{}", file.display());
        }
        fs::remove_dir_all(folder).expect("its folder");
    }
    Ok(())
}

/// A lab that is dropped leaves no process, no namespace and no folder, whatever ran in it.
#[test]
fn dropped_lab_leaves_nothing() -> Outcome {
    let lab = Topology::STANDARD.build("dropped")?;
    let peer = helper("lab-peer")?.display().to_string();
    let mut echo = lab.host("icp").spawn([&peer, "echo", "192.168.50.2:7"])?;
    echo.wait_for_log("listening", SHORT)?;
    let (anchor, pid, path) = (lab.anchor_pid(), echo.pid(), lab.path().to_owned());
    // Not dropped: only the lab's own end may end it.
    let echo = std::mem::ManuallyDrop::new(echo);
    drop(lab);
    assert!(!Path::new(&format!("/proc/{anchor}")).exists());
    assert!(!path.exists());
    // What is left of the echo at most is our unread child; it runs no more.
    let state = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(state.is_empty() || state.contains("zombie"), "{state}");
    drop(std::mem::ManuallyDrop::into_inner(echo));
    Ok(())
}

/// Hosts with everything of their own write to `/etc` and look for processes by name, and neither
/// the machine nor their neighbours notice.
#[test]
fn hosts_with_everything_of_their_own_stay_apart() -> Outcome {
    let lab = Topology::STANDARD.draw("own").paced().own_everything().build()?;
    let (icp, peer3) = (lab.host("icp"), lab.host("peer3"));
    let mut sleeper = icp.spawn(["sleep", "1000"])?;
    for folder in ["/etc/adit", "/var/lib/adit-relay", "/run/adit"] {
        icp.shell(&format!("mkdir -p {folder}; echo icp > {folder}/lab-mark"))?;
        let mark = format!("{folder}/lab-mark");
        assert_eq!(icp.run_ok(["cat", &mark])?.stdout, "icp\n");
        assert!(!peer3.run(["cat", &mark])?.success(), "a neighbour sees {mark}");
        assert!(!Path::new(&mark).exists(), "{mark} is on the machine");
    }
    assert!(!peer3.run(["pkill", "-x", "sleep"])?.success(), "a neighbour's process was found");
    icp.run_ok(["pkill", "-x", "sleep"])?;
    assert!(!sleeper.wait(SHORT)?.success());
    Ok(())
}

/// A lab whose owner is killed leaves no process and no namespace either.
#[test]
fn killed_owner_leaves_nothing() -> Outcome {
    let probe = helper("lab-probe")?;
    let mut owner = Command::new(probe)
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the owner starts");
    let mut line = String::new();
    let stdout = owner.stdout.as_mut().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["holding", anchor, process, folder] = words[..] else { panic!("said '{line}'") };
    let namespace = fs::read_link(format!("/proc/{process}/ns/net")).expect("a namespace");
    assert_ne!(namespace, fs::read_link("/proc/self/ns/net").expect("our own"));
    owner.kill().expect("SIGKILL");
    owner.wait().expect("the end");
    for pid in [anchor, process] {
        wait_until(SHORT, "its processes to end", || !Path::new("/proc").join(pid).exists())?;
    }
    assert!(!namespace_exists(&namespace.to_string_lossy()), "{namespace:?} is still there");
    // Files do stay after a SIGKILL: nobody was left to remove them.
    fs::remove_dir_all(folder).expect("its folder");
    Ok(())
}

/// Whether any process of the machine is in the network namespace `name`, such as `net:[4026]`.
fn namespace_exists(name: &str) -> bool {
    let mut listing = String::new();
    let mut lsns = Command::new("lsns")
        .args(["-t", "net", "-n", "-o", "NS"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("lsns starts");
    lsns.stdout.as_mut().expect("a pipe").read_to_string(&mut listing).expect("a listing");
    lsns.wait().expect("the end");
    let number = name.trim_start_matches("net:[").trim_end_matches(']');
    listing.lines().any(|line| line.trim() == number)
}

/// The lab stands without root's rights as well: NATs, firewalls and IPv6.
#[test]
fn lab_builds_rootless() -> Outcome {
    let probe = helper("lab-probe")?;
    let copy = tempfile::tempdir().expect("a folder");
    // The build's folder may be closed to others; a copy of the helpers is not.
    for name in ["lab-probe", "lab-peer"] {
        fs::copy(probe.with_file_name(name), copy.path().join(name)).expect("a copy");
    }
    let mut command = Command::new(copy.path().join("lab-probe"));
    if nix::unistd::geteuid().is_root() {
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(copy.path(), open).expect("an open folder");
        command.uid(65_534).gid(65_534);
    }
    let output = command.arg("verify").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("rootless"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A process that ends too early is reported with the end of its log, not waited for.
#[test]
fn early_end_is_reported_with_the_log() -> Outcome {
    let lab = Lab::new("early").bridge("wan").host("ext", "wan", "203.0.113.10/24").build()?;
    let mut process = lab.host("ext").spawn(["sh", "-c", "echo no such luck; exit 3"])?;
    let waited = process.wait_for_log("ready", SHORT).map_err(|error| error.to_string());
    assert!(waited.is_err_and(|error| error.contains("no such luck")));
    Ok(())
}

/// A host that may only reach port 443 can do exactly that.
#[test]
fn strict_firewall_lets_only_443_out() -> Outcome {
    let lab = Topology::Single(Nat::Symmetric, Firewall::Tcp443Only).build_verified("strict")?;
    let before = lab.gateway().dropped_packets()?;
    let dns = lab.host("icp").run(["dig", "+tries=1", "+timeout=1", "@203.0.113.10", "a.test"])?;
    assert!(!dns.success());
    assert!(lab.gateway().dropped_packets()? > before, "UDP was not stopped by the firewall");
    Ok(())
}
