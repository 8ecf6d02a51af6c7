//! What befalls a tunnel that lives long, beyond what a [`Trial`] tells.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::claim;
use crate::faults::{CONTROL_PORT, Direction, Fault};
use crate::{
    Daemon, Firewall, Lab, LabError, Nat, SHORT, Scene, SwarmPlan, Topology, Trial, Tunnel,
    wait_until,
};

/// A carrier that has been silent for so long is probed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long flows may take to move again.
const RECOVERY: Duration = Duration::from_secs(20);
/// How long an MTU black hole may go unnamed.
const NAMED_WITHIN: Duration = Duration::from_secs(15);
/// How long the relay keeps the contact points of a session that is over.
const LEASE: Duration = Duration::from_secs(60);
/// For how long a plain connection that is said to be dead hears nothing.
const SILENCE: Duration = Duration::from_secs(2);
/// When nothing is on its way any more that was sent before a fault.
const SETTLED: Duration = Duration::from_millis(500);
/// What plain connections beside the tunnel have.
const CONTROL_KBYTES_PER_SECOND: u64 = 100;
/// The mark of the rules.
const MARK: &str = "matrix-fault";

/// What is played.
#[derive(Debug, Clone, Copy)]
pub(super) enum Story {
    Trial(Trial),
    /// The gateway forgets connections that are silent for so long.
    Idle {
        forgets_s: u64,
        idle_s: u64,
        is_resumed: bool,
    },
    /// One direction is lost, until it is found out.
    HalfOpen(Direction),
    /// One end's socket is destroyed, and the reset never arrives.
    OneSided(Daemon),
    /// The forwarder is killed where nobody hears of it.
    DiesUnheard,
    /// No connection can begin; those that there are go on.
    SynsBlocked,
    /// Every new carrier leaves by another public address.
    Pooling,
    /// Large packets vanish.
    MtuBlackHole,
}

impl Story {
    pub(super) fn topology(self) -> Topology {
        match self {
            Self::MtuBlackHole => Topology::Single(Nat::PortRestricted, Firewall::MtuBlackHole),
            Self::Pooling => Topology::Single(Nat::ArbitraryPooling, Firewall::Outbound),
            _ => Topology::STANDARD,
        }
    }

    /// Plays it; returns what was seen.
    pub(super) fn play(self, lab: &Lab) -> Result<String, LabError> {
        match self {
            Self::Trial(trial) => trial.play(lab),
            Self::Idle { forgets_s, idle_s, is_resumed } => {
                idle(lab, forgets_s, idle_s, is_resumed)
            }
            Self::HalfOpen(direction) => half_open(lab, direction),
            Self::OneSided(end) => one_sided(lab, end),
            Self::DiesUnheard => dies_unheard(lab),
            Self::SynsBlocked => syns_blocked(lab),
            Self::Pooling => pooling(lab),
            Self::MtuBlackHole => mtu_black_hole(lab),
        }
    }
}

/// Ten idle flows through the tunnel, and one beside it, on a gateway that forgets the idle.
fn idle(lab: &Lab, forgets_s: u64, idle_s: u64, is_resumed: bool) -> Result<String, LabError> {
    let key = "net.netfilter.nf_conntrack_tcp_timeout_established";
    lab.gateway().shell(&format!("sysctl -qw {key}={forgets_s}"))?;
    let _inside = lab.host("peer3").serve("echo", 7, &[])?;
    let ext = lab.host("ext");
    let _outside = ext.serve("echo", 9000, &[])?;
    let tunnel = Tunnel::builder().peer("peer3", &lab.host("peer3").at(7), 8003).start(lab)?;
    let mut flows = ext.play_on("hold", &tunnel.contact(8003), &["10"])?;
    let mut control = lab.host("icp").play_on("hold", &ext.at(9000), &["1"])?;
    flows.wait_for_log("holding 10", SHORT)?;
    control.wait_for_log("holding 1", SHORT)?;
    // The length of the silence, not a wait for anything.
    thread::sleep(Duration::from_secs(idle_s));
    let resumed = tunnel.resumptions()?;
    flows.finish(RECOVERY)?;
    // What only speaking finds out counts too.
    let resumed_after = tunnel.resumptions()?;
    let control = control.finish(Duration::from_secs(40));
    claim(control.is_err(), || {
        "the plain idle connection lives: nothing was forgotten".to_owned()
    })?;
    claim((resumed > 0) == is_resumed, || format!("{resumed} resumptions in {idle_s} s"))?;
    claim(is_resumed || resumed_after == 0, || {
        format!("{resumed_after} resumptions when the flows spoke again")
    })?;
    Ok(format!(
        "10 flows idle for {idle_s} s live, {resumed} resumptions; the plain connection died"
    ))
}

