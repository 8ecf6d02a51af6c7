//! Who does not read holds up nobody else, and costs a bounded amount of memory.

use netns_tests::{
    Daemon, LONG, Lab, LabError, Process, SHORT, STOPPED_MS, Topology, Tunnel, wait_until,
};

type Outcome = Result<(), LabError>;

/// The session's window (64 MiB) and what else a daemon may hold.
const RESIDENT_MAX: u64 = (64 + 32) << 20;
/// What another flow must move meanwhile.
const OTHER: &str = "200000000";

/// While 100 connections stall: a control flow beats, a large transfer arrives, memory is bounded.
fn others_are_unharmed(lab: &Lab, tunnel: &mut Tunnel<'_>, mut pulse: Process) -> Outcome {
    let ext = lab.host("ext");
    ext.play("fetch", &tunnel.contact(8004), &[OTHER])?;
    ext.play("upload", &tunnel.contact(8005), &[OTHER])?;
    let said = pulse.finish(SHORT)?;
    let slowest = said.trim().rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
    assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{said}");
    for daemon in [Daemon::Forwarder, Daemon::Relay] {
        let resident = tunnel.process_mut(daemon)?.resident_bytes()?;
        println!("{daemon:?} holds {} MiB", resident >> 20);
        assert!(resident <= RESIDENT_MAX, "{daemon:?} holds {} MiB", resident >> 20);
    }
    Ok(())
}

/// Builds the lab; `role` is the server that the stalled connections meet, on port 8006.
fn with_stalled(
    name: &str,
    role: &str,
    more: &[&str],
    stall: impl FnOnce(&Lab, &Tunnel<'_>) -> Result<Process, LabError>,
) -> Outcome {
    let lab = Topology::STANDARD.build_verified(name)?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let _source = lab.host("peer3").serve("source", 8, &[OTHER])?;
    let _sink = lab.host("peer3").serve("sink", 9, &[])?;
    let _stalled = lab.host("peer4").serve(role, 7, more)?;
    let mut tunnel = Tunnel::builder()
        .peer("echo", "192.168.50.3:7", 8003)
        .peer("source", "192.168.50.3:8", 8004)
        .peer("sink", "192.168.50.3:9", 8005)
        .peer("stalled", "192.168.50.4:7", 8006)
        .start(&lab)?;
    let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8003), &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    let _stalling = stall(&lab, &tunnel)?;
    others_are_unharmed(&lab, &mut tunnel, pulse)
}

/// 100 external peers that never read a large download.
#[test]
fn hundred_stalled_readers_harm_nobody() -> Outcome {
    with_stalled("readers", "source", &["1000000000"], |lab, tunnel| {
        let mut stall = lab.host("ext").play_on("stall", &tunnel.contact(8006), &["100"])?;
        stall.wait_for_log("stalled 100", SHORT)?;
        // The control: every one of them has bytes that it does not read.
        wait_until(SHORT, "bytes to wait at every stalled reader", || {
            let sockets = lab.host("ext").run(["ss", "-Htn", "dport = :8006"]);
            let waiting =
                |line: &&str| line.split_whitespace().nth(1).is_some_and(|bytes| bytes != "0");
            sockets.is_ok_and(|listing| listing.stdout.lines().filter(waiting).count() == 100)
        })?;
        Ok(stall)
    })
}

/// 100 uploads to an internal peer that never reads.
#[test]
fn hundred_uploads_to_a_stalled_peer_harm_nobody() -> Outcome {
    with_stalled("writers", "stalled", &[], |lab, tunnel| {
        let mut push = lab.host("ext").play_on("push", &tunnel.contact(8006), &["100"])?;
        push.wait_for_log("blocked", LONG)?;
        Ok(push)
    })
}
