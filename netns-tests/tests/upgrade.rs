//! A new process takes over from either daemon while flows run: nothing is cut off, whatever becomes of
//! the new process. Each byte is known, and each direction of each flow summed up by SHA-256.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{
    Daemon, Host, Lab, LabError, SHORT, Scene, Swarm, SwarmPlan, Tally, Topology, Tunnel, stage,
    wait_until,
};

type Outcome = Result<(), LabError>;

/// For flows that are to end well: no measurement.
const PATIENCE: Duration = Duration::from_secs(20);
const DAEMONS: [Daemon; 2] = [Daemon::Forwarder, Daemon::Relay];

fn upgraded(tunnel: &Tunnel<'_>, daemon: Daemon) -> Outcome {
    let output = tunnel.upgrade(daemon, &[])?;
    assert!(output.success(), "{daemon:?}: {}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("has taken over"), "{}", output.stdout);
    Ok(())
}

/// Ends a swarm, whose flows were all right at both ends, as were those of callers.
fn finish(mut swarm: Swarm, scene: &mut Scene<'_>, flows: u64, callers: u64) -> Outcome {
    swarm.enough()?;
    let outside = swarm.finish(PATIENCE)?;
    assert_eq!(outside.right, flows, "outside: {outside:?}");
    let mut inside = Tally::default();
    wait_until(PATIENCE, "the internal peers' ends", || {
        inside = scene.mark_inside().unwrap_or_default();
        inside.ended() >= flows + callers
    })?;
    assert_eq!(inside.right, inside.flows, "inside: {inside:?}");
    Ok(())
}

/// Lets `done` happen while somebody connects again and again, and so before and after as well; how many
/// were served, all of them well.
fn among_callers(scene: &Scene<'_>, done: impl FnOnce() -> Outcome) -> Result<usize, LabError> {
    let is_over = AtomicBool::new(false);
    let plan = SwarmPlan::new(2).bytes(20_000).slice(Duration::from_millis(5));
    thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let mut served = 0;
            loop {
                // Asked first: whoever comes last comes after it.
                let is_last = is_over.load(Ordering::Relaxed);
                let tally = scene.launch(&plan)?.finish(PATIENCE)?;
                assert_eq!(tally.right, 2, "a caller: {tally:?}");
                served += 1;
                if is_last {
                    return Ok(served);
                }
            }
        });
        let outcome = done();
        is_over.store(true, Ordering::Relaxed);
        let served = calling.join().expect("the callers' thread passes");
        outcome.and(served)
    })
}

/// Waits until every flow moves again; the worst that was seen of all but one in a hundred, and of all.
fn stalls(swarm: &mut Swarm, scene: &mut Scene<'_>) -> Result<(u64, u64), LabError> {
    let (since, mut worst, mut seen) = (Instant::now(), (0, 0), Ok(Tally::default()));
    wait_until(PATIENCE, "every flow to move again", || {
        let waited = since.elapsed().as_millis();
        seen = swarm.mark().and_then(|outside| Ok(outside.and(scene.mark_inside()?)));
        seen.as_ref().is_ok_and(|seen| {
            worst = (worst.0.max(seen.stall_p99_ms), worst.1.max(seen.stall_max_ms));
            u128::from(seen.open_ms) < waited
        })
    })?;
    let seen = seen?;
    assert_eq!((seen.resets, seen.wrong, seen.early), (0, 0, 0), "{seen:?}");
    Ok(worst)
}

/// Each daemon is replaced several times under a hundred flows in both directions: none is reset, every
/// sum is right, of a hundred flows all but one stall for less than a second, whoever connects meanwhile
/// is served, and the tunnel's connection is the same from beginning to end.
#[test]
fn a_hundred_flows_outlive_upgrades_of_both_daemons() -> Outcome {
    const FLOWS: u64 = 100;
    const ROUNDS: usize = 3;
    stage("upgrade", |lab| {
        let mut scene = Scene::open(lab, "")?;
        let plan = SwarmPlan::new(100).slice(Duration::from_millis(20)).kbytes_per_second(4_000);
        let mut swarm = scene.swarm(&plan)?;
        let session = scene.tunnel.session()?;
        let mut callers = 0;
        for round in 0..ROUNDS {
            for daemon in DAEMONS {
                stalls(&mut swarm, &mut scene)?;
                let served = among_callers(&scene, || upgraded(&scene.tunnel, daemon))?;
                let (p99, max) = stalls(&mut swarm, &mut scene)?;
                println!("{round} {daemon:?}: p99 {p99} ms, max {max} ms, {served} callers");
                assert!(p99 < 1_000, "{daemon:?}: stalls of {p99} ms");
                assert_eq!(scene.tunnel.session()?, session);
                callers += 2 * served as u64;
            }
        }
        assert_eq!(scene.tunnel.resumptions()?, 0);
        finish(swarm, &mut scene, FLOWS, callers)
    })
}

