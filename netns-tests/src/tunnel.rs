//! The whole of Adit in a lab: keys, configurations, both daemons.

mod external;
mod upgrade;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::{Binaries, Host, Lab, LabError, Process, SHORT, binaries, wait_until};
use external::External;

/// The port that the tunnel uses: what the strictest firewall lets out.
const TUNNEL_PORT: u16 = 443;

/// An internal peer of the forwarder's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it serves.
    pub target: String,
    /// What it takes: `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its public port at the relay.
    pub port: u16,
}

/// Which of the two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// `adit run`, inside.
    Forwarder,
    /// `adit-relay run`, outside.
    Relay,
}

/// What a tunnel shall be; it begins with [`Tunnel::builder`].
#[derive(Debug, Clone)]
pub struct TunnelBuilder {
    peers: Vec<Peer>,
    ports: Vec<String>,
    forwarder: String,
    relay: String,
    forwarder_extra: String,
    forwarder_tail: String,
    relay_extra: String,
    policy: String,
    arguments: Vec<String>,
    externals: Vec<External>,
}

impl TunnelBuilder {
    /// Registers an internal peer at a public port.
    #[must_use]
    pub fn peer(mut self, name: &str, tcp: &str, port: u16) -> Self {
        let (name, target) = (name.to_owned(), tcp.to_owned());
        self.peers.push(Peer { name, target, protocol: "tcp", port });
        self
    }

    /// Registers an internal peer that takes datagrams at a public UDP port.
    #[must_use]
    pub fn udp_peer(mut self, name: &str, udp: &str, port: u16) -> Self {
        let (name, target) = (name.to_owned(), udp.to_owned());
        self.peers.push(Peer { name, target, protocol: "udp", port });
        self
    }

    /// Which public ports the relay allows; ports 2222 and 8000 to 8100 otherwise.
    #[must_use]
    pub fn allow(mut self, ports: &[&str]) -> Self {
        self.ports = ports.iter().map(|&port| port.to_owned()).collect();
        self
    }

    /// The hosts of the two daemons; `icp` and `relay` otherwise.
    #[must_use]
    pub fn on(mut self, forwarder: &str, relay: &str) -> Self {
        forwarder.clone_into(&mut self.forwarder);
        relay.clone_into(&mut self.relay);
        self
    }

    /// Lines for the top of the forwarder's and of the relay's configuration.
    #[must_use]
    pub fn extra(mut self, forwarder: &str, relay: &str) -> Self {
        forwarder.clone_into(&mut self.forwarder_extra);
        relay.clone_into(&mut self.relay_extra);
        self
    }

    /// Tables for the end of the forwarder's configuration.
    #[must_use]
    pub fn tail(mut self, tables: &str) -> Self {
        tables.clone_into(&mut self.forwarder_tail);
        self
    }

    /// Lines for the forwarder's entry in the relay's configuration.
    #[must_use]
    pub fn policy(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.policy);
        self
    }

    /// More arguments for both daemons.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// An external peer with a key of its own, and the lines of its entry in the relay's
    /// configuration.
    #[must_use]
    pub fn external(mut self, name: &str, lines: &str) -> Self {
        self.externals.push(External::new("external", name, lines));
        self
    }

    /// Another forwarder with a key of its own, and the lines of its entry in the relay's
    /// configuration; [`Tunnel::start_rival_of`] starts it.
    #[must_use]
    pub fn rival(mut self, name: &str, lines: &str) -> Self {
        self.externals.push(External::new("forwarder", name, lines));
        self
    }

    /// Writes keys and configurations, starts both daemons, and waits until every contact point
    /// stands.
    ///
    /// # Errors
    /// When a daemon does not do its part in time; the error shows the end of its log.
    pub fn start(self, lab: &Lab) -> Result<Tunnel<'_>, LabError> {
        let mut tunnel = self.prepare(lab)?;
        tunnel.start_relay()?;
        tunnel.start_forwarder()?;
        tunnel.wait_registered()?;
        Ok(tunnel)
    }

    /// Writes keys and configurations only.
    ///
    /// # Errors
    /// When the daemons cannot be built, or make no keys.
    pub fn prepare(self, lab: &Lab) -> Result<Tunnel<'_>, LabError> {
        let binaries = binaries()?;
        let (forwarder, relay) = (lab.host(&self.forwarder), lab.host(&self.relay));
        let forwarder_key = keygen(&forwarder, &binaries.adit, "adit.key")?;
        let relay_key = keygen(&relay, &binaries.relay, "relay.key")?;
        let key_of = |external: &External| keygen(&relay, &binaries.adit, &external.key_file());
        let external_keys = self.externals.iter().map(key_of).collect::<Result<_, _>>()?;
        let tunnel = Tunnel {
            forwarder_host: forwarder,
            relay_host: relay,
            binaries,
            forwarder: None,
            relay: None,
            forwarder_key,
            relay_key,
            external_keys,
            lab,
            plan: self,
        };
        tunnel.write_configurations()?;
        Ok(tunnel)
    }
}

