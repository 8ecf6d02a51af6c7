//! `adit-lab shell`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use clap::Args;

use super::topology;
use crate::{Lab, LabError, Process, Tunnel, binaries, draw, nginx, preflight};

/// Enters another host of the lab.
const ON: &str = "#!/bin/sh\nhost=$1; shift\nexec nsenter --net=/run/netns/\"$host\" -- \"$@\"\n";

#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    /// Which; `adit-lab list` names them.
    topology: String,
    /// The host to be on.
    #[arg(long, default_value = "ext")]
    on: String,
    /// A command to run there instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// What serves inside.
#[derive(Debug)]
struct Services {
    _processes: Vec<Process>,
}

impl ShellArgs {
    pub(super) fn run(&self) -> Result<ExitCode, LabError> {
        let scenario = topology(&self.topology)?;
        let builder = scenario.topology().draw(&self.topology);
        let names: Vec<_> = builder.joined().map(|(name, ..)| name.to_owned()).collect();
        if !names.contains(&self.on) {
            let names = names.join(", ");
            return Err(LabError::Claim(format!(
                "no host is called '{}'; there are {names}",
                self.on
            )));
        }
        let lab = builder.paced().build()?;
        let services = serve(&lab)?;
        let at = |host: &str, port| lab.host(host).at(port);
        let tunnel = Tunnel::builder()
            .peer("web", &at("peer3", 80), 8080)
            .peer("echo", &at("peer4", 7), 8007)
            .udp_peer("datagrams", &at("peer4", 7), 8007)
            .start(&lab)?;
        if self.command.is_empty() {
            print!("{}", draw::ascii(scenario.topology())?);
            print!("{}", self.greeting(&lab, &tunnel));
        }
        let code = self.enter(&lab)?;
        drop((tunnel, services));
        Ok(code)
    }

    fn greeting(&self, lab: &Lab, tunnel: &Tunnel<'_>) -> String {
        let folder = lab.path().display();
        format!(
            "\nYou are on {on}. `on HOST COMMAND` runs a command on another host.\n\n\
             curl http://{web}/            the web server of peer3, through the tunnel\n\
             lab-peer pulse {echo}         round trips to the echo of peer4 (end: Ctrl-D)\n\
             lab-peer datagram {echo} 100  a datagram there and back\n\
             on gw iptables -nvL                     the gateway's rules\n\
             on gw conntrack -L                      what it translates\n\
             on icp adit status --socket {folder}/adit.sock\n\
             on relay adit-relay status --socket {folder}/relay.sock\n\
             ls {folder}                             configurations, keys, logs\n\n\
             The lab is gone when you leave.\n",
            on = self.on,
            web = tunnel.contact(8080),
            echo = tunnel.contact(8007),
        )
    }

    fn enter(&self, lab: &Lab) -> Result<ExitCode, LabError> {
        let tools = lab.path().join("bin");
        let writing = format!("writing {}", tools.display());
        let written =
            fs::create_dir_all(&tools).and_then(|()| fs::write(tools.join("on"), ON)).and_then(
                |()| fs::set_permissions(tools.join("on"), fs::Permissions::from_mode(0o755)),
            );
        written.map_err(LabError::io(writing))?;
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        let words: Vec<OsString> = if self.command.is_empty() {
            vec![shell]
        } else {
            self.command.iter().map(OsString::from).collect()
        };
        let mut command = lab.host(&self.on).command(words);
        // The shell has the terminal only in the group that owns it.
        command.process_group(nix::unistd::getpgrp().as_raw());
        command.stdin(Stdio::inherit()).env("PATH", path(&tools)?).env("ADIT_LAB", &self.topology);
        let status = command.status().map_err(LabError::io(format!("entering {}", self.on)))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// A web server and two echoes inside.
fn serve(lab: &Lab) -> Result<Services, LabError> {
    let (web, echo) = (lab.host("peer3"), lab.host("peer4"));
    // /run is the lab's own.
    web.shell("mkdir -p /run/www; echo 'Hello from the inside.' > /run/www/index.html")?;
    let processes = vec![
        nginx(&web, 80, "/run/www".as_ref())?,
        echo.serve("echo", 7, &[])?,
        echo.serve("datagram-echo", 7, &[])?,
    ];
    Ok(Services { _processes: processes })
}

/// Where programs are found: the lab's own first, then Adit's.
fn path(tools: &Path) -> Result<String, LabError> {
    let own = binaries()?.adit;
    let helpers = crate::helper("lab-peer")?;
    let folders = [own.parent(), helpers.parent()];
    let mut path = tools.display().to_string();
    for folder in folders.into_iter().flatten() {
        path += &format!(":{}", folder.display());
    }
    Ok(format!("{path}:{}", preflight::search_path()))
}
