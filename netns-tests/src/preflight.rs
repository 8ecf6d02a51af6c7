//! Checks that the machine can carry the lab, and installs what is missing.
//!
//! Nothing is ever skipped for want of a tool: as root it is installed, otherwise the run fails with
//! the line that installs it.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::LabError;
use crate::paths::lock_file;

/// Each command the lab uses, and Debian's package for it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("iptables", "iptables"),
    ("ipset", "ipset"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("nginx", "nginx-light"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("iperf3", "iperf3"),
    ("socat", "socat"),
    ("tcpdump", "tcpdump"),
    ("tinyproxy", "tinyproxy-bin"),
    ("microsocks", "microsocks"),
    ("dig", "dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("gtlsclient", "ngtcp2-client"),
    ("gtlsserver", "ngtcp2-server"),
    ("openssl", "openssl"),
    ("wg", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
    ("ping", "iputils-ping"),
    ("pkill", "procps"),
    ("ethtool", "ethtool"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("chrt", "util-linux"),
    ("prlimit", "util-linux"),
    ("sha256sum", "coreutils"),
];

/// What packing, and trying what was packed, takes besides: whoever only runs the lab needs none of it.
const PACKING_TOOLS: &[(&str, &str)] = &[
    ("crun", "crun"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("jq", "jq"),
    ("lintian", "lintian"),
    ("mmdebstrap", "mmdebstrap"),
    ("skopeo", "skopeo"),
];

/// Where administrators' tools are, whether or not the caller's `PATH` says so.
const SYSTEM_FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Makes sure, once per process, that every tool is there.
///
/// # Errors
/// When a tool is missing and cannot be installed; the error holds the line that would.
pub fn ensure() -> Result<(), LabError> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        install_missing(TOOLS)?;
        DONE.get_or_init(|| ());
    }
    Ok(())
}

/// Makes sure that there is all that packing takes.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_packing() -> Result<(), LabError> {
    install_missing(PACKING_TOOLS)
}

/// Debian's packages of the tools that the lab runs.
#[must_use]
pub fn packages() -> Vec<&'static str> {
    packages_of(TOOLS.iter())
}

/// Looks for every tool, and installs nothing.
///
/// # Errors
/// When a tool is missing; the error holds the line that installs it.
pub fn check() -> Result<(), LabError> {
    let packages = missing(TOOLS);
    if packages.is_empty() {
        return Ok(());
    }
    Err(LabError::MissingTools { missing: packages.join(" "), cure: install_line(&packages) })
}

/// The `PATH` that programs of the lab see.
#[must_use]
pub fn search_path() -> String {
    match env::var("PATH") {
        Ok(path) => format!("{path}:{SYSTEM_FOLDERS}"),
        Err(_) => SYSTEM_FOLDERS.to_owned(),
    }
}

/// The line that installs `packages`.
fn install_line(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    format!("apt-get update && apt-get install -y --no-install-recommends {packages}")
}

/// Packages whose commands are not found.
fn missing(tools: &[(&str, &'static str)]) -> Vec<&'static str> {
    let path = search_path();
    let found = |tool: &str| path.split(':').any(|folder| Path::new(folder).join(tool).is_file());
    packages_of(tools.iter().filter(|(tool, _)| !found(tool)))
}

fn packages_of<'a>(tools: impl Iterator<Item = &'a (&'a str, &'static str)>) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install_missing(tools: &[(&str, &'static str)]) -> Result<(), LabError> {
    // Parallel tests must not race for dpkg's lock; whoever comes second finds nothing to do.
    let lock = lock_file("apt.lock")?;
    lock.lock().map_err(LabError::io("waiting for another preflight"))?;
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let line = install_line(&packages);
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::MissingTools { missing: packages.join(" "), cure: line });
    }
    // RUNLEVEL and SYSTEMD_OFFLINE keep the packages' scripts from starting nginx and sshd on the
    // machine itself: the lab wants the programs, not the services.
    let output = Command::new("sh")
        .args(["-c", &line])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .env("SYSTEMD_OFFLINE", "1")
        .env("PATH", search_path())
        .output()
        .map_err(LabError::io("running apt-get"))?;
    if output.status.success() && missing(tools).is_empty() {
        return Ok(());
    }
    Err(LabError::Command {
        command: line,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
