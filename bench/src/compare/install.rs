//! Fetches what is compared with Adit: crates by cargo, the rest by the system's packages.

use std::process::Command;

use netns_tests::preflight;

use crate::machine;

/// Programs of crates, and how else they may be named; rathole without its lock file, with which it does
/// not compile any more.
const CRATES: [(&str, &str, &str, &[&str]); 3] = [
    ("rathole", "RATHOLE_BIN", "rathole", &[]),
    ("bore", "BORE_BIN", "bore-cli", &["--locked"]),
    ("boringtun-cli", "BORINGTUN_BIN", "boringtun-cli", &["--locked"]),
];

/// Programs of Debian's packages; those without another name are found on the path alone.
const PACKAGES: [(&str, &str, &str); 6] = [
    ("haproxy", "HAPROXY_BIN", "haproxy"),
    ("socat", "", "socat"),
    ("wireguard-go", "WIREGUARD_GO_BIN", "wireguard-go"),
    ("wg", "WG_BIN", "wireguard-tools"),
    ("ssh", "", "openssh-client"),
    ("sshd", "", "openssh-server"),
];

/// Installs what is missing. What cannot be had is left out of the comparison, and a line says so.
pub(super) fn missing() {
    for command in commands(|program, variable| machine::installed(program, variable).is_some()) {
        eprintln!("installing: {}", command.join(" "));
        if let Err(why) = run(&command) {
            eprintln!("`{}`: {why}", command.join(" "));
        }
    }
    eprintln!("frp is in neither registry: it is measured where frps and frpc are on the PATH");
}

/// The commands that install what is not.
fn commands(is_installed: impl Fn(&str, &str) -> bool) -> Vec<Vec<&'static str>> {
    let mut commands = Vec::new();
    let is_missing = |program: &str, variable: &str| !is_installed(program, variable);
    let packages = PACKAGES.iter().filter(|(program, variable, _)| is_missing(program, variable));
    let packages: Vec<_> = packages.map(|(.., package)| *package).collect();
    if !packages.is_empty() {
        commands.push(vec!["apt-get", "update"]);
        let mut install = vec!["apt-get", "install", "-y", "--no-install-recommends"];
        install.extend(packages);
        commands.push(install);
    }
    let crates = CRATES.iter().filter(|(program, variable, ..)| is_missing(program, variable));
    for (.., name, more) in crates {
        let mut install = vec!["cargo", "install", name];
        install.extend(*more);
        commands.push(install);
    }
    commands
}

fn run(command: &[&str]) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    // Programs are wanted, not their services: RUNLEVEL and SYSTEMD_OFFLINE keep the packages' scripts from
    // starting haproxy and sshd on this machine.
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .env("SYSTEMD_OFFLINE", "1")
        .env("PATH", preflight::search_path())
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is fetched that is there, and one line fetches all missing packages.
    #[test]
    fn only_what_is_missing_is_installed() {
        assert!(commands(|_, _| true).is_empty());
        let some = commands(|program, _| !["bore", "haproxy", "socat"].contains(&program));
        assert_eq!(some[1][4..], ["haproxy", "socat"]);
        assert_eq!(some[2..], [vec!["cargo", "install", "bore-cli", "--locked"]]);
    }
}
