//! The comparison with what every system has: `ssh -R`, one connection for all flows.

use netns_tests::{Host, Lab, Process};

use crate::bed::{PEER, listening};
use crate::error::BenchError;
use crate::load::Load;
use crate::way::{SERVICES, Way};

/// Starts an sshd on the relay's host and a client inside, and waits until each service listens.
pub(crate) fn start(lab: &Lab) -> Result<Vec<Process>, BenchError> {
    let (relay, icp) = (lab.host("relay"), lab.host("icp"));
    let port = Way::Ssh.tunnel_port().unwrap_or_default();
    let folder = lab.path().display().to_string();
    relay.shell(&format!(
        "ssh-keygen -q -t ed25519 -N '' -f {folder}/bench-ssh-host; \
         ssh-keygen -q -t ed25519 -N '' -f {folder}/bench-ssh-client; \
         cp {folder}/bench-ssh-client.pub {folder}/bench-ssh-authorized; \
         chmod 600 {folder}/bench-ssh-authorized"
    ))?;
    let server = serve(&relay, &folder, port)?;
    let peer = lab.host(PEER).address();
    let client = icp.spawn(client(&folder, relay.address(), port, peer))?;
    for service in SERVICES {
        listening(&relay, Way::Ssh.entry_port(service))?;
    }
    Ok(vec![server, client])
}

/// One sshd for the one connection.
fn serve(relay: &Host<'_>, folder: &str, port: u16) -> Result<Process, BenchError> {
    // It wants its whole name.
    let sshd = relay.shell("command -v sshd")?.stdout.trim().to_owned();
    let options = [
        format!("HostKey={folder}/bench-ssh-host"),
        format!("AuthorizedKeysFile={folder}/bench-ssh-authorized"),
        "PidFile=none".to_owned(),
        "StrictModes=no".to_owned(),
        "UsePAM=no".to_owned(),
        "PermitRootLogin=prohibit-password".to_owned(),
        // External peers come from other hosts.
        "GatewayPorts=clientspecified".to_owned(),
    ];
    let mut command: Vec<String> = vec![sshd];
    command.extend(["-i", "-e", "-f", "/dev/null"].map(str::to_owned));
    command.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    let process = Load::Inetd { port, command }.spawn(relay)?;
    listening(relay, port)?;
    Ok(process)
}

fn client(folder: &str, relay: &str, port: u16, peer: &str) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["ssh", "-N", "-T", "-F", "/dev/null"].map(str::to_owned).into();
    let options = [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ServerAliveInterval=15",
    ];
    arguments.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option.to_owned()]));
    arguments.extend(["-i".to_owned(), format!("{folder}/bench-ssh-client")]);
    arguments.extend(["-p".to_owned(), port.to_string()]);
    for service in SERVICES {
        let (entry, own) = (Way::Ssh.entry_port(service), service.port);
        arguments.extend(["-R".to_owned(), format!("0.0.0.0:{entry}:{peer}:{own}")]);
    }
    arguments.push(format!("root@{relay}"));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every service has an entry of its own, open to other hosts than the relay's.
    #[test]
    fn each_service_is_forwarded_to_all_addresses() {
        let arguments = client("/lab", "192.0.2.1", 2222, "192.0.2.9");
        let forwarded: Vec<_> =
            arguments.iter().filter(|word| word.starts_with("0.0.0.0:")).collect();
        assert_eq!(forwarded.len(), SERVICES.len());
        assert_eq!(forwarded[1], "0.0.0.0:18007:192.0.2.9:5007");
    }
}