/// A running Adit.
#[derive(Debug)]
pub struct Tunnel<'a> {
    lab: &'a Lab,
    plan: TunnelBuilder,
    binaries: Binaries,
    forwarder_host: Host<'a>,
    relay_host: Host<'a>,
    forwarder: Option<Process>,
    relay: Option<Process>,
    /// The forwarder's public key, as the relay's configuration names it.
    pub forwarder_key: String,
    /// The relay's public key, as the forwarder's configuration names it.
    pub relay_key: String,
    /// Those of the external peers, in the order of the plan.
    external_keys: Vec<String>,
}

impl Tunnel<'_> {
    /// A tunnel without peers yet.
    #[must_use]
    pub fn builder() -> TunnelBuilder {
        TunnelBuilder {
            peers: Vec::new(),
            ports: vec!["2222".to_owned(), "8000-8100".to_owned()],
            forwarder: "icp".to_owned(),
            relay: "relay".to_owned(),
            forwarder_extra: String::new(),
            forwarder_tail: String::new(),
            relay_extra: String::new(),
            policy: String::new(),
            arguments: Vec::new(),
            externals: Vec::new(),
        }
    }

    /// Where a public port is reached.
    #[must_use]
    pub fn contact(&self, port: u16) -> String {
        self.relay_host.at(port)
    }

    /// Where the tunnel is reached.
    #[must_use]
    pub fn tunnel_address(&self) -> String {
        self.relay_host.at(TUNNEL_PORT)
    }

    /// The peers in the forwarder's configuration; write them with
    /// [`Tunnel::write_configurations`].
    pub fn peers_mut(&mut self) -> &mut Vec<Peer> {
        &mut self.plan.peers
    }

    /// Starts the relay.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub fn start_relay(&mut self) -> Result<(), LabError> {
        let process = self.spawn(&self.relay_host, &self.binaries.relay, "relay.toml")?;
        let process = self.relay.insert(process);
        let filter = format!("sport = :{TUNNEL_PORT}");
        wait_until(SHORT, "the relay to listen", || {
            let sockets = self.relay_host.run(["ss", "-Hltn", &filter]);
            !process.runs() || sockets.is_ok_and(|output| !output.stdout.trim().is_empty())
        })?;
        // A relay that died says why.
        if process.runs() { Ok(()) } else { process.finish(SHORT).map(|_| ()) }
    }

    /// Starts the forwarder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_forwarder(&mut self) -> Result<(), LabError> {
        let process = self.spawn(&self.forwarder_host, &self.binaries.adit, "adit.toml")?;
        self.forwarder = Some(process);
        Ok(())
    }

    /// Waits until the forwarder has said that its tunnel is up and every peer of its configuration
    /// registered.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_registered(&mut self) -> Result<(), LabError> {
        self.process_mut(Daemon::Forwarder)?.wait_for_log("tunnel up", SHORT)?;
        for peer in self.plan.peers.clone() {
            let port = format!(":{}", peer.port);
            self.process_mut(Daemon::Forwarder)?.wait_for_line(
                &format!("registered {} {port}", peer.name),
                SHORT,
                |line| {
                    line.contains("registered") && line.contains(&peer.name) && line.contains(&port)
                },
            )?;
        }
        Ok(())
    }

    /// One of the daemons.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process_mut(&mut self, daemon: Daemon) -> Result<&mut Process, LabError> {
        let process = match daemon {
            Daemon::Forwarder => self.forwarder.as_mut(),
            Daemon::Relay => self.relay.as_mut(),
        };
        process.ok_or_else(|| LabError::Unexpected {
            what: format!("{daemon:?}"),
            text: "it was not started".to_owned(),
        })
    }

    /// Kills a daemon and starts it anew.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn restart(&mut self, daemon: Daemon) -> Result<(), LabError> {
        let process = self.process_mut(daemon)?;
        process.kill();
        let pid = process.pid();
        wait_until(SHORT, "the killed daemon to be gone", || is_gone(pid))?;
        match daemon {
            Daemon::Forwarder => self.start_forwarder(),
            Daemon::Relay => self.start_relay(),
        }
    }

    /// Tells the forwarder to read its configuration again.
    ///
    /// # Errors
    /// When it is gone.
    pub fn reload(&mut self) -> Result<(), LabError> {
        self.process_mut(Daemon::Forwarder)?.signal(Signal::SIGHUP)
    }

    /// What a daemon says of itself.
    ///
    /// # Errors
    /// When it does not answer, or not in JSON.
    pub fn status(&self, daemon: Daemon) -> Result<serde_json::Value, LabError> {
        let (host, binary, socket) = match daemon {
            Daemon::Forwarder => (&self.forwarder_host, &self.binaries.adit, "adit.sock"),
            Daemon::Relay => (&self.relay_host, &self.binaries.relay, "relay.sock"),
        };
        let socket = self.path(socket);
        let printed = host
            .run_ok([
                binary.as_os_str(),
                "status".as_ref(),
                "--socket".as_ref(),
                socket.as_os_str(),
                "--json".as_ref(),
            ])?
            .stdout;
        serde_json::from_str(&printed).map_err(|error| LabError::Unexpected {
            what: format!("status ({error})"),
            text: printed,
        })
    }

    /// How many attempts the relay has refused for `cause`, as its status names it.
    ///
    /// # Errors
    /// When its status cannot be had, or knows no such cause.
    pub fn refused(&self, cause: &str) -> Result<u64, LabError> {
        let status = self.status(Daemon::Relay)?;
        let count = status.get("refused").and_then(|causes| causes.get(cause)?.as_u64());
        count.ok_or_else(|| LabError::Unexpected {
            what: format!("`refused.{cause}`"),
            text: status.to_string(),
        })
    }

    /// The forwarder's session, as its status names it.
    ///
    /// # Errors
    /// When it has none.
    pub fn session(&self) -> Result<String, LabError> {
        let status = self.status(Daemon::Forwarder)?;
        let session = status.get("session").and_then(|session| session.as_str());
        session.map(str::to_owned).ok_or_else(|| LabError::Unexpected {
            what: "`session`".to_owned(),
            text: status.to_string(),
        })
    }

    /// How many times the forwarder's session went on over a new carrier.
    ///
    /// # Errors
    /// When its status cannot be had, or does not say.
    pub fn resumptions(&self) -> Result<u64, LabError> {
        let status = self.status(Daemon::Forwarder)?;
        let count = status.get("carrier").and_then(|carrier| carrier.get("resumptions")?.as_u64());
        count.ok_or_else(|| LabError::Unexpected {
            what: "`carrier.resumptions`".to_owned(),
            text: status.to_string(),
        })
    }

    /// Bytes in a daemon's buffers.
    ///
    /// # Errors
    /// When its status cannot be had, or does not say.
    pub fn memory_held(&self, daemon: Daemon) -> Result<u64, LabError> {
        let status = self.status(daemon)?;
        let held = status.get("memory").and_then(|memory| memory.get("held")?.as_u64());
        held.ok_or_else(|| LabError::Unexpected {
            what: "`memory.held`".to_owned(),
            text: status.to_string(),
        })
    }

    /// How many files, sockets included, a daemon has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open_files(&mut self, daemon: Daemon) -> Result<usize, LabError> {
        let path = format!("/proc/{}/fd", self.process_mut(daemon)?.pid());
        let files = fs::read_dir(&path).map_err(LabError::io(format!("listing {path}")))?;
        Ok(files.count())
    }

    /// Starts another forwarder on `host` with the same key and the same peers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_rival(&self, host: &Host<'_>) -> Result<Process, LabError> {
        write(&self.path("rival.toml"), &self.forwarder_configuration("rival.sock"))?;
        self.spawn(host, &self.binaries.adit, "rival.toml")
    }

    fn spawn(&self, host: &Host<'_>, daemon: &Path, file: &str) -> Result<Process, LabError> {
        let file = self.path(file);
        let command = [daemon.as_os_str(), "run".as_ref(), "-c".as_ref(), file.as_os_str()];
        host.spawn(command.into_iter().chain(self.plan.arguments.iter().map(AsRef::as_ref)))
    }

    /// Writes both configurations.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write_configurations(&self) -> Result<(), LabError> {
        let has_datagrams = self.plan.peers.iter().any(|peer| peer.protocol == "udp");
        let udp_ports = if has_datagrams { &self.plan.ports[..] } else { &[] };
        let any = if self.relay_host.has_v4() { "0.0.0.0" } else { "[::]" };
        let mut relay = format!(
            "key = \"relay.key\"\nlisten = \"{any}:{TUNNEL_PORT}\"\nsocket = \"{}\"\n{}\n\
             [[forwarder]]\nname = \"office\"\nkey = \"{}\"\nports = {:?}\nudp_ports = {udp_ports:?}\n{}\n",
            self.path("relay.sock").display(),
            self.plan.relay_extra,
            self.forwarder_key,
            self.plan.ports,
            self.plan.policy
        );
        relay.push_str(&self.external_entries());
        write(&self.path("adit.toml"), &self.forwarder_configuration("adit.sock"))?;
        write(&self.path("relay.toml"), &relay)
    }

    fn forwarder_configuration(&self, socket: &str) -> String {
        let relay_key = &self.relay_key;
        let at = self.tunnel_address();
        let mut forwarder = format!(
            "key = \"adit.key\"\nrelay = \"{at}\"\nrelay_key = \"{relay_key}\"\n\
             socket = \"{}\"\n{}\n",
            self.path(socket).display(),
            self.plan.forwarder_extra
        );
        for Peer { name, target, protocol, port } in &self.plan.peers {
            // Writing to a String cannot fail.
            let written = writeln!(
                forwarder,
                "[[peer]]\nname = \"{name}\"\n{protocol} = \"{target}\"\n\
                 contact = \"public:{port}\""
            );
            debug_assert!(written.is_ok());
        }
        forwarder.push_str(&self.plan.forwarder_tail);
        forwarder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.lab.path().join(file)
    }
}

/// Makes a key in the lab's folder; returns its public half.
fn keygen(host: &Host<'_>, daemon: &Path, file: &str) -> Result<String, LabError> {
    let path = host.lab().path().join(file);
    let arguments = [daemon.as_os_str(), "keygen".as_ref(), "--out".as_ref(), path.as_os_str()];
    let printed = host.run_ok(arguments)?.stdout;
    let key = printed.split_whitespace().find(|word| word.starts_with("ed25519:"));
    key.map(str::to_owned).ok_or_else(|| LabError::Unexpected {
        what: "keygen's public key".to_owned(),
        text: printed.clone(),
    })
}

/// Whether nothing of the process runs any more: not even a thread that still holds its sockets. The
/// rest of it may stay, since process 1 of a lab reads no child's end.
pub(crate) fn is_gone(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    threads == 0 || (threads == 1 && state == Some("Z"))
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("writing {}", path.display())))
}