fn script(lab: &Lab, name: &str, lines: &str) -> PathBuf {
    let file = lab.path().join(name);
    fs::write(&file, lines).expect("a file of the test");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a file of the test");
    file
}

/// A program that is to take over and does not: `lines` of Perl, of which the first hears of the running
/// daemon's listeners.
fn impostor(lab: &Lab, name: &str, lines: &str) -> PathBuf {
    let begin = "#!/usr/bin/perl\nopen(my $to, '+<&=', 0); \
                 sysread($to, my $heard, 65536) for 1 .. 3;\n";
    script(lab, name, &format!("{begin}{lines}\n"))
}

/// The running program itself, which may have a few files less open than the running process has: it gets
/// ready, and finds that out when everything stands still.
fn too_narrow(lab: &Lab, scene: &mut Scene<'_>, daemon: Daemon) -> Result<PathBuf, LabError> {
    const LESS: usize = 10;
    let program = format!("/proc/{}/exe", scene.tunnel.process_mut(daemon)?.pid());
    let program = fs::read_link(program).expect("a daemon that runs");
    let files = scene.tunnel.open_files(daemon)? - LESS;
    let lines = format!("#!/bin/sh\nulimit -n {files}\nexec {} \"$@\"\n", program.display());
    Ok(script(lab, &format!("narrow-{daemon:?}"), &lines))
}

/// Whatever is wrong with the new process, and whenever it dies, the running one goes on with all that it
/// has, says why, and can still be upgraded.
#[test]
fn a_failed_upgrade_leaves_everything_as_it_was() -> Outcome {
    const FLOWS: u64 = 20;
    stage("failed-upgrade", |lab| {
        let mut scene = Scene::open(lab, "")?;
        let plan = SwarmPlan::new(20).slice(Duration::from_millis(20));
        let mut swarm = scene.swarm(&plan)?;
        let session = scene.tunnel.session()?;
        // READY is 1, a refusal 3 with a text behind its length.
        let ready = "syswrite($to, \"\\x01\")";
        let programs = [
            (PathBuf::from("/nowhere/adit"), "cannot be found", 1_000),
            (PathBuf::from("/bin/false"), "its log says why", 1_000),
            (
                impostor(lab, "refuses", "syswrite($to, \"\\x03\\x06not so\"); sleep 9"),
                "not so",
                1_000,
            ),
            // It dies when all stands still and is being passed on.
            (
                impostor(lab, "dies", &format!("{ready}; sysread($to, $heard, 65536)")),
                "did not take over",
                1_000,
            ),
            // As long as it may take to pack and to take over.
            (impostor(lab, "hangs", &format!("{ready}; sleep 60")), "not take over in time", 8_000),
        ];
        for daemon in DAEMONS {
            let narrow = too_narrow(lab, &mut scene, daemon)?;
            let narrow = (narrow, "is the limit on open files too low?", 1_000);
            for (program, why, stall_ms_max) in programs.iter().chain([&narrow]) {
                stalls(&mut swarm, &mut scene)?;
                let resumptions = scene.tunnel.resumptions()?;
                let more = ["--program".as_ref(), program.as_os_str()];
                let output = scene.tunnel.upgrade(daemon, &more)?;
                assert!(!output.success(), "{daemon:?}, {program:?}: {}", output.stdout);
                assert!(output.stderr.contains(why), "{daemon:?}, {program:?}: {}", output.stderr);
                let (p99, max) = stalls(&mut swarm, &mut scene)?;
                println!("{daemon:?}, {why}: p99 {p99} ms, max {max} ms");
                assert!(p99 < *stall_ms_max, "{daemon:?}, {program:?}: stalls of {p99} ms");
                // Who stands still for long is taken for dead.
                if *stall_ms_max <= 1_000 {
                    assert_eq!(scene.tunnel.resumptions()?, resumptions, "{program:?}");
                }
                assert!(scene.tunnel.process_mut(daemon)?.runs());
            }
            upgraded(&scene.tunnel, daemon)?;
        }
        assert_eq!(scene.tunnel.session()?, session);
        finish(swarm, &mut scene, FLOWS, 0)
    })
}

