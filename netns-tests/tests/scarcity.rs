//! What a daemon does when the machine has no more for it: it sheds new work, keeps what runs, does
//! not spin, and goes on when there is enough again. The figures are those of `docs/security.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use netns_tests::{
    Daemon, Lab, LabError, Process, SHORT, STOPPED_MS, Topology, Tunnel, wait_until,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), LabError>;

/// Descriptors that a daemon may have, and the connections that ask for more.
const DESCRIPTORS: usize = 256;
const CROWD: &str = "300";
/// Memory that a daemon may have.
const MEMORY: u64 = 128 << 20;
/// How a shell ends whose last process was killed: 128 and the signal's number.
const KILLED: i32 = 128 + Signal::SIGKILL as i32;
/// Ports that the gateway translates to …
const PORTS: &str = "203.0.113.1:20000-20008";
/// … and one more.
const LAST_PORT: &str = "203.0.113.1:20009";
/// For so long a daemon is watched that lacks something …
const WATCHED: Duration = Duration::from_secs(2);
/// … and may take a tenth of a core.
const PROCESSOR_MAX: Duration = Duration::from_millis(200);
/// How long after the end of the lack a new connection is served …
const RECOVERED_MS: u64 = 1_000;
/// … and where the relay has to be dialled anew under a kernel that doubles the time to its next SYN
/// from the first on: before Linux 6.5, that is.
const RECOVERED_DOUBLING_MS: u64 = 2_000;

/// An echo behind a tunnel, and a control flow through it.
struct Scene<'a> {
    lab: &'a Lab,
    tunnel: Tunnel<'a>,
    pulse: Process,
    _echo: Process,
}

impl<'a> Scene<'a> {
    fn open(lab: &'a Lab) -> Result<Self, LabError> {
        Self::open_after(lab, |_tunnel| Ok(()))
    }

