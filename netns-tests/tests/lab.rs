//! The lab is what it says: its NATs behave, its firewall counts, and nothing of it outlives it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use netns_tests::{
    Filtering, Firewall, Lab, LabError, Mapping, Nat, SHORT, Topology, helper, wait_until,
};

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

/// The probe tells NATs apart: a symmetric one does not pass for a cone.
#[test]
fn probe_tells_symmetric_from_cone() -> Outcome {
    let lab = Topology::SYMMETRIC.build("misjudged")?;
    lab.gateway().shell(
        "iptables -t nat -F POSTROUTING; iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE",
    )?;
    let verdict = lab.verify_nat("icp", "ext", "relay");
    assert!(matches!(verdict, Err(LabError::Misbehaved { .. })), "{verdict:?}");
    let promised = lab.promised().expect("a gateway");
    assert_eq!(promised.mapping, Mapping::AddressAndPortDependent);
    assert_eq!(promised.filtering, Filtering::AddressAndPortDependent);
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

/// The lab stands without root's rights as well, NAT and all.
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