/// The control: what an upgrade spares them is the death of every flow.
#[test]
fn a_plain_restart_ends_every_flow() -> Outcome {
    const FLOWS: usize = 10;
    for daemon in DAEMONS {
        stage(&format!("restart-{daemon:?}"), |lab| {
            let mut scene = Scene::open(lab, "")?;
            let mut swarm = scene.swarm(&SwarmPlan::new(FLOWS))?;
            scene.tunnel.restart(daemon)?;
            let outside = swarm.wait_ended(PATIENCE)?;
            assert_eq!((outside.right, outside.ended()), (0, FLOWS as u64), "{outside:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A relay shows its next key from an upgrade on, and no flow ends by that, nor when a forwarder that let
/// both keys in leaves the old one out: the session goes on with a relay that has proved the new one.
#[test]
fn a_relay_changes_its_key_under_flows() -> Outcome {
    const FLOWS: u64 = 20;
    stage("upgrade-key", |lab| {
        let mut scene = Scene::open(lab, "")?;
        let mut swarm = scene.swarm(&SwarmPlan::new(20).slice(Duration::from_millis(20)))?;
        let session = scene.tunnel.session()?;
        let old = scene.tunnel.relay_key.clone();
        let next = scene.tunnel.command(Daemon::Relay, "rotate", &[])?.stdout;
        let [old, next] = [&old, next.trim()].map(|key| format!("\"{key}\""));
        let both = format!("[{old}, {next}]");
        let place = |name: &str| lab.path().join(name);
        let let_in = |tunnel: &Tunnel<'_>, before: &str, now: &str| -> Outcome {
            let text = fs::read_to_string(place("adit.toml")).expect("the configuration");
            fs::write(place("adit.toml"), text.replace(before, now)).expect("a file of the test");
            let output = tunnel.command(Daemon::Forwarder, "reload", &[])?;
            assert!(output.stdout.contains("in force: relay_key"), "{}", output.stderr);
            Ok(())
        };
        let_in(&scene.tunnel, &old, &both)?;
        fs::rename(place("relay.key.next"), place("relay.key")).expect("a file of the test");
        upgraded(&scene.tunnel, Daemon::Relay)?;
        wait_until(SHORT, "the new key to be proved", || {
            scene.tunnel.resumptions().is_ok_and(|count| count == 1)
        })?;
        stalls(&mut swarm, &mut scene)?;
        let_in(&scene.tunnel, &both, &next)?;
        stalls(&mut swarm, &mut scene)?;
        assert_eq!(scene.tunnel.session()?, session);
        finish(swarm, &mut scene, FLOWS, 0)
    })
}

/// A forwarder whose file leads another way by now has that in force with an upgrade: it dials anew, and no
/// flow ends by that.
#[test]
fn a_forwarder_goes_the_way_of_its_file_after_an_upgrade() -> Outcome {
    const FLOWS: u64 = 20;
    stage("upgrade-way", |lab| {
        let mut scene = Scene::open(lab, "")?;
        let mut swarm = scene.swarm(&SwarmPlan::new(20).slice(Duration::from_millis(20)))?;
        let session = scene.tunnel.session()?;
        let file = lab.path().join("adit.toml");
        let before = fs::read_to_string(&file).expect("the configuration");
        let now = format!("{before}\n[gateway]\nsni = \"elsewhere.example\"\n");
        fs::write(&file, now).expect("a file of the test");
        upgraded(&scene.tunnel, Daemon::Forwarder)?;
        wait_until(SHORT, "another connection", || {
            scene.tunnel.resumptions().is_ok_and(|count| count == 1)
        })?;
        stalls(&mut swarm, &mut scene)?;
        assert_eq!(scene.tunnel.session()?, session);
        finish(swarm, &mut scene, FLOWS, 0)
    })
}

/// Datagrams go on after an upgrade of either daemon, on a path of their own as before.
#[test]
fn datagrams_go_on_after_upgrades() -> Outcome {
    let lab = Topology::STANDARD.build("upgrade-datagrams")?;
    let _echo = lab.host("peer3").serve("datagram-echo", 7, &[])?;
    let tunnel = Tunnel::builder().udp_peer("echo", "192.168.50.3:7", 8007).start(&lab)?;
    let contact = tunnel.contact(8007);
    let echoes = || lab.host("ext").play("datagram", &contact, &["1000"]).is_ok();
    for daemon in [None, Some(Daemon::Forwarder), Some(Daemon::Relay)] {
        if let Some(daemon) = daemon {
            upgraded(&tunnel, daemon)?;
        }
        wait_until(SHORT, "datagrams to come back on the path", || {
            echoes()
                && tunnel.status(Daemon::Forwarder).is_ok_and(|status| {
                    status["datagrams"]["path"].is_string() && status["datagrams"]["sent"] != 0
                })
        })?;
    }
    Ok(())
}

fn is_ready(host: &Host<'_>) -> bool {
    let asked = ["curl", "-s", "-f", "-m", "5", "http://127.0.0.1:9464/readyz"];
    host.run(asked).is_ok_and(|output| output.success())
}

/// A peer's limit counts the flows that were there before an upgrade of either daemon, and both answer
/// for their condition at the same address; the control is a caller who is let in when the flow has ended.
#[test]
fn limits_and_conditions_go_on_after_upgrades() -> Outcome {
    const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9464\"\n";
    let lab = Topology::STANDARD.build("upgrade-limits")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let one = "[[peer]]\nname = \"one\"\ntcp = \"192.168.50.3:7\"\ncontact = \"public:8004\"\n\
               flows_max = 1\n";
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let tunnel = builder.extra("", METRICS).tail(&format!("{METRICS}{one}")).start(&lab)?;
    let (ext, contact) = (lab.host("ext"), tunnel.contact(8004));
    let is_let_in = || ext.play("half-close", &contact, &["100"]).is_ok();
    let ready = || {
        wait_until(SHORT, "both daemons to be ready", || {
            [lab.host("icp"), lab.host("relay")].iter().all(is_ready)
        })
    };
    ready()?;
    let mut held = ext.play_on("hold", &contact, &["1"])?;
    held.wait_for_log("holding 1", SHORT)?;
    assert!(!is_let_in(), "a second flow");
    for daemon in DAEMONS {
        upgraded(&tunnel, daemon)?;
        ready()?;
        assert!(!is_let_in(), "a second flow after an upgrade of {daemon:?}");
    }
    drop(held);
    wait_until(SHORT, "the place of the flow that has ended", is_let_in)
}

/// Where contact points are, and whether there are datagram paths, is as the file says by now: what it has
/// closed to the world is closed, and callers are served where it has it.
#[test]
fn a_relay_listens_where_its_file_says_after_an_upgrade() -> Outcome {
    let lab = Topology::STANDARD.build("upgrade-address")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(&lab)?;
    let (relay, contact) = (lab.host("relay"), tunnel.contact(8003));
    let bound = |kind: &str, port: &str| {
        let asked = relay.run_ok(["ss", kind, "--no-header", &format!("sport = :{port}")]);
        asked.map(|output| output.stdout).unwrap_or_default()
    };
    let is_only_there = || {
        let bound = bound("-ltn", "8003");
        bound.lines().count() == 1 && bound.contains(&contact)
    };
    assert!(!is_only_there() && !bound("-lun", "443").is_empty(), "the control");
    let file = lab.path().join("relay.toml");
    let before = fs::read_to_string(&file).expect("the relay's configuration");
    let address = contact.trim_end_matches(":8003");
    let now = format!("contact_address = \"{address}\"\ndatagram_path = false\n{before}");
    fs::write(&file, now).expect("a file of the test");
    upgraded(&tunnel, Daemon::Relay)?;
    wait_until(SHORT, "the contact point to be at its new address alone", is_only_there)?;
    wait_until(SHORT, "the datagram paths' port to be closed", || bound("-lun", "443").is_empty())?;
    wait_until(SHORT, "a caller to be served", || {
        lab.host("ext").play("half-close", &contact, &["100"]).is_ok()
    })
}
