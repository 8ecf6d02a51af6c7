//! Adit for a long time: does it keep what it should give back, or lose what it should carry?
//!
//! Flows come and go through one tunnel in generations; peers are registered and dropped beside them;
//! the tunnel's connection is killed now and then. Memory is watched all the while, descriptors before
//! and after, and in the end every byte has to be found again at each hop:
//!
//! ```text
//!   external peers ─▶ relay: sent into the tunnel ─▶ forwarder: received from it ─▶ internal peers
//! ```

mod memory;

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use netns_tests::faults::Fault;
use netns_tests::traffic::swarm::{GREETING, TRAILER};
use netns_tests::{
    Daemon, LONG, Lab, Process, SHORT, Scene, Swarm, SwarmPlan, Tally, Topology, helper, wait_until,
};
use serde_json::Value;

use self::memory::Memory;
use crate::cli::Shared;
use crate::error::BenchError;
use crate::machine;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::way::Way;

/// Both daemons.
const DAEMONS: [Daemon; 2] = [Daemon::Forwarder, Daemon::Relay];
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Peers that come and go at once, and their first public port.
const PEERS: (u16, u16) = (20, 8_050);
/// Of the whole time, what passes before memory counts: pools fill, and the heap finds its size.
const WARM_UP_SHARE: u32 = 5;

/// What is done, and what it may cost.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Flows at once.
    #[arg(long, default_value_t = 50)]
    flows: usize,
    /// Kilobytes a second of all flows together, in each direction.
    #[arg(long, default_value_t = 2_000, value_name = "KBYTES")]
    rate: u64,
    /// Seconds after which flows end and others begin.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    generation: f64,
    /// Seconds between two kills of the tunnel's connection.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    kill_every: f64,
    /// Fails when a daemon's memory has grown by more KiB, by its slope over the time that counts.
    #[arg(long, default_value_t = 1_024.0, value_name = "KIB")]
    max_growth: f64,
    #[command(flatten)]
    shared: Shared,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    took: Duration,
    kills: u64,
    resumptions: u64,
    generations: u64,
    memory: [Memory; 2],
    descriptors: [(usize, usize); 2],
    hops: [Hops; 2],
    registrations: u64,
}

/// The bytes of one direction, hop by hop.
#[derive(Debug)]
struct Hops {
    way: &'static str,
    counts: [(&'static str, u64); 4],
}

impl Hops {
    fn agree(&self) -> bool {
        self.counts.iter().all(|(_, bytes)| *bytes == self.counts[0].1)
    }
}

/// Soaks and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.minutes, options.flows) = (0.25, 20);
        (options.generation, options.kill_every) = (4.0, 3.0);
        // Nothing has found its size in that time.
        options.max_growth = options.max_growth.max(16.0 * 1_024.0);
    }
    let lab = Topology::STANDARD.build("soak")?;
    let conditions = machine::conditions(&lab, &[Way::Adit])?;
    let outcome = soak(&lab, &options)?;
    let report = Report {
        name: "soak".to_owned(),
        title: format!("Soak of {:.1} minutes", outcome.took.as_secs_f64() / 60.0),
        conditions,
        table: table(&outcome),
        notes: notes(&outcome, &options),
        results: results(&outcome),
    };
    report.publish(&options.shared)?;
    let exceeded = outcome.exceeded(&options);
    if exceeded.is_empty() { Ok(()) } else { Err(BenchError::Soaked { what: exceeded.join("; ") }) }
}

/// Peers that are registered, renewed and dropped, again and again, until this is dropped.
struct Churn {
    process: Process,
    rounds: u64,
}

impl Churn {
    fn start(lab: &Lab) -> Result<Process, BenchError> {
        let program = helper("lab-peer")?.display().to_string();
        let socket = lab.path().join("adit.sock").display().to_string();
        let (count, port) = (PEERS.0.to_string(), PEERS.1.to_string());
        let target = lab.host("peer3").at(7_000);
        let words = [&program, "register", &socket, &target, &port, &count, "--rounds", "1"];
        Ok(lab.host("icp").spawn(words)?)
    }

    fn new(lab: &Lab) -> Result<Self, BenchError> {
        Ok(Self { process: Self::start(lab)?, rounds: 0 })
    }

