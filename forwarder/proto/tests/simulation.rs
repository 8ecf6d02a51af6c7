//! Two sessions in virtual time, under every fault that a seed can draw, and an oracle.
//!
//! ```text
//!  peers ── End (Session, RecordLayer) ══ carriers, any number ══ End ── peers
//!             sockets, clock             latency, kernel buffer,
//!                                        cut, hung, told or not
//! ```
//!
//! A failure names its seed; `ADIT_SIM_SEED=123 cargo test -p adit-proto --test simulation` runs
//! that one alone and tells what happens. `ADIT_SIM_SEEDS=1000000` runs that many.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may panic, and is no interface"
)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_proto::id::Side;

#[path = "simulation/carrier.rs"]
mod carrier;
#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/datagrams.rs"]
mod datagrams;
#[path = "simulation/deeds.rs"]
mod deeds;
#[path = "simulation/end.rs"]
mod end;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "session/keys.rs"]
mod keys;
#[path = "simulation/mutation.rs"]
mod mutation;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/world.rs"]
mod world;

use mutation::{Mutation, Mutator};
use oracle::Outcome;
use plan::Plan;
use random::Random;
use world::{Task, World};

/// Seeds that are run unless the environment wishes otherwise.
const SEEDS: u64 = 2_000;
/// How long the ends may take to come to rest once faults are over.
const REST_MAX: Duration = Duration::from_secs(600);

/// What a run leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    digest: u64,
    counts: BTreeMap<String, u64>,
}

fn simulate(seed: u64, is_told: bool) -> Outcome<Report> {
    let mut random = Random::new(seed);
    let plan = Plan { is_told, ..Plan::draw(&mut random) };
    if is_told {
        eprintln!("{plan:?}");
    }
    let mut world = World::new(plan, random);
    world.check_dial();
    world.later(Duration::ZERO, Task::Act);
    world.later(Duration::ZERO, Task::Fault);
    world.pass(world.plan.faults_for)?;
    world.calm()?;
    rest(&mut world)?;
    let mut counts = BTreeMap::new();
    counts.extend(world.oracle.counts.iter().map(|(what, n)| ((*what).to_owned(), *n)));
    counts.extend(world.oracle.causes.iter().map(|(cause, n)| (format!("{cause:?}"), *n)));
    Ok(Report { digest: world.digest, counts })
}

/// Lets everything arrive, ends every flow, and looks that nothing is left.
fn rest(world: &mut World) -> Outcome {
    until(world, World::check_settled)?;
    world.end_all()?;
    until(world, World::check_empty)
}

fn until(world: &mut World, check: impl Fn(&World) -> Outcome) -> Outcome {
    let start = world.now;
    loop {
        world.pass(Duration::from_millis(100))?;
        let result = check(world);
        if result.is_ok() || world.now.since(start) > REST_MAX {
            return result;
        }
    }
}

/// Whatever breaks, no byte is lost, doubled or swapped, no flow ends without a reason, and all
/// comes to rest once nothing breaks any more.
#[test]
fn sessions_outlive_whatever_a_seed_draws() {
    if let Some(seed) = wish("ADIT_SIM_SEED") {
        let report = simulate(seed, true).unwrap();
        eprintln!("{report:#?}");
        return;
    }
    let counts = simulate_all(0..wish("ADIT_SIM_SEEDS").unwrap_or(SEEDS));
    eprintln!("{counts:#?}");
    for what in EXPECTED {
        assert!(counts.contains_key(*what), "no seed has drawn: {what}");
    }
}

/// What some seed must have drawn, or the simulation tests less than it says.
const EXPECTED: &[&str] = &[
    "Crash",
    "Grace",
    "Party",
    "Replaced",
    "Started",
    "a HELLO was stale",
    "a carrier was cut",
    "a carrier was found silent",
    "a carrier was lost with records retained",
    "a carrier was replaced while it was in use",
    "a batch came",
    "a clock leapt",
    "a datagram came",
    "a datagram came in parts",
    "a pending carrier was replaced",
    "a session never opened",
    "a session was found gone",
    "a session was resumed",
    "an end was upgraded",
    "an end was upgraded with its carrier",
    "a carrier that was passed on had its last keys",
    "an end was upgraded with records retained",
    "keys were updated",
    "the relay resumed with records retained",
];

fn wish(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("the number of a seed, or of seeds"))
}

fn simulate_all(seeds: std::ops::Range<u64>) -> BTreeMap<String, u64> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let work = || {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return counts;
            }
            for (what, n) in run(seed).counts {
                *counts.entry(what).or_default() += n;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = BTreeMap::new();
        for worker in workers {
            let Ok(counts) = worker.join() else { panic!("a seed failed; see above") };
            counts.into_iter().for_each(|(what, n)| *all.entry(what).or_default() += n);
        }
        all
    })
}

fn run(seed: u64) -> Report {
    let failed = match catch_unwind(AssertUnwindSafe(|| simulate(seed, false))) {
        Ok(Ok(report)) => return report,
        Ok(Err(failure)) => failure,
        Err(_) => "it panicked, as printed above".to_owned(),
    };
    panic!(
        "seed {seed}: {failed}\n\
         alone: ADIT_SIM_SEED={seed} cargo test -p adit-proto --test simulation -- --nocapture"
    );
}

/// The same seed is the same run, to the last event.
#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(simulate(seed, false), simulate(seed, false));
    }
}

/// The oracle can fail: it finds out one record that is lost, doubled or swapped.
#[test]
fn the_oracle_finds_one_wrong_record() {
    for mutation in [Mutation::Drop, Mutation::Duplicate, Mutation::Swap] {
        for number in [1, 2, 10, 30] {
            let mut world = World::new(Plan::quiet(), Random::new(number as u64));
            world.mutator = Mutator::new(mutation, number);
            let result = bulk(&mut world);
            assert!(world.mutator.has_struck);
            assert!(result.is_err(), "{mutation:?} of record {number} went unnoticed");
        }
    }
}

/// The oracle can fail at datagrams too: one that was altered, cut, or comes twice.
#[test]
fn the_oracle_finds_one_wrong_datagram() {
    let mut datagrams = datagrams::Datagrams::default();
    let sent = datagrams.send(1, Side::Relay, 100);
    let mut altered = sent.clone();
    altered[50] ^= 1;
    for wrong in [altered.as_slice(), &sent[..99], &[]] {
        let sent = datagrams.send(1, Side::Relay, 100);
        let mut wrong = wrong.to_vec();
        wrong.iter_mut().zip(&sent[..8]).for_each(|(to, from)| *to = *from);
        assert!(datagrams.delivered(1, Side::Forwarder, &wrong).is_err());
    }
    assert!(datagrams.delivered(1, Side::Relay, &sent).is_err());
    datagrams.delivered(1, Side::Forwarder, &sent).unwrap();
    assert!(datagrams.delivered(1, Side::Forwarder, &sent).is_err());
}

/// Without a fault there is nothing to complain of.
#[test]
fn the_oracle_is_content_with_a_quiet_line() {
    bulk(&mut World::new(Plan::quiet(), Random::new(1))).unwrap();
}

/// One flow, 600 kB from the relay to the forwarder.
fn bulk(world: &mut World) -> Outcome {
    world.check_dial();
    world.pass(Duration::from_secs(10))?;
    world.write_new(Side::Relay, 600_000)?;
    world.calm()?;
    rest(world)
}