/// Half of the path is gone: found out within two probes' time; when it is back, one session and no
/// registration that leads nowhere.
fn half_open(lab: &Lab, direction: Direction) -> Result<String, LabError> {
    let mut scene = Scene::open(lab, "")?;
    let mut swarm = scene.swarm(&SwarmPlan::new(10))?;
    let mut control = scene.control(CONTROL_KBYTES_PER_SECOND)?;
    let session = scene.tunnel.session()?;
    let struck = Fault::OneWay(direction).inject(lab)?;
    let since = Instant::now();
    let (mut inside, mut outside) = (None, None);
    wait_until(2 * KEEPALIVE, "both daemons to find the path half gone", || {
        if inside.is_none() && state(&scene.tunnel).is_ok_and(|state| state != "up") {
            inside = Some(since.elapsed());
        }
        if outside.is_none() && is_connected(&scene.tunnel).is_ok_and(|is| !is) {
            outside = Some(since.elapsed());
        }
        inside.is_some() && outside.is_some()
    })
    .map_err(|error| {
        let seen = format!("{error}: the forwarder after {inside:?}, the relay after {outside:?}");
        LabError::Claim(seen)
    })?;
    // What was on its way may still have come.
    control.must_stall(since + SETTLED, SILENCE)?;
    struck.lift()?;
    scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
    let tally = swarm.finish(RECOVERY)?;
    claim(tally.right == 10, || format!("{tally:?}"))?;
    claim(scene.tunnel.session()? == session, || "the session is another".to_owned())?;
    no_zombie(&scene.tunnel, 2)?;
    Ok(format!(
        "found after {:.1} s by the forwarder, {:.1} s by the relay; 10 flows, every SHA-256 right; one \
         session, two contact points; a plain connection stood still",
        inside.unwrap_or_default().as_secs_f64(),
        outside.unwrap_or_default().as_secs_f64()
    ))
}

/// One end believes in a connection that the other has lost.
fn one_sided(lab: &Lab, end: Daemon) -> Result<String, LabError> {
    let mut scene = Scene::open(lab, "")?;
    let mut swarm = scene.swarm(&SwarmPlan::new(10))?;
    let mut control = scene.control(CONTROL_KBYTES_PER_SECOND)?;
    let session = scene.tunnel.session()?;
    let rule = format!("FORWARD -p tcp --tcp-flags RST RST -m comment --comment {MARK} -j DROP");
    // The other end's packets find no socket, and the resets that answer them are lost as well.
    let gateway = lab.gateway();
    gateway.shell(&format!("iptables -w -I {rule}"))?;
    let (side, host, plain_host) = match end {
        Daemon::Forwarder => ("dport", "icp", "icp"),
        Daemon::Relay => ("sport", "relay", "ext"),
    };
    let destroy = |host: &str, port: u16| -> Result<bool, LabError> {
        let filter = format!("{side} = :{port}");
        let killed = lab.host(host).run_ok(["ss", "-HtnK", "state", "established", &filter])?;
        Ok(!killed.stdout.trim().is_empty())
    };
    let killed = destroy(plain_host, CONTROL_PORT)?;
    claim(killed, || "there was no plain connection to destroy".to_owned())?;
    claim(destroy(host, 443)?, || "there was no carrier to destroy".to_owned())?;
    let struck = Instant::now();
    let found = wait_until(2 * KEEPALIVE, "the session to go on over a new carrier", || {
        scene.tunnel.resumptions().is_ok_and(|count| count > 0)
    });
    let found_after = struck.elapsed();
    found?;
    let lost = gateway.rule_packets("FORWARD", MARK)?;
    claim(lost > 0, || "no reset was kept from the other end".to_owned())?;
    scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
    control.must_stall(struck + SETTLED, SILENCE)?;
    let tally = swarm.finish(RECOVERY)?;
    claim(tally.right == 10, || format!("{tally:?}"))?;
    claim(scene.tunnel.session()? == session, || "the session is another".to_owned())?;
    no_zombie(&scene.tunnel, 2)?;
    Ok(format!(
        "resumed after {:.1} s; {lost} resets were lost; 10 flows, every SHA-256 right; one session; a \
         plain connection stood still",
        found_after.as_secs_f64()
    ))
}

