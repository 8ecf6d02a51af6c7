//! Strangers in numbers at the tunnel's port, and keys that are replaced: whoever is welcome is served
//! all the while. How fast is measured by `adit-bench flood`. The figures are those of `docs/security.md`.

use std::fs;
use std::time::Duration;

use netns_tests::{
    Daemon, LONG, Lab, LabError, Process, SHORT, STOPPED_MS, Swarm, SwarmPlan, Topology, Tunnel,
    helper, wait_until,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), LabError>;

/// Where the strangers live, one network after the other: none of it is the lab's.
const STRANGERS: &str = "198.18.0.1";
/// Connections of the flood, and the networks that they come from.
const FLOOD: (u32, u32) = (20_000, 8);
/// What the flood may add to the relay's memory.
const FLOOD_BYTES_MAX: u64 = 64 << 20;
/// Slow handshakes at once, and the networks that they come from.
const SLOW: (u32, u32) = (1_000, 16);
/// A handshake's deadline, and what a busy machine may add.
const SLOW_MS: std::ops::RangeInclusive<u64> = 9_000..=11_000;

/// Gives the external host addresses in so many networks.
fn settle_strangers(lab: &Lab, networks: u32) -> Outcome {
    let (ext, relay) = (lab.host("ext"), lab.host("relay"));
    let addresses =
        (0..networks).map(|network| format!("ip addr add 198.18.{network}.1/32 dev lo\n"));
    ext.shell(&addresses.collect::<String>())?;
    relay.route("198.18.0.0/16", ext.address())
}

/// A tunnel with an echo, a control flow through it, and somebody else who may come.
struct Welcome<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
    pulse: Process,
    _echo: Process,
}

impl<'a> Welcome<'a> {
    fn start(lab: &'a Lab) -> Result<Self, LabError> {
        let echo = lab.host("peer3").serve("echo", 7, &[])?;
        let tunnel = Tunnel::builder()
            .peer("echo", "192.168.50.3:7", 8003)
            .external("friend", "calls = [\"echo\"]\n")
            .start(lab)?;
        let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8003), &[])?;
        pulse.wait_for_log("beating", SHORT)?;
        Ok(Self { lab, tunnel, pulse, _echo: echo })
    }

    /// Somebody else's handshake is made, and bytes cross, byte for byte.
    fn are_served(&self) -> Outcome {
        let listen = ["echo", "--listen", "127.0.0.1:7000"];
        let mut friend = self.tunnel.connect(&self.lab.host("peer4"), "friend", &listen)?;
        friend.wait_for_log("tunnel up", SHORT)?;
        let contact = self.tunnel.contact(8003);
        self.lab.host("ext").play("half-close", &contact, &["8000000"]).map(|_| ())
    }

    /// The control flow beat all the while.
    fn were_unharmed(mut self) -> Outcome {
        let said = self.pulse.finish(SHORT)?;
        let slowest = figure(&said, "slowest_ms");
        assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{said}");
        Ok(())
    }
}

/// The number behind a word.
fn figure(said: &str, word: &str) -> Option<u64> {
    said.split_whitespace().skip_while(|said| *said != word).nth(1)?.parse().ok()
}

/// 20,000 connections from 8 networks that begin a handshake add less than 64 MiB to the relay, a flow
/// that runs goes on, and somebody else's handshake is made. The control: nearly all of them
/// were turned away at the door.
#[test]
fn flood_of_strangers_costs_little_and_stops_nobody() -> Outcome {
    let lab = Topology::STANDARD.build("flood")?;
    let (count, networks) = FLOOD;
    settle_strangers(&lab, networks)?;
    let mut welcome = Welcome::start(&lab)?;
    let before = welcome.tunnel.process_mut(Daemon::Relay)?.resident_bytes()?;
    let program = helper("lab-peer")?.display().to_string();
    let to = welcome.tunnel.tunnel_address();
    // What 8 sources hold is more than the usual limit on open files.
    let script =
        format!("ulimit -n 8192; exec {program} flood {to} {STRANGERS} {networks} {count}");
    let mut flood = lab.host("ext").spawn_console(["sh", "-c", &script])?;
    let (mut peak, relay) = (before, welcome.tunnel.process_mut(Daemon::Relay)?);
    wait_until(LONG, "the end of the flood", || {
        peak = peak.max(relay.resident_bytes().unwrap_or(u64::MAX));
        !flood.runs() || flood.log().contains("flooded ")
    })?;
    welcome.are_served()?;
    let relay = welcome.tunnel.process_mut(Daemon::Relay)?;
    peak = peak.max(relay.resident_bytes()?);
    println!("the relay grew by {} KiB", (peak - before) >> 10);
    assert!(peak - before < FLOOD_BYTES_MAX, "from {before} to {peak}");
    let turned_away = welcome.tunnel.refused("over_limit")?;
    assert!(turned_away > u64::from(count) * 3 / 4, "{turned_away} of {count}");
    flood.finish(SHORT)?;
    welcome.were_unharmed()
}

