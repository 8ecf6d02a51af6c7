//! How quickly the tunnel is back, what it does when it cannot be, and what a killed daemon leaves.

use std::thread;
use std::time::{Duration, Instant};

use netns_tests::faults::{Answer, Fault, Struck};
use netns_tests::{
    Daemon, Lab, LabError, SHORT, Scene, Swarm, SwarmPlan, Tally, stage, wait_until,
};

type Outcome = Result<(), LabError>;

/// For flows that are to end well: no measurement.
const PATIENCE: Duration = Duration::from_secs(20);

/// Light flows in a quick rhythm: a stall shows within 20 ms.
fn quick(flows: usize) -> SwarmPlan {
    SwarmPlan::new(flows).slice(Duration::from_millis(20))
}

/// Plays in so many labs at once; what each returns, together.
fn in_parallel<T: Send>(
    labs: usize,
    play: impl Fn(usize) -> Result<Vec<T>, LabError> + Sync,
) -> Result<Vec<T>, LabError> {
    let play = &play;
    thread::scope(|scope| {
        let plays: Vec<_> = (0..labs).map(|lab| scope.spawn(move || play(lab))).collect();
        let mut all = Vec::new();
        for play in plays {
            all.extend(play.join().expect("the test in the other thread passes")?);
        }
        Ok(all)
    })
}