/// A forwarder is killed behind a hole: its registrations do not outlive the grace.
fn dies_unheard(lab: &Lab) -> Result<String, LabError> {
    const GRACE: Duration = Duration::from_secs(4);
    // A probe, then three times two seconds without an answer, the grace, and a busy machine.
    const GONE_WITHIN: Duration = Duration::from_secs(5 + 6 + GRACE.as_secs() + 5);
    let relay = format!("[session]\ngrace_s = {}", GRACE.as_secs());
    let mut scene = Scene::open(lab, &relay)?;
    no_zombie(&scene.tunnel, 2)?;
    // The control: a plain connection's server knows nothing of its caller's end.
    let _outside = lab.host("ext").serve("echo", 9001, &[])?;
    let mut control = lab.host("icp").play_on("hold", &lab.host("ext").at(9001), &["1"])?;
    control.wait_for_log("holding 1", SHORT)?;
    let struck = Fault::Hole.inject(lab)?;
    scene.tunnel.process_mut(Daemon::Forwarder)?.kill();
    control.kill();
    wait_until(GONE_WITHIN, "the relay to give up what the dead forwarder had", || {
        contact_points(&scene.tunnel).is_ok_and(|count| count == 0)
    })?;
    let gone_after = struck.at().elapsed();
    let filter = "sport = :9001";
    let listing = lab.host("ext").run_ok(["ss", "-Htn", "state", "established", filter])?.stdout;
    claim(!listing.trim().is_empty(), || "the plain server was told after all".to_owned())?;
    // Until its lease is over callers wait there, for a forwarder that may come back.
    let contact = scene.tunnel.contact(8003);
    wait_until(LEASE + Duration::from_secs(5), "the contact point to be shut", || {
        lab.host("ext").play("connect", &contact, &["--within-ms=400"]).is_err()
    })?;
    Ok(format!(
        "its session is over {:.1} s after its death, with a grace of {} s, its contact points shut \
         after {:.1} s, with a lease of {} s; a plain server still believes in its caller",
        gone_after.as_secs_f64(),
        GRACE.as_secs(),
        struck.at().elapsed().as_secs_f64(),
        LEASE.as_secs()
    ))
}

/// No connection can begin for twenty seconds, and the tunnel does not try to have another.
fn syns_blocked(lab: &Lab) -> Result<String, LabError> {
    const LASTS: Duration = Duration::from_secs(20);
    let mut scene = Scene::open(lab, "")?;
    let mut swarm = scene.swarm(&SwarmPlan::new(20))?;
    let _outside = lab.host("ext").serve("echo", 9001, &[])?;
    let session = scene.tunnel.session()?;
    let rule = |port: &str| {
        format!(
            "FORWARD -i lan0 -p tcp --syn{port} -m comment --comment {MARK}{} -j DROP",
            &port.replace(' ', "")
        )
    };
    let gateway = lab.gateway();
    let (tunnels, others) = (rule(" --dport 443"), rule(""));
    gateway.shell(&format!("iptables -w -I {others}; iptables -w -I {tunnels}"))?;
    let to = lab.host("ext").at(9001);
    let plain = lab.host("icp").play("connect", &to, &["--within-ms=1000"]).is_ok();
    claim(!plain, || "a plain connection begins: nothing is blocked".to_owned())?;
    // The claim is that nothing happens for so long.
    let begun = Instant::now();
    while begun.elapsed() < LASTS {
        claim(state(&scene.tunnel)? == "up", || "the carrier is not up any more".to_owned())?;
        thread::sleep(Duration::from_millis(200));
    }
    scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
    let tried = gateway.rule_packets("FORWARD", &format!("{MARK}--dport443"))?;
    claim(tried == 0, || format!("the forwarder dialled anew: {tried} packets"))?;
    let tally = swarm.finish(RECOVERY)?;
    claim(tally.right == 20, || format!("{tally:?}"))?;
    let is_kept = scene.tunnel.session()? == session && scene.tunnel.resumptions()? == 0;
    claim(is_kept, || "the carrier was not kept".to_owned())?;
    Ok("20 flows go on for 20 s on the carrier that was there; a plain connection cannot begin"
        .to_owned())
}