    /// Begins the next round when one is over.
    fn go_on(&mut self, lab: &Lab) -> Result<(), BenchError> {
        if !self.process.runs() {
            self.end()?;
            self.process = Self::start(lab)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BenchError> {
        self.process.finish(LONG)?;
        self.rounds += 1;
        Ok(())
    }
}

fn soak(lab: &Lab, options: &Options) -> Result<Outcome, BenchError> {
    let mut scene = Scene::open(lab, "")?;
    let before = descriptors(&mut scene)?;
    let plan = SwarmPlan::new(options.flows).kbytes_per_second(options.rate);
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let (generation, kill_every) =
        (Duration::from_secs_f64(options.generation), Duration::from_secs_f64(options.kill_every));
    let begun = Instant::now();
    let (mut memory, mut outside) = (DAEMONS.map(|_| Memory::default()), Tally::default());
    let (mut kills, mut generations, mut killed) = (0, 0, begun);
    let mut churn = Churn::new(lab)?;
    while begun.elapsed() < length {
        let (mut swarm, since) = (scene.swarm(&plan)?, Instant::now());
        while since.elapsed() < generation && begun.elapsed() < length {
            thread::sleep(LOOK_EVERY);
            if killed.elapsed() >= kill_every {
                let end = DAEMONS[usize::from(kills % 2 == 0)];
                Fault::Severed(end).inject(lab)?.lift()?;
                (kills, killed) = (kills + 1, Instant::now());
            }
            if begun.elapsed() >= length / WARM_UP_SHARE {
                for (memory, daemon) in memory.iter_mut().zip(DAEMONS) {
                    let bytes = scene.tunnel.process_mut(daemon)?.resident_bytes()?;
                    memory.add(begun.elapsed(), bytes);
                }
            }
            churn.go_on(lab)?;
        }
        outside = outside.and(end(&mut swarm)?);
        generations += 1;
    }
    churn.end()?;
    let took = begun.elapsed();
    let hops = hops(&mut scene, outside)?;
    let after = settled(&mut scene, before)?;
    Ok(Outcome {
        took,
        kills,
        resumptions: scene.tunnel.resumptions()?,
        generations,
        memory,
        descriptors: [(before[0], after[0]), (before[1], after[1])],
        hops,
        registrations: churn.rounds * u64::from(PEERS.0),
    })
}

/// Ends all flows of a generation, each with both of its sums right.
fn end(swarm: &mut Swarm) -> Result<Tally, BenchError> {
    swarm.enough()?;
    let tally = swarm.finish(LONG)?;
    if tally.right == tally.flows {
        return Ok(tally);
    }
    Err(BenchError::Soaked { what: format!("flows were lost or altered: {tally:?}") })
}

fn descriptors(scene: &mut Scene<'_>) -> Result<[usize; 2], BenchError> {
    Ok([scene.tunnel.open_files(DAEMONS[0])?, scene.tunnel.open_files(DAEMONS[1])?])
}

/// The descriptors when there are as many as before, or after a while.
fn settled(scene: &mut Scene<'_>, before: [usize; 2]) -> Result<[usize; 2], BenchError> {
    let mut after = descriptors(scene)?;
    let is_settled = wait_until(SHORT, "descriptors as before", || {
        after = descriptors(scene).unwrap_or(after);
        after == before
    });
    // That they never were is for the report to say.
    is_settled.ok();
    Ok(after)
}

fn count(status: &Value, at: &str) -> Result<u64, BenchError> {
    let found = status.pointer(at).and_then(Value::as_u64);
    found.ok_or_else(|| BenchError::unexpected(format!("status at {at}"), status.to_string()))
}

/// What every hop has counted, now that all flows have ended.
fn hops(scene: &mut Scene<'_>, outside: Tally) -> Result<[Hops; 2], BenchError> {
    let mut inside = Tally::default();
    wait_until(LONG, "the ends of all flows inside", || {
        inside = scene.mark_inside().unwrap_or_default();
        inside.ended() >= outside.flows
    })?;
    for daemon in DAEMONS {
        wait_until(LONG, "the ends of all flows in the daemons", || {
            scene.tunnel.status(daemon).is_ok_and(|status| status["flows"] == 0)
        })?;
    }
    let (forwarder, relay) =
        (scene.tunnel.status(Daemon::Forwarder)?, scene.tunnel.status(Daemon::Relay)?);
    let of_relay = |name: &str| count(&relay, &format!("/forwarders/0/traffic/{name}"));
    let of_forwarder = |name: &str| count(&forwarder, &format!("/traffic/{name}"));
    // What stands before and behind a flow's bytes is in no tally of who sends it, and what stands
    // before them in none of who receives it.
    let (greetings, sums) = (outside.flows * GREETING as u64, outside.flows * TRAILER as u64);
    Ok([
        Hops {
            way: "inwards",
            counts: [
                ("the external peers sent", outside.sent + sums + greetings),
                ("the relay sent", of_relay("bytes_sent")?),
                ("the forwarder received", of_forwarder("bytes_received")?),
                ("the internal peers received", inside.received + greetings),
            ],
        },
        Hops {
            way: "outwards",
            counts: [
                ("the internal peers sent", inside.sent + sums),
                ("the forwarder sent", of_forwarder("bytes_sent")?),
                ("the relay received", of_relay("bytes_received")?),
                ("the external peers received", outside.received),
            ],
        },
    ])
}

impl Outcome {
    fn exceeded(&self, options: &Options) -> Vec<String> {
        let mut exceeded = Vec::new();
        for ((daemon, memory), (before, after)) in
            DAEMONS.iter().zip(&self.memory).zip(self.descriptors)
        {
            let growth = memory.growth_kib();
            if growth > options.max_growth {
                exceeded.push(format!("the {daemon:?} has grown by {growth:.0} KiB"));
            }
            if before != after {
                exceeded.push(format!("the {daemon:?} had {before} descriptors, and has {after}"));
            }
        }
        let disagree = self.hops.iter().filter(|hops| !hops.agree());
        exceeded.extend(disagree.map(|hops| format!("bytes {}: {:?}", hops.way, hops.counts)));
        if self.resumptions < self.kills {
            exceeded.push(format!("{} resumptions of {} kills", self.resumptions, self.kills));
        }
        exceeded
    }
}

fn table(outcome: &Outcome) -> Table {
    let mut table = Table::new([
        "daemon",
        "memory, MiB, mean",
        "slope, KiB/min",
        "growth, KiB",
        "descriptors before",
        "after",
    ]);
    for ((daemon, memory), (before, after)) in
        DAEMONS.iter().zip(&outcome.memory).zip(outcome.descriptors)
    {
        table.row([
            format!("{daemon:?}"),
            format!("{:.1}", memory.mean_kib() / 1_024.0),
            format!("{:.1}", memory.slope_kib_per_min()),
            format!("{:.0}", memory.growth_kib()),
            before.to_string(),
            after.to_string(),
        ]);
    }
    table
}

fn notes(outcome: &Outcome, options: &Options) -> Vec<String> {
    let Outcome { generations, kills, resumptions, registrations, .. } = outcome;
    let mut notes = vec![
        format!("{generations} generations of {} flows, every sum right", options.flows),
        format!("{kills} kills of the tunnel's connection, {resumptions} resumptions"),
        format!("{registrations} registrations made, renewed and dropped"),
        "Slope: of a straight line through resident memory, without the first fifth of the time; \
         growth: what it comes to over the rest."
            .to_owned(),
    ];
    for Hops { way, counts } in &outcome.hops {
        let counts: Vec<_> = counts.iter().map(|(who, bytes)| format!("{who} {bytes}")).collect();
        notes.push(format!("Bytes {way}: {}", counts.join(", ")));
    }
    notes
}

fn results(outcome: &Outcome) -> Results {
    let mut results = Results::default();
    for (daemon, memory) in DAEMONS.iter().zip(&outcome.memory) {
        let subject = format!("{daemon:?}");
        results.add(&subject, "memory, mean", "KiB", memory.mean_kib());
        results.add(&subject, "slope", "KiB/min", memory.slope_kib_per_min());
        results.add(&subject, "growth", "KiB", memory.growth_kib());
    }
    results
}
