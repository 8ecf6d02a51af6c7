//! The conditions that figures hold under.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, thread};

use netns_tests::{Host, Lab, preflight};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::BenchError;
use crate::way::Way;
use crate::{adit, bed, bore, frp, haproxy, rathole};

/// What the published figures are taken under.
pub(crate) const WANTED_CONGESTION: &str = "cubic";
const CONGESTION: &str = "net.ipv4.tcp_congestion_control";
/// The lab's hosts whose connections are measured.
const ENDS: [&str; 4] = [bed::EXTERNAL, "relay", "icp", bed::PEER];

/// Two for each of the most connections that are held at once, and then some.
const FILES_WANTED: u64 = 65_536;

/// Lets this process and all that it starts open as many files as it takes to hold 10,000 connections, or
/// as many as the machine allows: only root may raise the hard limit.
pub(crate) fn raise_file_limit() -> Result<(), BenchError> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let wanted = hard.max(FILES_WANTED);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
            .or_else(|_not_root| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
    });
    raised.map_err(|error| BenchError::io("raising the limit of open files")(error.into()))
}

/// How many connections a process can hold that has two descriptors for each, and a few of its own.
pub(crate) fn pairs_max() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(files / 100 * 45).unwrap_or(usize::MAX)
}

/// Asks for the wanted congestion control on every end, before anything connects; programs inherit
/// it from their namespace. What came of it stands in the conditions: a kernel may not allow it.
pub(crate) fn choose_congestion(lab: &Lab, wanted: &str) -> Result<(), BenchError> {
    for end in ENDS {
        lab.host(end).run(["sysctl", "-q", "-w", &format!("{CONGESTION}={wanted}")])?;
    }
    Ok(())
}

/// The congestion control that this machine has by default.
pub(crate) fn own_congestion() -> String {
    read("/proc/sys/net/ipv4/tcp_congestion_control")
}

/// A program that may be missing: what `variable` names, or what the search path has, or the folder
/// that `cargo install` fills.
pub(crate) fn installed(program: &str, variable: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from);
    let path = preflight::search_path();
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    let folders = path.split(':').map(PathBuf::from).chain(cargo.map(|cargo| cargo.join("bin")));
    let mut found = folders.map(|folder| folder.join(program));
    named.or_else(|| found.find(|program| program.is_file()))
}

/// Everything that has to stand beside a figure.
pub(crate) fn conditions(lab: &Lab, ways: &[Way]) -> Result<Vec<(String, String)>, BenchError> {
    conditions_under(WANTED_CONGESTION, lab, ways)
}

/// The same where the ends should have that congestion control.
pub(crate) fn conditions_under(
    wanted: &str,
    lab: &Lab,
    ways: &[Way],
) -> Result<Vec<(String, String)>, BenchError> {
    let mut conditions = bare_conditions();
    conditions.extend([
        ("congestion control".to_owned(), congestion(lab, wanted)?),
        ("links".to_owned(), links(&lab.host(bed::EXTERNAL))?),
        ("versions".to_owned(), versions(ways)?),
    ]);
    Ok(conditions)
}

/// Those of a measurement without a lab.
pub(crate) fn bare_conditions() -> Vec<(String, String)> {
    vec![
        ("command".to_owned(), command_line()),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
        ("processors".to_owned(), processors()),
        ("machine".to_owned(), machine()),
    ]
}

/// Stands beside times that were taken with spinners.
pub(crate) fn spinners() -> (String, String) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let text =
        format!("{cores}, SCHED_IDLE, one bound to each processor, while round trips are timed");
    ("spinners".to_owned(), text)
}

/// What all TCP sockets of this kernel, in whatever namespace, hold in memory, as a part of what they
/// may before their send buffers stop growing (the first number of `tcp_mem`).
pub(crate) fn tcp_memory() -> Result<f64, BenchError> {
    let (stat, bounds) = (read("/proc/net/sockstat"), read("/proc/sys/net/ipv4/tcp_mem"));
    let held = stat.lines().find_map(|line| line.strip_prefix("TCP:")?.split_once(" mem "));
    let pages = |text: &str| text.split_whitespace().next()?.parse::<u32>().ok();
    let share = held.and_then(|(_, held)| Some((pages(held)?, pages(&bounds)?)));
    let (held, bound) = share
        .ok_or_else(|| BenchError::unexpected("sockstat, tcp_mem", format!("{stat}, {bounds}")))?;
    Ok(f64::from(held) / f64::from(bound))
}