/// The carrier is lost again and again, and each new one comes from another of four addresses.
fn pooling(lab: &Lab) -> Result<String, LabError> {
    const LOSSES: u64 = 8;
    let mut scene = Scene::open(lab, "")?;
    let mut swarm = scene.swarm(&SwarmPlan::new(20))?;
    let session = scene.tunnel.session()?;
    let mut sources = BTreeSet::new();
    for losses in 1..=LOSSES {
        sources.extend(remote(&scene.tunnel)?);
        let mut control = scene.control(CONTROL_KBYTES_PER_SECOND)?;
        Fault::Severed(Daemon::Forwarder).inject(lab)?.lift()?;
        wait_until(RECOVERY, "the session to go on over a new carrier", || {
            scene.tunnel.resumptions().is_ok_and(|count| count >= losses)
        })?;
        scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
        control.must_stall(Instant::now(), SILENCE)?;
    }
    let tally = swarm.finish(RECOVERY)?;
    claim(tally.right == 20, || format!("{tally:?}"))?;
    claim(scene.tunnel.session()? == session, || "the session is another".to_owned())?;
    claim(sources.len() > 1, || format!("all carriers came from {sources:?}"))?;
    Ok(format!(
        "{LOSSES} carriers lost, {} public addresses seen by the relay; 20 flows, every SHA-256 right; \
         a plain connection died each time",
        sources.len()
    ))
}

/// The address from which the relay sees the forwarder.
fn remote(tunnel: &Tunnel<'_>) -> Result<Option<String>, LabError> {
    let status = tunnel.status(Daemon::Relay)?;
    let remote = status["forwarders"][0]["remote"].as_str();
    Ok(remote.and_then(|remote| Some(remote.rsplit_once(':')?.0.to_owned())))
}

/// How the forwarder names it.
const BLACK_HOLE: &str = "get lost on the way: MTU black hole (";

/// Packets of more than 1300 bytes vanish without a word, in both directions.
fn mtu_black_hole(lab: &Lab) -> Result<String, LabError> {
    let source = lab.host("ext").serve("source", 9000, &["200000"])?;
    let to = lab.host("ext").at(9000);
    let mut control = lab.host("icp").play_on("fetch", &to, &["200000"])?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let plan = Tunnel::builder().peer("peer3", &lab.host("peer3").at(7), 8003);
    let mut tunnel = plan.prepare(lab)?;
    tunnel.start_relay()?;
    tunnel.start_forwarder()?;
    let started = Instant::now();
    let line = tunnel.process_mut(Daemon::Forwarder)?.wait_for_line(
        "the tunnel to be up, or the black hole to be named",
        NAMED_WITHIN,
        |line| line.contains("tunnel up") || line.contains(BLACK_HOLE),
    )?;
    let after = started.elapsed().as_secs_f64();
    let seen = if line.contains("tunnel up") {
        tunnel.wait_registered()?;
        let contact = tunnel.contact(8003);
        lab.host("ext").play("half-close", &contact, &["1000000"])?;
        format!("passes, up after {after:.1} s, 1 MB there and back")
    } else {
        format!("named after {after:.1} s")
    };
    let plain = control.finish(Duration::from_secs(25));
    claim(plain.is_err(), || "plain TCP passes: there is no black hole".to_owned())?;
    drop(source);
    Ok(format!("{seen}; plain TCP fails"))
}

/// How the forwarder's carrier is.
fn state(tunnel: &Tunnel<'_>) -> Result<String, LabError> {
    let status = tunnel.status(Daemon::Forwarder)?;
    let state = status.get("carrier").and_then(|carrier| carrier.get("state")?.as_str());
    state.map(str::to_owned).ok_or_else(|| LabError::Unexpected {
        what: "`carrier.state`".to_owned(),
        text: status.to_string(),
    })
}

/// Whether the forwarder is there, as the relay sees it.
fn is_connected(tunnel: &Tunnel<'_>) -> Result<bool, LabError> {
    let status = tunnel.status(Daemon::Relay)?;
    status["forwarders"][0]["connected"].as_bool().ok_or_else(|| LabError::Unexpected {
        what: "`forwarders[0].connected`".to_owned(),
        text: status.to_string(),
    })
}

/// How many contact points of the relay lead to a session; others it only keeps for their owner.
fn contact_points(tunnel: &Tunnel<'_>) -> Result<usize, LabError> {
    let status = tunnel.status(Daemon::Relay)?;
    let forwarders = status.get("forwarders").and_then(|forwarders| forwarders.as_array());
    let leads = |contact: &&Value| contact.get("lease_s").is_none_or(Value::is_null);
    let count = |forwarder: &Value| {
        Some(forwarder.get("contacts")?.as_array()?.iter().filter(leads).count())
    };
    let found = forwarders.and_then(|all| all.iter().map(count).sum());
    found.ok_or_else(|| LabError::Unexpected {
        what: "`forwarders`".to_owned(),
        text: status.to_string(),
    })
}

fn no_zombie(tunnel: &Tunnel<'_>, expected: usize) -> Result<(), LabError> {
    let found = contact_points(tunnel)?;
    claim(found == expected, || format!("{found} contact points at the relay, not {expected}"))
}
