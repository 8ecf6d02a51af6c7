//! What an operator sees: conditions, counters, limits that strike, flows by name, the audit log.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use netns_tests::{Daemon, Host, Lab, LabError, Process, SHORT, Topology, Tunnel, wait_until};

type Outcome = Result<(), LabError>;

/// Both daemons' metrics, each at its host's loopback.
const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9464\"\n";

fn code(host: &Host<'_>, path: &str) -> String {
    let url = format!("http://127.0.0.1:9464{path}");
    let asked = host.run(["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    asked.map(|output| output.stdout).unwrap_or_default()
}

fn body(host: &Host<'_>, path: &str) -> String {
    let asked = host.run(["curl", "-s", "-m", "5", &format!("http://127.0.0.1:9464{path}")]);
    asked.map(|output| output.stdout).unwrap_or_default()
}

/// The value of the one metric whose line begins with `name` and has all of `labels`.
fn metric(host: &Host<'_>, name: &str, labels: &[&str]) -> Option<u64> {
    let text = body(host, "/metrics");
    let is_it = |line: &&str| {
        line.starts_with(name) && labels.iter().all(|label| line.contains(&format!("\"{label}\"")))
    };
    let line = text.lines().find(is_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The JSON lines of a log with this message.
fn said(process: &Process, message: &str) -> Vec<Value> {
    let lines = process.log();
    let parsed = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

/// A flow has one name in the logs of both daemons, from its beginning to its end, with the bytes that it
/// moved; a warning of a flow that came to nothing has it as well.
#[test]
fn a_flow_has_one_name_in_both_logs() -> Outcome {
    let lab = Topology::STANDARD.build("flow-names")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let filter = "info,adit::flow=debug,adit::pump::flows=debug";
    let level = ["--log-format", "json", "--log-level", filter];
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).arguments(&level);
    let mut tunnel = builder.peer("dead", "192.168.50.3:9", 8004).start(&lab)?;
    lab.host("ext").play("half-close", &tunnel.contact(8003), &["10000"])?;
    let mut ends = Vec::new();
    for daemon in [Daemon::Relay, Daemon::Forwarder] {
        let process = tunnel.process_mut(daemon)?;
        process.wait_for_log("flow ended", SHORT)?;
        let [opened, ended] =
            ["flow opened", "flow ended"].map(|what| said(process, what).remove(0));
        assert_eq!((&opened["flow"], &opened["peer"]), (&ended["flow"], &Value::from("echo")));
        assert!(
            opened["source"].as_str().is_some_and(|source| source.starts_with("203.0.113.10:"))
        );
        ends.push(ended);
    }
    let [relay, forwarder] = <[Value; 2]>::try_from(ends).expect("two");
    assert_eq!(relay["flow"], forwarder["flow"]);
    let session = tunnel.session()?;
    assert!(relay["flow"].as_str().is_some_and(|name| name.starts_with(&session)), "{relay}");
    for way in ["to_tunnel", "from_tunnel"] {
        assert_eq!((&relay[way], &forwarder[way]), (&Value::from(10_000), &Value::from(10_000)));
    }
    assert!(lab.host("ext").play("half-close", &tunnel.contact(8004), &["100"]).is_err());
    let mut name_in = |daemon, message: &str| -> Result<Value, LabError> {
        let process = tunnel.process_mut(daemon)?;
        let is_it = |line: &str| line.contains(message) && line.contains("\"dead\"");
        process.wait_for_line(message, SHORT, is_it)?;
        let line = said(process, message).into_iter().find(|line| line["peer"] == "dead");
        Ok(line.map(|line| line["flow"].clone()).unwrap_or_default())
    };
    let opened = name_in(Daemon::Relay, "flow opened")?;
    assert!(opened.as_str().is_some_and(|name| name.starts_with(&session)), "{opened}");
    assert_eq!(name_in(Daemon::Forwarder, "peer not connected: flow reset")?, opened);
    assert_eq!(name_in(Daemon::Relay, "flow reset by the other end")?, opened);
    Ok(())
}

/// Both daemons are well and ready while the tunnel stands; without a relay the forwarder is well and not
/// ready, with a peer that is refused likewise, and a relay that drains is well and not ready.
#[test]
fn conditions_are_told_as_they_are() -> Outcome {
    let lab = Topology::STANDARD.build("conditions")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let mut tunnel = builder.extra("", METRICS).tail(METRICS).start(&lab)?;
    let (inside, outside) = (lab.host("icp"), lab.host("relay"));
    for host in [&inside, &outside] {
        assert_eq!((code(host, "/healthz"), code(host, "/readyz")), ("200".into(), "200".into()));
    }
    let is_only_well = |host: &Host<'_>, why: &str| {
        wait_until(SHORT, &format!("a daemon to be well and not ready: {why}"), || {
            code(host, "/readyz") == "503"
                && code(host, "/healthz") == "200"
                && body(host, "/readyz").contains(why)
        })
    };
    let mut refused = tunnel.peers_mut()[0].clone();
    (refused.name, refused.port) = ("greedy".to_owned(), 9);
    tunnel.peers_mut().push(refused);
    tunnel.write_configurations()?;
    tunnel.reload()?;
    is_only_well(&inside, "greedy (refused)")?;
    tunnel.peers_mut().pop();
    tunnel.write_configurations()?;
    tunnel.reload()?;
    wait_until(SHORT, "the forwarder to be ready again", || code(&inside, "/readyz") == "200")?;
    let mut held = lab.host("ext").play_on("hold", &tunnel.contact(8003), &["1"])?;
    held.wait_for_log("holding 1", SHORT)?;
    // The control of the flows' names: at the usual level nothing is said of flows.
    assert!(!tunnel.process_mut(Daemon::Relay)?.log().contains("flow opened"));
    tunnel.process_mut(Daemon::Relay)?.signal(Signal::SIGTERM)?;
    is_only_well(&outside, "the relay is ending")?;
    tunnel.process_mut(Daemon::Relay)?.kill();
    is_only_well(&inside, "the tunnel is not up")
}

/// Gives `few` another table in the forwarder's file, and waits until it is registered anew.
fn change_few(lab: &Lab, tunnel: &mut Tunnel<'_>) -> Outcome {
    let file = lab.path().join("adit.toml");
    let text = fs::read_to_string(&file).expect("a file of the lab");
    let (usual, changed) = ("flows_max = 3\n", "flows_max = 3\ndeny = [\"198.51.100.1\"]\n");
    assert!(text.contains(usual));
    fs::write(&file, text.replace(usual, changed)).expect("a file of the lab");
    let is_it = |line: &&str| line.contains("registered") && line.contains(":8004");
    tunnel.reload()?;
    let process = tunnel.process_mut(Daemon::Forwarder)?;
    wait_until(SHORT, "few to be registered again", || {
        process.log().lines().filter(is_it).count() == 2
    })
}

/// The limits of one peer strike, are counted by their names, and leave the neighbour alone. Flows that are
/// open count on when a reload changes the peer.
#[test]
fn a_peers_limits_strike_it_and_not_its_neighbour() -> Outcome {
    let lab = Topology::STANDARD.build("peer-limits")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let peer = |name: &str, port: u16, limits: &str| {
        format!(
            "[[peer]]\nname = \"{name}\"\ntcp = \"192.168.50.3:7\"\n\
             contact = \"public:{port}\"\n{limits}\n"
        )
    };
    let tail = METRICS.to_owned()
        + &peer("few", 8004, "flows_max = 3")
        + &peer("rare", 8005, "flows_per_s = 1")
        + &peer("slow", 8006, "bytes_per_s = 500000");
    let builder = Tunnel::builder().peer("free", "192.168.50.3:7", 8003).tail(&tail);
    let mut tunnel = builder.start(&lab)?;
    for port in [8004, 8005, 8006] {
        tunnel.process_mut(Daemon::Forwarder)?.wait_for_line("registered", SHORT, |line| {
            line.contains("registered") && line.contains(&format!(":{port}"))
        })?;
    }
    let (ext, inside) = (lab.host("ext"), lab.host("icp"));
    let limited = |contact: &str, limit: &str| {
        metric(&inside, "adit_contact_limited_total", &[contact, limit]).unwrap_or(u64::MAX)
    };
    let at = |port: u16| lab.host("relay").at(port);
    let is_let_in = |port: u16| ext.play("half-close", &at(port), &["100"]).is_ok();
    let mut held = ext.play_on("hold", &tunnel.contact(8004), &["3"])?;
    held.wait_for_log("holding 3", SHORT)?;
    assert!(!is_let_in(8004), "a fourth flow is turned away");
    assert!(is_let_in(8003));
    change_few(&lab, &mut tunnel)?;
    assert!(!is_let_in(8004), "three are still open");
    held.kill();
    wait_until(SHORT, "the control: one to be let in", || is_let_in(8004))?;
    // All at once: one after the other they may take a second each.
    let rare = tunnel.contact(8005);
    let burst: Vec<_> = (0..5).map(|_| ext.play_on("half-close", &rare, &["100"])).collect();
    let burst: Vec<_> =
        burst.into_iter().map(|one| one.is_ok_and(|mut one| one.finish(SHORT).is_ok())).collect();
    assert!(burst.contains(&true) && burst.contains(&false), "{burst:?}");
    let (start, sent) = (Instant::now(), ["400000"]);
    ext.play("half-close", &tunnel.contact(8006), &sent)?;
    let slow = start.elapsed();
    // 400 kB there and 400 kB back, less a burst of 100 ms, which may be overdrawn by what is under way.
    assert!(slow > Duration::from_millis(900), "{slow:?}");
    ext.play("half-close", &tunnel.contact(8003), &sent)?;
    wait_until(SHORT, "the limits to be counted", || {
        limited("few", "flows_max") >= 1
            && limited("rare", "flows_per_s") >= 1
            && limited("slow", "bytes_per_s") >= 1
    })?;
    for limit in ["flows_max", "flows_per_s", "bytes_per_s"] {
        assert_eq!(limited("free", limit), 0, "{limit}");
    }
    let bytes = |way| metric(&inside, "adit_contact_bytes_total", &["free", way]);
    assert_eq!((bytes("to_tunnel"), bytes("from_tunnel")), (Some(400_100), Some(400_100)));
    assert_eq!(metric(&inside, "adit_contact_flows_total", &["few"]), Some(4));
    Ok(())
}

/// What the relay's file says that keys have moved in this month, all together.
fn kept_volume(lab: &Lab) -> u64 {
    let text = fs::read_to_string(lab.path().join("state/volumes.json")).unwrap_or_default();
    let kept: Value = serde_json::from_str(&text).unwrap_or_default();
    let keys = kept["bytes_by_key"].as_object();
    keys.map_or(0, |keys| keys.values().filter_map(Value::as_u64).sum())
}

/// A key that has moved what it may in a month loses its flows and is let in no more, and this is said and
/// counted; neither a relay that is killed nor one that takes over forgives it, and a reload that raises the
/// volume does at once.
#[test]
fn a_volume_that_is_used_up_stays_so_until_it_is_raised() -> Outcome {
    const VOLUME: u64 = 1_000_000;
    let lab = Topology::STANDARD.build("volume")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let extra = format!("state = \"state\"\n{METRICS}[audit]\nfile = \"relay-audit.log\"\n");
    let volume = format!("bytes_per_month = {VOLUME}");
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).policy(&volume);
    let mut tunnel = builder.extra("", &extra).start(&lab)?;
    let (ext, outside, contact) = (lab.host("ext"), lab.host("relay"), tunnel.contact(8003));
    let moved = || metric(&outside, "adit_relay_month_moved_bytes", &["office"]).unwrap_or(0);
    let is_let_in = || ext.play("half-close", &contact, &["100"]).is_ok();
    let limited = || {
        let labels = ["office", "echo", "bytes_per_month"];
        metric(&outside, "adit_relay_contact_limited_total", &labels).unwrap_or(0)
    };
    let is_turned_away = |times: u64| {
        wait_until(SHORT, "callers to be turned away for the volume", || {
            !is_let_in() && limited() >= times
        })
    };
    let counts_anew = || wait_until(SHORT, "another process to count", || limited() == 0);
    let mut held = ext.play_on("hold", &contact, &["1"])?;
    held.wait_for_log("holding 1", SHORT)?;
    // Both ways count.
    ext.play("half-close", &contact, &["400000"])?;
    wait_until(SHORT, "what has moved to be counted", || moved() >= 800_000)?;
    assert!(moved() < VOLUME && is_let_in(), "the control: there is some left");
    // It may be cut short at its very end.
    ext.play("half-close", &contact, &["150000"]).ok();
    tunnel.process_mut(Daemon::Relay)?.wait_for_log("bytes_per_month is used up", SHORT)?;
    // The one that was held, and another.
    is_turned_away(2)?;
    wait_until(SHORT, "nothing to be open", || {
        metric(&outside, "adit_relay_flows", &["office"]) == Some(0)
    })?;
    assert_eq!(metric(&outside, "adit_relay_month_max_bytes", &["office"]), Some(VOLUME));
    assert_eq!(audited(&lab, "relay-audit.log", "spent").len(), 1);
    let status = tunnel.ask(Daemon::Relay, &["status"])?.stdout;
    assert!(status.contains("THIS MONTH") && status.contains(" of 977 KiB"), "{status}");
    wait_until(SHORT, "it to be kept", || kept_volume(&lab) >= VOLUME)?;
    tunnel.restart(Daemon::Relay)?;
    counts_anew()?;
    is_turned_away(1)?;
    assert!(tunnel.upgrade(Daemon::Relay, &[])?.success());
    counts_anew()?;
    is_turned_away(1)?;
    assert!(moved() >= VOLUME);
    let file = lab.path().join("relay.toml");
    let text = fs::read_to_string(&file).expect("a file of the lab");
    let raised = text.replace(&volume, "bytes_per_month = 1000000000");
    fs::write(&file, raised).expect("a file of the lab");
    assert!(tunnel.ask(Daemon::Relay, &["reload"])?.success());
    ext.play("half-close", &contact, &["400000"])?;
    Ok(())
}

/// Neither an upgrade nor an end in order forgets what was moved a moment ago, of which the file has nothing
/// yet.
#[test]
fn what_was_moved_a_moment_ago_is_not_forgotten() -> Outcome {
    let lab = Topology::STANDARD.build("moved")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let extra = format!("state = \"state\"\n{METRICS}");
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let builder = builder.policy("bytes_per_month = 1000000000").extra("", &extra);
    let mut tunnel = builder.start(&lab)?;
    let (ext, outside, contact) = (lab.host("ext"), lab.host("relay"), tunnel.contact(8003));
    let moved = || metric(&outside, "adit_relay_month_moved_bytes", &["office"]);
    // Some of it comes just after the file was written, and the next writing is seconds off.
    let move_some = |total: u64| {
        wait_until(SHORT, "the port to be there", || {
            ext.play("half-close", &contact, &["10000"]).is_ok()
        })?;
        wait_until(SHORT, "it to be kept", || kept_volume(&lab) == total + 20_000)?;
        ext.play("half-close", &contact, &["50000"])
    };
    let is_counted = |total| {
        wait_until(SHORT, "the next process to count", || moved().is_some())?;
        assert_eq!(moved(), Some(total));
        Ok::<(), LabError>(())
    };
    move_some(0)?;
    tunnel.process_mut(Daemon::Relay)?.signal(Signal::SIGTERM)?;
    tunnel.process_mut(Daemon::Relay)?.finish(SHORT)?;
    tunnel.start_relay()?;
    is_counted(120_000)?;
    move_some(120_000)?;
    assert!(tunnel.upgrade(Daemon::Relay, &[])?.success());
    is_counted(240_000)
}

fn audited(lab: &Lab, file: &str, event: &str) -> Vec<Value> {
    let text = fs::read_to_string(lab.path().join(file)).unwrap_or_default();
    let lines =
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["event"] == event).collect()
}

/// Both daemons write down who was registered and who was refused; a flood of strangers has few lines and
/// is counted to the last; a file that was moved away is begun anew at HUP.
#[test]
fn the_audit_log_has_what_happened_and_no_flood() -> Outcome {
    const STRANGERS: u64 = 200;
    let lab = Topology::STANDARD.build("audit")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let audit = |file: &str| format!("{METRICS}[audit]\nfile = \"{file}\"\n");
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let builder = builder.extra("", &audit("relay-audit.log")).tail(&audit("audit.log"));
    let mut tunnel = builder.start(&lab)?;
    let written = |file: &str, event: &str, field: &str, value: &str| {
        wait_until(SHORT, &format!("{file} to have {event} {value}"), || {
            audited(&lab, file, event).iter().any(|line| line[field] == value)
        })
    };
    written("relay-audit.log", "registered", "peer", "echo")?;
    written("relay-audit.log", "tunnel_up", "forwarder", "office")?;
    written("audit.log", "registered", "by", "configuration")?;
    let mut refused = tunnel.peers_mut()[0].clone();
    (refused.name, refused.port) = ("greedy".to_owned(), 9);
    tunnel.peers_mut().push(refused);
    tunnel.write_configurations()?;
    tunnel.reload()?;
    written("relay-audit.log", "refused", "cause", "port_not_allowed")?;
    written("audit.log", "refused", "peer", "greedy")?;
    let flood = format!(
        "for i in $(seq {STRANGERS}); do echo hello > /dev/tcp/203.0.113.20/443; done 2>/dev/null"
    );
    lab.host("ext").run_ok(["bash", "-c", &flood])?;
    let outside = lab.host("relay");
    let counted = || {
        let of = |cause| metric(&outside, "adit_relay_refused_total", &[cause]).unwrap_or(0);
        of("not_tls") + of("handshake_closed") + of("over_limit")
    };
    wait_until(SHORT, "the strangers to be counted", || counted() >= STRANGERS)?;
    let lines = audited(&lab, "relay-audit.log", "refused").len();
    assert!((2..=40).contains(&lines), "{lines} lines");
    let unrecorded = metric(&outside, "adit_relay_audit_unrecorded_total", &[]);
    assert!(unrecorded.is_some_and(|count| count >= STRANGERS - 40), "{unrecorded:?}");
    let [file, moved] = ["relay-audit.log", "relay-audit.log.1"].map(|name| lab.path().join(name));
    fs::rename(file, moved).expect("another name");
    tunnel.process_mut(Daemon::Relay)?.signal(Signal::SIGHUP)?;
    tunnel.restart(Daemon::Forwarder)?;
    written("relay-audit.log", "tunnel_up", "forwarder", "office")?;
    let text = fs::read_to_string(lab.path().join("relay-audit.log.1")).expect("the old file");
    assert!(!text.contains("PRIVATE") && text.lines().count() > 3);
    Ok(())
}