/// Prints the times, and returns the one that all but a hundredth stay below.
fn p99(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    println!(
        "{what}, {} times: p50 {:?} p90 {:?} p99 {:?} max {:?}",
        times.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
    at(99)
}

/// Ends a swarm, whose flows were all right at both ends; `flows` there were in all.
fn finish(swarm: &mut Swarm, scene: &mut Scene<'_>, flows: u64) -> Outcome {
    let outside = swarm.finish(PATIENCE)?;
    assert_eq!(outside.right, outside.flows, "outside: {outside:?}");
    let mut inside = Tally::default();
    wait_until(PATIENCE, "the internal peers' ends", || {
        inside = scene.mark_inside().unwrap_or_default();
        inside.ended() >= flows
    })?;
    assert_eq!(inside.right, flows, "inside: {inside:?}");
    Ok(())
}

/// Plain flows between neighbours, which no fault strikes: when they stall, the machine is busy.
struct Hiccups {
    flows: Swarm,
    exchange: Swarm,
}

impl Hiccups {
    fn start(lab: &Lab) -> Result<Self, LabError> {
        let exchange = Swarm::exchange(&lab.host("peer5"), 7000)?;
        let to = format!("{}:7000", lab.host("peer5").address());
        Ok(Self { flows: Swarm::start(&lab.host("peer4"), &[&to], &quick(25))?, exchange })
    }

    /// The longest that one has stalled since it was asked last.
    fn longest(&mut self) -> Result<Duration, LabError> {
        let seen = self.flows.mark()?.and(self.exchange.mark()?);
        Ok(Duration::from_millis(seen.stall_max_ms))
    }
}

/// Killed at one end, at the other, or by a gateway that forgets and resets, two hundred times: nothing
/// is lost, and bytes flow again within half a second.
#[test]
fn two_hundred_carrier_kills_lose_nothing_and_are_over_in_half_a_second() -> Outcome {
    const LABS: usize = 4;
    const KILLS: u64 = 50;
    // A carrier that dies younger is not replaced at once: that would be a loop.
    const LIFE: Duration = Duration::from_millis(1_050);
    // A hundredth may be slower. A gateway that forgets may forget the next connection as well, within its
    // handshake: then nobody at this end hears of it, and the attempt is given up after three seconds.
    const OUTLIER: Duration = Duration::from_secs(4);
    let stalls = in_parallel(LABS, |index| {
        stage(&format!("kills-{index}"), |lab| {
            let mut scene = Scene::open(lab, "")?;
            let mut swarm = scene.swarm(&quick(25))?;
            let mut hiccups = Hiccups::start(lab)?;
            let session = scene.tunnel.session()?;
            let mut stalls = Vec::new();
            for kill in 0..KILLS {
                let fault = match kill % 8 {
                    3 => Fault::Forgetting(Answer::Reset),
                    even if even % 2 == 0 => Fault::Severed(Daemon::Forwarder),
                    _ => Fault::Severed(Daemon::Relay),
                };
                thread::sleep(LIFE);
                scene.wait_flowing(&mut swarm, Instant::now(), PATIENCE)?;
                hiccups.longest()?;
                let struck = fault.inject(lab)?;
                let stall = scene.wait_flowing(&mut swarm, Instant::now(), PATIENCE)?;
                let hiccup = hiccups.longest()?;
                let stall = stall.saturating_sub(hiccup);
                assert!(stall < OUTLIER, "{stall:?} more than {hiccup:?} at {kill}, {fault:?}");
                stalls.push(stall);
                struck.lift()?;
            }
            finish(&mut swarm, &mut scene, 25)?;
            assert_eq!(scene.tunnel.session()?, session);
            assert!(scene.tunnel.resumptions()? >= KILLS);
            Ok(stalls)
        })
    })?;
    assert!(p99("killed carrier to flowing", stalls) <= Duration::from_millis(500));
    Ok(())
}

/// The packets of the carrier vanish for good, new connections do not: bytes flow again within six
/// seconds, found out by probes alone.
#[test]
fn silent_carrier_is_replaced_within_6_s() -> Outcome {
    let stalls = in_parallel(3, |index| {
        stage(&format!("silent-{index}"), |lab| {
            let mut scene = Scene::open(lab, "")?;
            let mut swarm = scene.swarm(&quick(10))?;
            let mut stalls = Vec::new();
            for _ in 0..5 {
                scene.wait_flowing(&mut swarm, Instant::now(), PATIENCE)?;
                let struck = Fault::Abandoned.inject(lab)?;
                stalls.push(scene.wait_flowing(&mut swarm, Instant::now(), PATIENCE)?);
                struck.lift()?;
            }
            finish(&mut swarm, &mut scene, 10)?;
            Ok(stalls)
        })
    })?;
    assert!(p99("silent carrier to flowing", stalls) <= Duration::from_secs(6));
    Ok(())
}

/// Nothing gets through for 2 to 12 s: bytes flow again within three seconds of the path's return.
#[test]
fn returned_path_is_used_within_3_s() -> Outcome {
    const HOLES_MS: [[u64; 3]; 5] = [
        [2_000, 7_400, 11_900],
        [2_600, 6_800, 11_100],
        [3_300, 6_100, 10_300],
        [4_000, 5_500, 9_600],
        [4_700, 8_200, 8_900],
    ];
    let waits = in_parallel(HOLES_MS.len(), |index| {
        stage(&format!("returned-{index}"), |lab| {
            let mut scene = Scene::open(lab, "")?;
            let mut swarm = scene.swarm(&quick(10))?;
            let mut waits = Vec::new();
            for hole_ms in HOLES_MS[index] {
                let struck = Fault::Hole.inject(lab)?;
                struck.hold(Duration::from_millis(hole_ms));
                let back = Instant::now();
                struck.lift()?;
                scene.wait_flowing(&mut swarm, Instant::now(), PATIENCE)?;
                waits.push(back.elapsed());
                println!("after {hole_ms} ms without a path: {:?}", back.elapsed());
            }
            finish(&mut swarm, &mut scene, 10)?;
            Ok(waits)
        })
    })?;
    assert!(p99("path's return to flowing", waits) <= Duration::from_secs(3));
    Ok(())
}

/// When nothing was heard for longer than the grace, both ends see resets, memory is given back, and
/// the contact points serve again on the same ports once there is a path.
#[test]
fn outage_beyond_the_grace_resets_both_ends_and_is_recovered_from() -> Outcome {
    const GRACE: Duration = Duration::from_secs(4);
    // A probe within half a second, then three times two seconds without an answer.
    const DETECTION: Duration = Duration::from_millis(6_500);
    stage("grace", |lab| {
        let mut scene = Scene::open(lab, &format!("[session]\ngrace_s = {}", GRACE.as_secs()))?;
        let held = memory(&scene)?;
        let mut swarm = scene.swarm(&quick(10))?;
        let struck = Fault::Hole.inject(lab)?;
        let limit = GRACE + DETECTION + Duration::from_secs(1);
        let outside = swarm.wait_ended(limit.saturating_sub(struck.at().elapsed()))?;
        println!("reset outside {:?} after the path was lost", struck.at().elapsed());
        assert_eq!(outside.resets, 10, "outside: {outside:?}");
        let mut inside = Tally::default();
        wait_until(limit.saturating_sub(struck.at().elapsed()), "resets inside", || {
            inside = scene.mark_inside().unwrap_or_default();
            inside.ended() == 10
        })?;
        println!("reset inside {:?} after the path was lost", struck.at().elapsed());
        assert_eq!(inside.resets, 10, "inside: {inside:?}");
        wait_until(SHORT, "memory to be given back", || {
            memory(&scene).is_ok_and(|now| now.iter().zip(held).all(|(now, held)| *now <= held))
        })?;
        let back = Instant::now();
        struck.lift()?;
        let mut again = serving(&scene, back, Duration::from_secs(5))?;
        assert_eq!(again.finish(PATIENCE)?.right, 5);
        Ok(())
    })
}

/// Bytes in the buffers of both daemons.
fn memory(scene: &Scene<'_>) -> Result<[u64; 2], LabError> {
    let held = |daemon| scene.tunnel.memory_held(daemon);
    Ok([held(Daemon::Forwarder)?, held(Daemon::Relay)?])
}

/// Waits until new flows to both peers work; returns them, running.
fn serving(scene: &Scene<'_>, since: Instant, within: Duration) -> Result<Swarm, LabError> {
    loop {
        let mut swarm = scene.launch(&quick(5))?;
        let left = within.saturating_sub(since.elapsed());
        match swarm.wait_begun(left) {
            Ok(()) => return Ok(swarm),
            Err(error) if left.is_zero() => return Err(error),
            Err(_) => {}
        }
    }
}

/// Three seconds without a path, in which something is done.
fn during_an_outage<T>(
    name: &str,
    done: impl FnOnce(&mut Scene<'_>, &mut Swarm) -> Result<T, LabError>,
    then: impl FnOnce(&mut Scene<'_>, &mut Swarm, T) -> Outcome,
) -> Outcome {
    stage(name, |lab| {
        let mut scene = Scene::open(lab, "")?;
        let mut swarm = scene.swarm(&quick(10))?;
        let struck = Fault::Hole.inject(lab)?;
        let made = done(&mut scene, &mut swarm)?;
        outlast(&struck);
        struck.lift()?;
        then(&mut scene, &mut swarm, made)
    })
}

fn outlast(struck: &Struck<'_>) {
    struck.hold(Duration::from_secs(3));
}

/// Who connects while there is no path waits, and is served when there is one.
#[test]
fn connections_opened_during_an_outage_go_through_afterwards() -> Outcome {
    during_an_outage(
        "opened",
        |scene, _| {
            let mut late = scene.launch(&quick(10))?;
            wait_until(SHORT, "connections at the contact points", || {
                let filter = "( dport = :8003 or dport = :8004 )";
                let listing =
                    scene.lab.host("ext").run(["ss", "-Htn", "state", "established", filter]);
                listing.is_ok_and(|listing| listing.stdout.lines().count() == 20)
            })?;
            assert!(!late.process_mut().log().contains("swarming"), "there is no outage");
            Ok(late)
        },
        |scene, swarm, mut late| {
            late.wait_begun(SHORT)?;
            assert_eq!(swarm.finish(PATIENCE)?.right, 10);
            finish(&mut late, scene, 20)
        },
    )
}

/// Who ends their side while there is no path is heard afterwards, with every byte before it.
#[test]
fn half_closes_made_during_an_outage_arrive() -> Outcome {
    during_an_outage(
        "half-closed",
        |_, swarm| swarm.enough(),
        |scene, swarm, ()| finish(swarm, scene, 10),
    )
}

/// A reset made outside while there is no path is a reset inside afterwards.
#[test]
fn resets_made_during_an_outage_arrive() -> Outcome {
    during_an_outage(
        "reset-outside",
        |_, swarm| swarm.abort(),
        |scene, swarm, ()| {
            assert_eq!(swarm.wait_ended(SHORT)?.aborted, 10);
            let mut inside = Tally::default();
            wait_until(SHORT, "resets inside", || {
                inside = scene.mark_inside().unwrap_or_default();
                inside.ended() == 10
            })?;
            assert_eq!(inside.resets, 10, "{inside:?}");
            Ok(())
        },
    )
}

/// A reset made inside while there is no path is a reset outside afterwards.
#[test]
fn resets_made_inside_during_an_outage_arrive() -> Outcome {
    during_an_outage(
        "reset-inside",
        |scene, _| scene.inside.iter_mut().try_for_each(Swarm::abort),
        |_, swarm, ()| {
            let outside = swarm.wait_ended(SHORT)?;
            assert_eq!(outside.resets, 10, "{outside:?}");
            Ok(())
        },
    )
}

/// A killed daemon is started again: new flows work within five seconds, those of before see a
/// reset, and the other daemon keeps nothing of them.
fn killed_daemon_comes_back(daemon: Daemon, name: &str) -> Outcome {
    const LABS: usize = 2;
    const ROUNDS: u64 = 25;
    let times = in_parallel(LABS, |index| {
        stage(&format!("{name}-{index}"), |lab| {
            let mut scene = Scene::open(lab, "")?;
            let mut flows = scene.swarm(&quick(5))?;
            let mut times = Vec::new();
            let mut settled = None;
            for round in 0..ROUNDS {
                // Moments that no rhythm of the daemons could meet.
                thread::sleep(Duration::from_millis((round * 7919 + index as u64 * 131) % 293));
                times.push(kill_round(&mut scene, &mut flows, daemon)?);
                if round == 4 {
                    settled = Some(cost(&mut scene, survivor(daemon))?);
                }
            }
            let (files, resident) = cost(&mut scene, survivor(daemon))?;
            let (files_settled, resident_settled) = settled.expect("more than five rounds");
            println!(
                "{name}: {files_settled} then {files} files, {resident_settled} then {resident} bytes"
            );
            assert!(
                files <= files_settled + 4,
                "{files_settled} files after 5 rounds, then {files}"
            );
            assert!(
                resident <= resident_settled + (16 << 20),
                "{resident_settled} then {resident}"
            );
            Ok(times)
        })
    })?;
    assert!(p99(&format!("{name} to serving"), times) <= Duration::from_secs(5));
    Ok(())
}

fn survivor(killed: Daemon) -> Daemon {
    match killed {
        Daemon::Forwarder => Daemon::Relay,
        Daemon::Relay => Daemon::Forwarder,
    }
}

/// Files and resident bytes of a daemon.
fn cost(scene: &mut Scene<'_>, daemon: Daemon) -> Result<(usize, u64), LabError> {
    let files = scene.tunnel.open_files(daemon)?;
    Ok((files, scene.tunnel.process_mut(daemon)?.resident_bytes()?))
}

/// Kills and restarts the daemon under `flows`, which become the new ones that work again.
fn kill_round(
    scene: &mut Scene<'_>,
    flows: &mut Swarm,
    daemon: Daemon,
) -> Result<Duration, LabError> {
    let before = scene.mark_inside()?;
    let running = before.flows - before.ended();
    scene.tunnel.restart(daemon)?;
    let started = Instant::now();
    let new = serving(scene, started, SHORT)?;
    let served = started.elapsed();
    let outside = flows.wait_ended(SHORT)?;
    let mut inside = Tally::default();
    // Those that the new flows' attempts left behind count as well; what matters is that none hangs.
    wait_until(SHORT, "the old flows' ends inside", || {
        inside = scene.mark_inside().unwrap_or_default();
        inside.flows - inside.ended() <= 5
    })?;
    let (resets, early) = (inside.resets - before.resets, inside.early - before.early);
    assert_eq!(outside.resets, 5, "outside: {outside:?}");
    assert!(
        resets >= running,
        "{resets} resets, {early} early ends of {running} inside: {inside:?}"
    );
    *flows = new;
    Ok(served)
}

/// The forwarder is killed fifty times, at any moment.
#[test]
fn killed_forwarder_serves_again_within_5_s() -> Outcome {
    killed_daemon_comes_back(Daemon::Forwarder, "killed-forwarder")
}

/// The relay is killed fifty times, at any moment.
#[test]
fn killed_relay_serves_again_within_5_s() -> Outcome {
    killed_daemon_comes_back(Daemon::Relay, "killed-relay")
}

/// An internal peer and an external one are killed under their flows, fifty times: the others' flows go
/// on, every other end hears of it, and neither daemon keeps anything of them.
#[test]
fn killed_peers_leave_nothing_behind() -> Outcome {
    let play = |index| stage(&format!("killed-peers-{index}"), |lab| peers_are_killed(lab, 25));
    in_parallel(2, play).map(|_: Vec<()>| ())
}

fn peers_are_killed(lab: &Lab, rounds: u64) -> Result<Vec<()>, LabError> {
    let mut scene = Scene::open(lab, "")?;
    let external = lab.host("ext");
    let [to_dying, to_living] = [8003, 8004].map(|port| scene.tunnel.contact(port));
    let mut witness = Swarm::start(&external, &[&to_living], &quick(2))?;
    let daemons = [Daemon::Forwarder, Daemon::Relay];
    let before = [scene.tunnel.open_files(daemons[0])?, scene.tunnel.open_files(daemons[1])?];
    for round in 1..=rounds {
        let mut bereft = Swarm::launch(&external, &[&to_dying], &quick(2))?;
        let mut killed = Swarm::launch(&external, &[&to_living], &quick(2))?;
        bereft.wait_begun(SHORT)?;
        killed.wait_begun(SHORT)?;
        scene.inside[0].process_mut().kill();
        killed.process_mut().kill();
        let outside = bereft.wait_ended(SHORT)?;
        assert_eq!(outside.resets + outside.early, 2, "round {round}: {outside:?}");
        let mut inside = Tally::default();
        wait_until(SHORT, "the ends of a killed peer's flows", || {
            inside = scene.inside[1].mark().unwrap_or_default();
            inside.ended() == 2 * round
        })?;
        assert_eq!(inside.resets + inside.early, 2 * round, "{inside:?}");
        scene.inside[0] = Swarm::exchange(&lab.host("peer3"), 7000)?;
    }
    for (daemon, before) in daemons.into_iter().zip(before) {
        wait_until(SHORT, "the descriptors of killed peers to come back", || {
            scene.tunnel.open_files(daemon).is_ok_and(|open| open <= before)
        })?;
        assert_eq!(scene.tunnel.status(daemon)?["flows"], 2, "{daemon:?}");
    }
    witness.enough()?;
    assert_eq!(witness.finish(PATIENCE)?.right, 2);
    Ok(Vec::new())
}

/// Connections of `inside` to the tunnel's port, as the gateway knows them; attempts as well.
fn dials(lab: &Lab, inside: &str) -> Result<usize, LabError> {
    let listing = lab.gateway().run_ok(["conntrack", "-L", "-p", "tcp", "--dport", "443"])?.stdout;
    let (source, dead) = (format!("src={inside} "), ["CLOSE", "TIME_WAIT", "LAST_ACK", "FIN_WAIT"]);
    let alive =
        |line: &&str| line.contains(&source) && !dead.iter().any(|state| line.contains(state));
    Ok(listing.lines().filter(alive).count())
}

/// Two forwarders with one key: the newer serves, the older is told why and does not fight for it.
#[test]
fn newer_forwarder_with_the_same_key_takes_over_for_good() -> Outcome {
    stage("rival", |lab| {
        let mut scene = Scene::open(lab, "")?;
        let mut flows = scene.swarm(&quick(5))?;
        let (older, newer) = (lab.host("icp"), lab.host("peer5"));
        let mut rival = scene.tunnel.start_rival(&newer)?;
        rival.wait_for_log("registered", SHORT)?;
        let taken = Instant::now();
        assert_eq!(flows.wait_ended(SHORT)?.resets, 5, "flows of the older end in resets");
        scene.tunnel.process_mut(Daemon::Forwarder)?.wait_for_line("why", SHORT, |line| {
            let line = line.to_lowercase();
            line.contains("another") || line.contains("same key") || line.contains("superseded")
        })?;
        let mut served = serving(&scene, taken, SHORT)?;
        assert!(dials(lab, newer.address())? == 1, "the newer one's carrier is not to be seen");
        wait_until(SHORT, "the older one's carrier to go", || {
            dials(lab, older.address()).is_ok_and(|dials| dials == 0)
        })?;
        let gone = Instant::now();
        // The claim is that nothing happens for so long.
        while gone.elapsed() < Duration::from_secs(5) {
            assert_eq!(dials(lab, older.address())?, 0, "the older one is at it again");
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(served.finish(PATIENCE)?.right, 5, "flows of the newer one were harmed");
        Ok(())
    })
}