/// A thousand handshakes of one byte a second are all closed at the deadline, and others are served
/// while they last.
#[test]
fn slow_handshakes_are_closed_at_the_deadline() -> Outcome {
    let lab = Topology::STANDARD.build("dawdle")?;
    let (count, networks) = SLOW;
    settle_strangers(&lab, networks)?;
    let welcome = Welcome::start(&lab)?;
    let (networks, count) = (networks.to_string(), count.to_string());
    let to = welcome.tunnel.tunnel_address();
    let mut slow = lab.host("ext").play_on("dawdle", &to, &[STRANGERS, &networks, &count])?;
    slow.wait_for_log("dawdling", SHORT)?;
    assert_eq!(welcome.tunnel.refused("handshake_timeout")?, 0, "they were closed too early");
    welcome.are_served()?;
    let said = slow.finish(LONG)?;
    for word in ["shortest_ms", "longest_ms"] {
        assert!(figure(&said, word).is_some_and(|ms| SLOW_MS.contains(&ms)), "{said}");
    }
    assert_eq!(welcome.tunnel.refused("handshake_timeout")?.to_string(), count);
    assert_eq!(welcome.tunnel.refused("over_limit")?, 0, "not all of them were let in");
    welcome.were_unharmed()
}

/// The relay's configuration, told to a relay that runs.
fn reconfigure(tunnel: &mut Tunnel<'_>, lab: &Lab, text: &str) -> Outcome {
    let path = lab.path().join("relay.toml");
    fs::write(&path, text).expect("a file");
    tunnel.process_mut(Daemon::Relay)?.signal(Signal::SIGHUP)
}

/// The table of one forwarder, cut out of the configuration.
fn without(text: &str, name: &str) -> String {
    let mut tables = text.split("[[forwarder]]\n");
    let top = tables.next().unwrap_or_default().to_owned();
    let is_other = |table: &&str| !table.starts_with(&format!("name = \"{name}\""));
    tables.filter(is_other).fold(top, |text, table| text + "[[forwarder]]\n" + table)
}

/// Flows to a contact point.
fn swarm(lab: &Lab, tunnel: &Tunnel<'_>, port: u16) -> Result<Swarm, LabError> {
    let plan = SwarmPlan::new(20).slice(Duration::from_millis(20));
    Swarm::start(&lab.host("ext"), &[&tunnel.contact(port)], &plan)
}

fn all_are_right(mut swarm: Swarm) -> Outcome {
    swarm.enough()?;
    let tally = swarm.finish(LONG)?;
    assert_eq!(tally.right, tally.flows, "{tally:?}");
    Ok(())
}

/// Another key is let in and the old one retired, under load: no flow of either is lost while its key
/// is good. The controls: the new key is refused before it is let in, and the old one after it is
/// retired.
#[test]
fn keys_are_rotated_under_load() -> Outcome {
    let lab = Topology::STANDARD.build("rotation")?;
    let _exchange = Swarm::exchange(&lab.host("peer3"), 7000)?;
    let mut tunnel = Tunnel::builder()
        .peer("web", "192.168.50.3:7000", 8003)
        .rival("next", "ports = [\"8010\"]\n")
        .prepare(&lab)?;
    let path = lab.path().join("relay.toml");
    let both = fs::read_to_string(&path).expect("a file");
    fs::write(&path, without(&both, "next")).expect("a file");
    tunnel.start_relay()?;
    tunnel.start_forwarder()?;
    tunnel.wait_registered()?;
    let old_flows = swarm(&lab, &tunnel, 8003)?;
    let peer =
        "[[peer]]\nname = \"next-web\"\ntcp = \"192.168.50.3:7000\"\ncontact = \"public:8010\"";
    let peer4 = lab.host("peer4");
    let (mut early, _socket) = tunnel.start_rival_of(&peer4, "next", peer)?;
    early.wait_for_log("does not accept this key", SHORT)?;
    early.kill();
    reconfigure(&mut tunnel, &lab, &both)?;
    // The relay reads its file a moment later.
    let mut next = None;
    wait_until(SHORT, "the new key to be let in", || {
        let Ok((mut begun, _socket)) = tunnel.start_rival_of(&peer4, "next", peer) else {
            return false;
        };
        let is_in = begun.wait_for_log("registered", Duration::from_secs(1)).is_ok();
        next = is_in.then_some(begun);
        is_in
    })?;
    let new_flows = swarm(&lab, &tunnel, 8010)?;
    all_are_right(old_flows)?;
    reconfigure(&mut tunnel, &lab, &without(&both, "office"))?;
    let forwarder = tunnel.process_mut(Daemon::Forwarder)?;
    forwarder.wait_for_log("the relay no longer accepts this key", SHORT)?;
    let mut late = tunnel.start_rival(&lab.host("peer5"))?;
    late.wait_for_log("does not accept this key", SHORT)?;
    assert!(tunnel.refused("unknown_key")? >= 2);
    all_are_right(new_flows)?;
    assert!(next.is_some_and(|mut next| next.runs()), "the new key's forwarder ended");
    Ok(())
}
