//! The daemons measure themselves: what they say of real traffic, by every way that they say it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use netns_tests::{Host, Lab, LabError, SHORT, Topology, Tunnel, binaries, wait_until};

type Outcome = Result<(), LabError>;

/// Messages there and back, each after the answer to the one before …
const COUNTED: u64 = 2_000;
/// … with those that the client warms up with.
const MESSAGES: u64 = COUNTED + 500;

/// One daemon of the tunnel, as its user asks it.
struct Asked<'a> {
    host: Host<'a>,
    program: PathBuf,
    socket: PathBuf,
}

impl Asked<'_> {
    fn say(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = vec![self.program.as_os_str()];
        command.extend(arguments.iter().map(AsRef::<OsStr>::as_ref));
        command.extend(["--socket".as_ref(), self.socket.as_os_str()]);
        Ok(self.host.run_ok(command)?.stdout)
    }

    /// How many times there are of a measure and a way.
    fn count(&self, name: &str, way: &str) -> Result<u64, LabError> {
        let json = self.say(&["histogram", "--json"])?;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let all = json["histograms"].as_array().expect("a list").iter();
        let is_it = |one: &&serde_json::Value| {
            one["name"] == name && one["way"] == way && one["contact"] == "echo"
        };
        Ok(all.filter(is_it).filter_map(|one| one["count"].as_u64()).sum())
    }
}

fn asked(lab: &Lab) -> Result<[Asked<'_>; 2], LabError> {
    let binaries = binaries()?;
    let path = |file: &str| lab.path().join(file);
    Ok([
        Asked { host: lab.host("icp"), program: binaries.adit.clone(), socket: path("adit.sock") },
        Asked { host: lab.host("relay"), program: binaries.relay, socket: path("relay.sock") },
    ])
}

/// The tunnel, with metrics and a log at both ends, to an echo server inside.
fn tunnel(lab: &Lab) -> Result<Tunnel<'_>, LabError> {
    let metrics = |port: u16, log: &str| {
        format!(
            "[metrics]\nlisten = \"127.0.0.1:{port}\"\nhistogram_log = \"{log}\"\n\
             histogram_interval_s = 1\n"
        )
    };
    let echo = format!("{}:7", lab.host("peer3").address());
    Tunnel::builder()
        .peer("echo", &echo, 8000)
        .tail(&metrics(9464, "adit.hlog"))
        .extra("", &metrics(9465, "relay.hlog"))
        .start(lab)
}

/// What every command, the metrics, and the log say of the messages that were sent is that they were
/// sent: each is measured once at each end and on each way.
#[test]
fn what_was_sent_was_measured() -> Outcome {
    let lab = Topology::STANDARD.build("measuring")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = tunnel(&lab)?;
    let daemons = asked(&lab)?;
    for daemon in &daemons {
        // The control: nothing has passed yet, and nothing is counted.
        assert_eq!(daemon.count("inside", "to_tunnel")?, 0);
    }
    let count = COUNTED.to_string();
    lab.host("ext").play("rtt", &tunnel.contact(8000), &["--count", &count])?;
    for daemon in &daemons {
        for (name, way) in
            [("inside", "to_tunnel"), ("inside", "from_tunnel"), ("queue", "to_tunnel")]
        {
            let mut found = 0;
            wait_until(SHORT, "every message to be measured", || {
                found = daemon.count(name, way).unwrap_or(0);
                found >= MESSAGES
            })?;
            assert_eq!(found, MESSAGES, "{name} {way}");
        }
    }
    for daemon in &daemons {
        check_commands(daemon, &lab)?;
    }
    check_metrics(&lab, "icp", "http://127.0.0.1:9464/metrics", "adit")?;
    check_metrics(&lab, "relay", "http://127.0.0.1:9465/metrics", "adit_relay")?;
    for log in ["adit.hlog", "relay.hlog"] {
        check_log(&lab.path().join(log))?;
    }
    let [forwarder, _] = &daemons;
    forwarder.say(&["histogram", "--reset"])?;
    assert_eq!(forwarder.count("inside", "to_tunnel")?, 0, "it was reset");
    Ok(())
}

fn check_commands(daemon: &Asked<'_>, lab: &Lab) -> Outcome {
    let shown = daemon.say(&["status", "--histogram", "echo"])?;
    for part in
        ["inside to_tunnel, echo", "inside from_tunnel, echo", "queue to_tunnel", "p99.9", "█"]
    {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    assert!(daemon.say(&["status", "--histogram", "tunnel"])?.contains("round_trip, tunnel"));
    assert!(daemon.say(&["status", "--histogram", "nobody"]).is_err());
    let (hgrm, svg) = (lab.path().join("echo.hgrm"), lab.path().join("echo.svg"));
    let (to_hgrm, to_svg) = (hgrm.display().to_string(), svg.display().to_string());
    let files = ["--hgrm", &to_hgrm, "--svg", &to_svg];
    let chosen = ["histogram", "--contact", "echo", "--way", "to_tunnel"];
    daemon.say(&[&chosen[..], &files[..]].concat())?;
    let text = fs::read_to_string(hgrm).expect("percentiles");
    let total = text.lines().find_map(|line| line.split("Total count    =").nth(1));
    let total = total.and_then(|rest| rest.trim().trim_end_matches(']').parse::<u64>().ok());
    assert!(total == Some(MESSAGES), "{text}");
    assert!(fs::read_to_string(svg).expect("a plot").contains("echo"));
    let top = daemon.say(&["top", "--once", "--every", "100ms"])?;
    for part in ["carrier", "echo", "inside", "to_tunnel", "q ends"] {
        assert!(top.contains(part), "no {part} in\n{top}");
    }
    Ok(())
}

fn check_metrics(lab: &Lab, host: &str, url: &str, prefix: &str) -> Outcome {
    let text = lab.host(host).run_ok(["curl", "-sSf", url])?.stdout;
    let name = format!("{prefix}_inside_seconds_count");
    let counts = text.lines().filter(|line| line.starts_with(&name) && line.contains("\"echo\""));
    let counts: Vec<u64> =
        counts.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert_eq!(counts.len(), 2, "both ways\n{text}");
    assert!(counts.iter().all(|count| *count == MESSAGES), "{counts:?}");
    assert!(text.contains(&format!("# TYPE {prefix}_flows gauge")) && text.ends_with("# EOF\n"));
    Ok(())
}

/// The intervals of the log together have every message.
fn check_log(path: &std::path::Path) -> Outcome {
    wait_until(SHORT, "the log to have every message", || {
        let log = fs::read(path).unwrap_or_default();
        let mut sum = 0;
        for entry in IntervalLogIterator::new(&log) {
            let Ok(LogEntry::Interval(interval)) = entry else { continue };
            let tag = interval.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
            if tag.starts_with("inside/to_tunnel/") && tag.ends_with("/echo") {
                sum += count(interval.encoded_histogram());
            }
        }
        sum == MESSAGES
    })
}

/// How many times an interval's histogram has.
fn count(encoded: &str) -> u64 {
    use base64::Engine;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64");
    let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("V2");
    read.len()
}