/// The command that repeats the figures, wherever the program lies and the report goes.
fn command_line() -> String {
    let mut words: Vec<_> = env::args().skip(1).collect();
    words.retain(|word| !word.starts_with("--markdown=") && !word.starts_with("--out="));
    for place in ["--markdown", "--out"] {
        if let Some(at) = words.iter().position(|word| word == place) {
            words.drain(at..words.len().min(at + 2));
        }
    }
    format!("`cargo run --release -p adit-bench -- {}`", words.join(" "))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn processors() -> String {
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} × {model}")
}

fn machine() -> String {
    let info = read("/proc/cpuinfo");
    let flags = info.lines().find(|line| line.starts_with("flags"));
    if !flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")) {
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        return format!("not virtual, frequency governor {governor}");
    }
    let kind =
        said(Path::new("systemd-detect-virt"), &["--vm"]).unwrap_or_else(|| "unknown".to_owned());
    format!("virtual ({kind})")
}

/// What each namespace really has, whatever the lab asked for.
fn congestion(lab: &Lab, wanted: &str) -> Result<String, BenchError> {
    let mut found = Vec::new();
    for end in ENDS {
        let shown = lab.host(end).run_ok(["sysctl", "-n", CONGESTION])?;
        found.push(format!("{} on {end}", shown.stdout.trim()));
    }
    let everywhere = found.iter().all(|found| found.starts_with(wanted));
    let cure = if everywhere {
        String::new()
    } else {
        format!(
            " (not {wanted} everywhere: allow it with \
             `sysctl net.ipv4.tcp_allowed_congestion_control=\"reno bbr cubic\"`)"
        )
    };
    Ok(format!("{}{cure}", found.join(", ")))
}

/// The links' size and offloads.
fn links(host: &Host<'_>) -> Result<String, BenchError> {
    let shown = host.run_ok(["ip", "-d", "-o", "link", "show", "eth0"])?.stdout;
    let words: Vec<_> = shown.split_whitespace().collect();
    let sizes: Vec<_> = words
        .windows(2)
        .filter(|pair| matches!(pair[0], "mtu" | "gso_max_size" | "gro_max_size"))
        .map(|pair| pair.join(" "))
        .collect();
    let features = host.run(["ethtool", "-k", "eth0"])?;
    if !features.success() {
        return Ok(format!("veth, {}; offloads not read: no ethtool", sizes.join(", ")));
    }
    let offloads: Vec<_> = features
        .stdout
        .lines()
        .filter_map(|line| {
            let (name, state) = line.trim().split_once(": ")?;
            let short = match name {
                "tcp-segmentation-offload" => "TSO",
                "generic-segmentation-offload" => "GSO",
                "generic-receive-offload" => "GRO",
                "tx-checksumming" => "checksums",
                _ => return None,
            };
            Some(format!("{short} {}", state.split_whitespace().next()?))
        })
        .collect();
    Ok(format!("veth, {}; {}", sizes.join(", "), offloads.join(", ")))
}

fn versions(ways: &[Way]) -> Result<String, BenchError> {
    let mut versions = vec![format!("adit-bench {}", env!("CARGO_PKG_VERSION"))];
    let mut add = |program: &Path, argument: &str, line: usize| {
        let said = said(program, &[argument]).unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        versions.push(said.lines().nth(line).map_or(name, |line| line.trim().to_owned()));
    };
    if ways.contains(&Way::Adit) {
        adit::programs()?.iter().for_each(|program| add(program, "--version", 0));
    }
    if ways.contains(&Way::Socat) {
        add(Path::new("socat"), "-V", 1);
    }
    if let Some(program) = haproxy::program().filter(|_| ways.iter().any(|way| way.is_haproxy())) {
        add(&program, "-v", 0);
    }
    add(Path::new("iperf3"), "--version", 0);
    for way in ways.iter().copied().filter(|way| way.is_wireguard()) {
        versions.extend(crate::wireguard::version(way));
    }
    if ways.iter().any(|way| way.is_rathole()) {
        versions.extend(rathole::version());
    }
    if ways.contains(&Way::Ssh) {
        versions.extend(ssh_version());
    }
    versions.extend(bore::version().filter(|_| ways.contains(&Way::Bore)));
    versions.extend(frp::version().filter(|_| ways.contains(&Way::Frp)));
    Ok(versions.join(", "))
}

/// ssh says it on standard error.
fn ssh_version() -> Option<String> {
    let path = preflight::search_path();
    let said = Command::new("ssh").arg("-V").env("PATH", path).output().ok()?.stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split(',').next().map(|version| version.trim().to_owned())
}

/// What a program prints, if it is there.
fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).env("PATH", preflight::search_path()).output();
    let said = String::from_utf8(output.ok()?.stdout).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}