    /// `limit` comes between the relay's start and the first contact point: a listener that has been
    /// armed goes by the limit on descriptors of that time.
    fn open_after(
        lab: &'a Lab,
        limit: impl FnOnce(&mut Tunnel<'a>) -> Outcome,
    ) -> Result<Self, LabError> {
        let echo = lab.host("peer3").serve("echo", 7, &[])?;
        let mut tunnel = Tunnel::builder()
            .peer("echo", "192.168.50.3:7", 8003)
            .peer("source", "192.168.50.3:8", 8004)
            .prepare(lab)?;
        tunnel.start_relay()?;
        limit(&mut tunnel)?;
        tunnel.start_forwarder()?;
        tunnel.wait_registered()?;
        let mut pulse = lab.host("ext").play_on("pulse", &tunnel.contact(8003), &[])?;
        pulse.wait_for_log("beating", SHORT)?;
        Ok(Self { lab, tunnel, pulse, _echo: echo })
    }

    /// Whether a new connection is served.
    fn serves(&self) -> bool {
        self.serves_within(500).is_ok()
    }

    fn serves_within(&self, ms: u64) -> Outcome {
        let (to, ms) = (self.tunnel.contact(8003), ms.to_string());
        self.lab.host("ext").play("say", &to, &["hello", "--within-ms", &ms]).map(|_| ())
    }

    /// The daemon does not burn a core over what it lacks.
    fn must_rest(&mut self, daemon: Daemon) -> Outcome {
        let process = self.tunnel.process_mut(daemon)?;
        let before = process.processor_time()?;
        // The length of the watch, not a wait for anything.
        thread::sleep(WATCHED);
        let spent = process.processor_time()?.saturating_sub(before);
        println!("{daemon:?} took {spent:?} of {WATCHED:?}");
        assert!(spent < PROCESSOR_MAX, "{daemon:?} took {spent:?} of {WATCHED:?}");
        Ok(())
    }

    /// The control flow beat all the while, and both daemons run.
    fn went_on(mut self) -> Outcome {
        let said = self.pulse.finish(SHORT)?;
        let slowest = said.trim().rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
        assert!(slowest.is_some_and(|slowest| slowest < STOPPED_MS), "{said}");
        for daemon in [Daemon::Forwarder, Daemon::Relay] {
            assert!(self.tunnel.process_mut(daemon)?.runs(), "{daemon:?} ended");
        }
        Ok(())
    }
}

/// Lets a daemon that runs have 256 descriptors.
fn limit_descriptors(tunnel: &mut Tunnel<'_>, daemon: Daemon) -> Outcome {
    let pid = tunnel.process_mut(daemon)?.pid().to_string();
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(limited.expect("prlimit runs").success(), "the limit is not set");
    Ok(())
}

/// A daemon has 256 descriptors, and 300 connections come.
fn descriptors_run_out(daemon: Daemon, name: &str) -> Outcome {
    let lab = Topology::STANDARD.build(name)?;
    let mut scene = match daemon {
        Daemon::Relay => Scene::open_after(&lab, |tunnel| limit_descriptors(tunnel, daemon))?,
        Daemon::Forwarder => {
            let mut scene = Scene::open(&lab)?;
            limit_descriptors(&mut scene.tunnel, daemon)?;
            scene
        }
    };
    let contact = scene.tunnel.contact(8003);
    let mut crowd = lab.host("ext").play_on("stall", &contact, &[CROWD])?;
    crowd.wait_for_log("stalled", SHORT)?;
    wait_until(SHORT, "the last descriptor to be used", || {
        scene.tunnel.open_files(daemon).is_ok_and(|open| open + 2 >= DESCRIPTORS)
    })?;
    // The control: it lacks something indeed.
    assert!(!scene.serves(), "a connection beyond the limit is served");
    scene.must_rest(daemon)?;
    crowd.kill();
    wait_until(SHORT, "descriptors to come back", || {
        scene.tunnel.open_files(daemon).is_ok_and(|open| open < DESCRIPTORS / 2)
    })?;
    scene.serves_within(RECOVERED_MS)?;
    scene.went_on()
}

/// Out of descriptors, the relay leaves new connections where they are, and takes them later.
#[test]
fn relay_without_descriptors_keeps_what_runs_and_recovers() -> Outcome {
    descriptors_run_out(Daemon::Relay, "fd-relay")
}

/// Out of descriptors, the forwarder resets new flows, and connects them again as soon as it can.
#[test]
fn forwarder_without_descriptors_keeps_what_runs_and_recovers() -> Outcome {
    descriptors_run_out(Daemon::Forwarder, "fd-icp")
}

/// A control group with a bound on memory.
struct Bound(PathBuf);

impl Bound {
    /// A new one; none where this user may not, or the machine has no such groups.
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let unified = Path::new("/sys/fs/cgroup");
        let controls = fs::read_to_string(unified.join("cgroup.subtree_control"));
        let has_memory = controls.is_ok_and(|all| all.split_whitespace().any(|c| c == "memory"));
        let (parent, files) = if has_memory {
            (unified.to_owned(), ["memory.max", "memory.swap.max"])
        } else {
            let own = fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = own.lines().find_map(|line| line.split_once(":memory:/"))?.1.to_owned();
            let parent = unified.join("memory").join(own);
            (parent, ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
        };
        let path = parent.join(format!("adit-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let bound = Self(path);
        fs::write(bound.0.join(files[0]), bytes.to_string()).ok()?;
        // Where nothing can be swapped out there is no such file.
        let swap = if has_memory { "0".to_owned() } else { bytes.to_string() };
        fs::write(bound.0.join(files[1]), swap).ok();
        Some(bound)
    }

    fn holds(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    /// Whether who takes more than this is killed.
    fn is_kept(&self) -> bool {
        let procs = self.0.join("cgroup.procs").display().to_string();
        let greedy = format!("echo $$ > {procs}; head -c 300000000 /dev/zero | tail -c 300000000");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("set -e; {greedy} > /dev/null")]);
        command.status().is_ok_and(|ended| ended.code() == Some(KILLED))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A process that was killed a moment ago may still stand in it.
        wait_until(SHORT, "the control group to be empty", || fs::remove_dir(&self.0).is_ok()).ok();
    }
}

/// With 128 MiB for each daemon a hundred readers that never read, and a transfer beside them, make
/// neither exceed it: who does not read is held back, the others are served. The controls: bytes wait at
/// every reader, and a process that takes 300 MB under such a bound is killed. Where control groups cannot be had, the daemons'
/// resident memory is watched instead.
#[test]
fn daemons_live_within_128_mib() -> Outcome {
    const TRANSFER: &str = "50000000";
    let lab = Topology::STANDARD.build("memory")?;
    let _source = lab.host("peer3").serve("source", 8, &["1000000000"])?;
    let _sink = lab.host("peer3").serve("sink", 9, &[])?;
    let names = ["relay", "forwarder", "control"];
    let bounds: Option<Vec<_>> = names.iter().map(|name| Bound::new(name, MEMORY)).collect();
    // Declared after the groups: the daemons are gone before them.
    let mut scene = Scene::open(&lab)?;
    match &bounds {
        Some(bounds) => {
            assert!(bounds[2].is_kept(), "the bound is not in force");
            bounds[0].holds(scene.tunnel.process_mut(Daemon::Relay)?.pid());
            bounds[1].holds(scene.tunnel.process_mut(Daemon::Forwarder)?.pid());
        }
        None => println!("no control groups here: resident memory is watched instead"),
    }
    let ext = lab.host("ext");
    let mut stall = ext.play_on("stall", &scene.tunnel.contact(8004), &["100"])?;
    stall.wait_for_log("stalled", SHORT)?;
    // The control: every one of them has bytes that it does not read.
    wait_until(SHORT, "bytes to wait at every stalled reader", || {
        let sockets = ext.run(["ss", "-Htn", "dport = :8004"]);
        let waits = |line: &&str| line.split_whitespace().nth(1).is_some_and(|bytes| bytes != "0");
        sockets.is_ok_and(|listing| listing.stdout.lines().filter(waits).count() == 100)
    })?;
    ext.play("half-close", &scene.tunnel.contact(8003), &[TRANSFER])?;
    for daemon in [Daemon::Forwarder, Daemon::Relay] {
        scene.must_rest(daemon)?;
        let resident = scene.tunnel.process_mut(daemon)?.resident_bytes()?;
        println!("{daemon:?} holds {} MiB", resident >> 20);
        assert!(resident < MEMORY, "{daemon:?} holds {resident}");
    }
    stall.kill();
    scene.serves_within(RECOVERED_MS)?;
    scene.went_on()
}

/// Adds the ports that the gateway translates to, before those that it has already, or takes them away.
fn translate(lab: &Lab, action: &str, to: &str) -> Outcome {
    let rule = format!("POSTROUTING -o wan0 -p tcp --dport 443 -j SNAT --to-source {to}");
    lab.gateway().shell(&format!("iptables -w -t nat {action} {rule}")).map(|_| ())
}

/// The gateway has ten ports for what goes to the relay, and others have nine of them: the tunnel comes
/// about and goes on in the one that is left. When it is cut and that one is gone too, there is none for
/// the next; the forwarder waits without a fuss, and is back within a second of there being some. The
/// controls: a tenth connection from inside does not come about, and nothing is served meanwhile.
#[test]
fn tunnel_needs_one_port_of_the_gateway() -> Outcome {
    let lab = Topology::STANDARD.build("ports")?;
    let (peer, gateway) = (lab.host("peer4"), lab.gateway());
    let mut others = None;
    let mut scene = Scene::open_after(&lab, |tunnel| {
        translate(&lab, "-I", PORTS)?;
        let to = tunnel.tunnel_address();
        let mut nine = peer.play_on("stall", &to, &["9"])?;
        nine.wait_for_log("stalled", SHORT)?;
        others = Some(nine);
        assert!(
            peer.play("connect", &to, &["--within-ms", "500"]).is_err(),
            "there is a tenth port"
        );
        translate(&lab, "-I", LAST_PORT)
    })?;
    scene.serves_within(RECOVERED_MS)?;
    translate(&lab, "-D", LAST_PORT)?;
    lab.host("icp").run_ok(["ss", "-K", "-Htn", "state", "established", "dport = :443"])?;
    scene.must_rest(Daemon::Forwarder)?;
    assert!(!scene.serves(), "there is a port for the next");
    drop(others);
    gateway.run_ok(["conntrack", "-F"])?;
    let is_doubling = !Path::new("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").exists();
    scene.serves_within(if is_doubling { RECOVERED_DOUBLING_MS } else { RECOVERED_MS })?;
    assert!(scene.tunnel.resumptions()? >= 1, "the tunnel was never cut");
    scene.went_on()
}
