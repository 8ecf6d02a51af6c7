//! Whoever is not welcome is refused clearly, promptly and countably, and disturbs nobody.

use std::fs;
use std::time::Duration;

use netns_tests::{
    Daemon, Lab, LabError, Peer, Process, SHORT, STOPPED_MS, Topology, Tunnel, binaries, wait_until,
};

type Outcome = Result<(), LabError>;

/// A refusal takes at most this long.
const PROMPT: Duration = Duration::from_secs(10);

/// A running tunnel, with a control flow through it.
struct Control<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
    pulse: Process,
    _echo: Process,
}

impl<'a> Control<'a> {
    fn start(lab: &'a Lab) -> Result<Self, LabError> {
        let echo = lab.host("peer3").serve("echo", 7, &[])?;
        let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(lab)?;
        let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8003), &[])?;
        pulse.wait_for_log("beating", SHORT)?;
        Ok(Self { lab, tunnel, pulse, _echo: echo })
    }

    /// The relay counts at least `refusals` for this very cause; none came before.
    fn counted(&self, cause: &str, refusals: u64) -> Outcome {
        wait_until(PROMPT, &format!("the relay to count {cause}"), || {
            self.tunnel.refused(cause).is_ok_and(|now| now >= refusals)
        })
    }

    /// The control flow beat all the while.
    fn unharmed(mut self) -> Outcome {
        let said = self.pulse.finish(SHORT)?;
        let slowest = said.trim().rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
        assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{said}");
        for daemon in [Daemon::Forwarder, Daemon::Relay] {
            assert!(self.tunnel.process_mut(daemon)?.runs(), "{daemon:?} ended");
        }
        Ok(())
    }

    /// Starts another forwarder on `peer4`, with a key of its own, that expects `relay_key`.
    fn stranger(&self, relay_key: &str) -> Result<Process, LabError> {
        let (host, adit) = (self.lab.host("peer4"), binaries()?.adit.display().to_string());
        let folder = self.lab.path().display();
        host.run_ok([&adit, "keygen", "--out", &format!("{folder}/stranger.key")])?;
        let configuration = format!(
            "key = \"stranger.key\"\nrelay = \"{}\"\nrelay_key = \"{relay_key}\"\n\
             [[peer]]\nname = \"sly\"\ntcp = \"192.168.50.3:7\"\ncontact = \"public:8009\"\n",
            self.tunnel.tunnel_address()
        );
        let file = format!("{folder}/stranger.toml");
        fs::write(&file, configuration).expect("a file");
        host.spawn([&adit, "run", "-c", &file])
    }

    /// A peer more in the configuration of the welcome forwarder, which must hear a refusal that
    /// names it.
    fn refuses_peer(mut self, port: u16, cause: &str) -> Outcome {
        let peer = Peer {
            name: "greedy".to_owned(),
            target: "192.168.50.3:7".to_owned(),
            protocol: "tcp",
            port,
        };
        self.tunnel.peers_mut().push(peer);
        self.tunnel.write_configurations()?;
        self.tunnel.reload()?;
        let forwarder = self.tunnel.process_mut(Daemon::Forwarder)?;
        forwarder.wait_for_line("greedy … refused", PROMPT, |line| {
            line.contains("greedy") && line.to_lowercase().contains("refused")
        })?;
        self.counted(cause, 1)?;
        self.unharmed()
    }
}

/// A forwarder whose key the relay does not know gets a clear error and no contact point.
#[test]
fn unknown_forwarder_is_refused() -> Outcome {
    let lab = Topology::STANDARD.build("unknown")?;
    let control = Control::start(&lab)?;
    let mut stranger = control.stranger(&control.tunnel.relay_key)?;
    stranger.wait_for_line("a clear error", PROMPT, |line| {
        let line = line.to_lowercase();
        line.contains("does not accept this key")
    })?;
    control.counted("unknown_key", 1)?;
    assert!(lab.host("ext").play("connect", &control.tunnel.contact(8009), &[]).is_err());
    control.unharmed()
}

/// A relay whose key is not the expected one gets nothing from a forwarder.
#[test]
fn wrong_relay_key_is_refused() -> Outcome {
    let lab = Topology::STANDARD.build("wrong-key")?;
    let control = Control::start(&lab)?;
    // A valid key, but the forwarder's own.
    let mut stranger = control.stranger(&control.tunnel.forwarder_key)?;
    let (expected, found) = (&control.tunnel.forwarder_key, &control.tunnel.relay_key);
    stranger.wait_for_line("an error that names both keys", PROMPT, |line| {
        line.contains(expected.as_str()) && line.contains(found.as_str())
    })?;
    control.counted("other_relay_key", 1)?;
    control.unharmed()
}

/// A public port outside the forwarder's range is refused by name.
#[test]
fn port_that_is_not_allowed_is_refused() -> Outcome {
    let lab = Topology::STANDARD.build("not-allowed")?;
    Control::start(&lab)?.refuses_peer(9999, "port_not_allowed")
}

/// A public port that somebody else has is refused by name.
#[test]
fn port_that_is_taken_is_refused() -> Outcome {
    let lab = Topology::STANDARD.build("taken")?;
    let _squatter = lab.host("relay").serve("echo", 8050, &[])?;
    Control::start(&lab)?.refuses_peer(8050, "port_unavailable")
}

/// Everything that is no handshake is closed in time and counted.
fn abuse_is_closed_and_counted(kind: &str, cause: &str) -> Outcome {
    let lab = Topology::STANDARD.build(kind)?;
    let control = Control::start(&lab)?;
    let to = control.tunnel.tunnel_address();
    // Ten seconds by the relay's clock, and one for a busy machine.
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(lab.host("ext").play_on("abuse", &to, &[kind, "--within-s", "11"])?);
    }
    for stranger in &mut strangers {
        stranger.finish(Duration::from_secs(15))?;
    }
    control.counted(cause, 5)?;
    control.unharmed()
}

/// Bytes that are no TLS.
#[test]
fn garbage_is_closed_and_counted() -> Outcome {
    abuse_is_closed_and_counted("garbage", "not_tls")
}

/// A record cut short.
#[test]
fn truncated_record_is_closed_and_counted() -> Outcome {
    abuse_is_closed_and_counted("truncated", "handshake_closed")
}

/// A record longer than any may be.
#[test]
fn oversized_record_is_closed_and_counted() -> Outcome {
    abuse_is_closed_and_counted("oversized", "protocol")
}

/// A handshake that comes byte by byte.
#[test]
fn slow_loris_is_closed_and_counted() -> Outcome {
    abuse_is_closed_and_counted("slow-loris", "handshake_timeout")
}

/// A connection that says nothing.
#[test]
fn silent_connection_is_closed_and_counted() -> Outcome {
    abuse_is_closed_and_counted("silent", "handshake_timeout")
}
