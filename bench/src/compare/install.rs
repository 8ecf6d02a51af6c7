//! Fetches what is compared with Adit: crates by cargo, the rest by the system's packages.

use std::process::Command;

use netns_tests::preflight;

use crate::machine;

/// Programs of crates; rathole without its lock file, with which it does not compile any more.
const CRATES: [(&str, &str, &[&str]); 3] = [
    ("rathole", "rathole", &[]),
    ("bore", "bore-cli", &["--locked"]),
    ("boringtun-cli", "boringtun-cli", &["--locked"]),
];

/// Programs of Debian's packages.
const PACKAGES: [(&str, &str); 6] = [
    ("haproxy", "haproxy"),
    ("socat", "socat"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
];

/// Installs what is missing. What cannot be had is left out of the comparison, and a line says so.
pub(super) fn missing() {
    for command in commands(|program| machine::installed(program, "").is_some()) {
        eprintln!("installing: {}", command.join(" "));
        if let Err(why) = run(&command) {
            eprintln!("`{}`: {why}", command.join(" "));
        }
    }
    eprintln!("frp is in neither registry: it is measured where frps and frpc are on the PATH");
}

/// The commands that install what is not.
fn commands(is_installed: impl Fn(&str) -> bool) -> Vec<Vec<&'static str>> {
    let mut commands = Vec::new();
    let packages = PACKAGES.iter().filter(|(program, _)| !is_installed(program));
    let packages: Vec<_> = packages.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        commands.push(vec!["apt-get", "update"]);
        let mut install = vec!["apt-get", "install", "-y", "--no-install-recommends"];
        install.extend(packages);
        commands.push(install);
    }
    for (_, name, more) in CRATES.iter().filter(|(program, ..)| !is_installed(program)) {
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
        assert!(commands(|_| true).is_empty());
        let some = commands(|program| !["bore", "haproxy", "socat"].contains(&program));
        assert_eq!(some[1][4..], ["haproxy", "socat"]);
        assert_eq!(some[2..], [vec!["cargo", "install", "bore-cli", "--locked"]]);
    }
}
