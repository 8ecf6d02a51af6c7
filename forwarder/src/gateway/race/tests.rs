//! Races in virtual time, against addresses that do as they are told.

use std::cell::RefCell;
use std::future::pending;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;

/// What one step of an address does, and when.
#[derive(Clone, Copy, Debug)]
enum Does {
    Succeed(u64),
    Fail(u64),
    Nothing,
}

use Does::{Fail, Nothing, Succeed};

impl Does {
    async fn wait(self) -> bool {
        match self {
            Succeed(after_ms) | Fail(after_ms) => sleep(Duration::from_millis(after_ms)).await,
            Nothing => pending().await,
        }
        matches!(self, Succeed(_))
    }
}

#[derive(Default)]
struct Script {
    look_ups: Vec<(Does, Vec<SocketAddr>)>,
    /// How each address connects, and how it authenticates.
    addresses: BTreeMap<SocketAddr, (Does, Does)>,
    /// When each was dialled, in milliseconds.
    dialled: RefCell<Vec<(u64, SocketAddr)>>,
    began: Option<Instant>,
    /// What had better be tried last next time.
    failed: BTreeSet<SocketAddr>,
}

impl Script {
    /// One place that is known at once, and has these addresses.
    fn of(addresses: &[(&str, Does, Does)]) -> Self {
        let mut script = Self::default();
        script.place(Succeed(0), addresses);
        script
    }

    fn place(&mut self, look_up: Does, addresses: &[(&str, Does, Does)]) {
        let mut found = Vec::new();
        for (text, connect, authenticate) in addresses {
            found.push(at(text));
            self.addresses.insert(at(text), (*connect, *authenticate));
        }
        self.look_ups.push((look_up, found));
    }

    /// Who won, when, and what failed until then.
    async fn run(&mut self, memory: Memory) -> (Option<SocketAddr>, u64, Vec<String>) {
        let began = Instant::now();
        self.began = Some(began);
        let mut race = Race::new(&*self, self.look_ups.len(), memory);
        let won = race.run().await;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
        let (failures, failed) = race.into_failures();
        self.failed = failed;
        (won, elapsed_ms, failures)
    }

    fn dialled(&self) -> Vec<(u64, SocketAddr)> {
        self.dialled.borrow().clone()
    }
}

impl Dialler for Script {
    type Connection = SocketAddr;
    type Carrier = SocketAddr;
    type Failure = String;

    async fn look_up(&self, place: usize) -> Result<Vec<SocketAddr>, String> {
        let (does, found) = &self.look_ups[place];
        match timeout(Duration::from_secs(5), does.wait()).await {
            Ok(true) => Ok(found.clone()),
            _ => Err(format!("place {place} unknown")),
        }
    }

    async fn connect(&self, to: Candidate) -> Result<SocketAddr, String> {
        let elapsed_ms = u64::try_from(self.began.unwrap().elapsed().as_millis()).unwrap();
        self.dialled.borrow_mut().push((elapsed_ms, to.address));
        let (does, _) = self.addresses[&to.address];
        match timeout(Duration::from_secs(4), does.wait()).await {
            Ok(true) => Ok(to.address),
            _ => Err(format!("{} unreachable", to.address.ip())),
        }
    }

    async fn authenticate(&self, at: Candidate, _: SocketAddr) -> Result<SocketAddr, String> {
        let (_, does) = self.addresses[&at.address];
        match timeout(Duration::from_secs(10), does.wait()).await {
            Ok(true) => Ok(at.address),
            _ => Err(format!("{} is a stranger", at.address.ip())),
        }
    }

    fn unreachable(&self, at: Candidate) -> String {
        format!("{} unreachable", at.address.ip())
    }

    fn silent(&self, at: Candidate) -> String {
        format!("{} silent", at.address.ip())
    }
}

fn at(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), 443)
}

const PROVES: Does = Succeed(20);

/// A family whose packets vanish costs one delay.
#[tokio::test(start_paused = true)]
async fn dead_family_costs_a_quarter_second() {
    let mut script = Script::of(&[
        ("2001:db8::1", Nothing, PROVES),
        ("2001:db8::2", Nothing, PROVES),
        ("192.0.2.1", Succeed(10), PROVES),
    ]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((280..300).contains(&elapsed_ms), "{elapsed_ms}");
    assert_eq!(failures, [""; 0]);
}

/// Where somebody answers at once that nobody is there, nobody waits.
#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_starts_at_once() {
    let mut script = Script::of(&[
        ("192.0.2.1", Fail(5), PROVES),
        ("192.0.2.2", Fail(5), PROVES),
        ("192.0.2.3", Succeed(10), PROVES),
    ]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.3")));
    assert!((40..50).contains(&elapsed_ms), "{elapsed_ms}");
    assert_eq!(failures, ["192.0.2.1 unreachable", "192.0.2.2 unreachable"]);
}

/// All dead: an error for each, in bounded time, and none was tried twice.
#[tokio::test(start_paused = true)]
async fn all_dead_ends_in_time_with_every_reason() {
    let mut script = Script::of(&[
        ("2001:db8::1", Nothing, PROVES),
        ("192.0.2.1", Nothing, PROVES),
        ("192.0.2.2", Fail(1), PROVES),
    ]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!(won, None);
    assert!((4_250..4_300).contains(&elapsed_ms), "{elapsed_ms}");
    let expected = ["192.0.2.2 unreachable", "2001:db8::1 unreachable", "192.0.2.1 unreachable"];
    assert_eq!(failures, expected);
    assert_eq!(script.dialled().len(), 3);
}

/// A captive portal that accepts for everybody and then says nothing holds the relay up for three
/// seconds; the relay's own connection has been standing ready meanwhile.
#[tokio::test(start_paused = true)]
async fn silent_peer_does_not_block_the_next() {
    let mut script =
        Script::of(&[("192.0.2.1", Succeed(300), Nothing), ("192.0.2.2", Succeed(200), PROVES)]);
    let (won, elapsed_ms, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.2")));
    assert!((3_300..3_350).contains(&elapsed_ms), "{elapsed_ms}");
}

/// The same when the next has not been dialled yet.
#[tokio::test(start_paused = true)]
async fn silent_peer_does_not_block_those_not_dialled_yet() {
    let mut script =
        Script::of(&[("192.0.2.1", Succeed(10), Nothing), ("192.0.2.2", Succeed(10), PROVES)]);
    let (won, elapsed_ms, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.2")));
    assert!((3_010..3_100).contains(&elapsed_ms), "{elapsed_ms}");
}

/// A stranger at one address is no reason to doubt the others.
#[tokio::test(start_paused = true)]
async fn stranger_lets_the_next_start_at_once() {
    let mut script =
        Script::of(&[("192.0.2.1", Succeed(10), Fail(20)), ("192.0.2.2", Succeed(10), PROVES)]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.2")));
    assert!((60..70).contains(&elapsed_ms), "{elapsed_ms}");
    assert_eq!(failures, ["192.0.2.1 is a stranger"]);
}

/// A relay behind a bad path, the same at every address, still has all its time.
#[tokio::test(start_paused = true)]
async fn slow_relay_with_several_addresses_still_wins() {
    let slow = Succeed(8_000);
    let mut script = Script::of(&[
        ("192.0.2.1", Succeed(10), slow),
        ("192.0.2.2", Succeed(10), slow),
        ("192.0.2.3", Succeed(10), slow),
    ]);
    let (won, elapsed_ms, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((8_000..8_100).contains(&elapsed_ms), "{elapsed_ms}");
}

/// While the relay proves to be itself, nobody else is bothered.
#[tokio::test(start_paused = true)]
async fn nothing_starts_while_a_connection_authenticates() {
    let mut script =
        Script::of(&[("192.0.2.1", Succeed(10), Succeed(900)), ("192.0.2.2", Nothing, Nothing)]);
    let (won, _, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert_eq!(script.dialled(), [(0, at("192.0.2.1"))]);
}

/// A great many addresses that all hang have an end, and the next attempt begins with the rest.
#[tokio::test(start_paused = true)]
async fn an_attempt_ends_and_the_next_one_goes_on_where_it_ended() {
    let hang: Vec<_> = (1..=8).map(|last| format!("192.0.2.{last}")).collect();
    let hang: Vec<_> = hang.iter().map(|text| (text.as_str(), Succeed(10), Nothing)).collect();
    let mut script = Script::of(&hang);
    script.place(Succeed(0), &[("198.51.100.1", Succeed(10), PROVES)]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!((won, elapsed_ms), (None, 15_000));
    assert!(!failures.is_empty());
    let failed = script.failed.clone();
    let (won, ..) = script.run(Memory { failed, ..Memory::default() }).await;
    assert_eq!(won, Some(at("198.51.100.1")));
}

/// A resolver that is out of reach holds no address back for longer than the resolution delay.
#[tokio::test(start_paused = true)]
async fn dead_resolver_does_not_stop_literal_addresses() {
    let mut script = Script::default();
    script.place(Nothing, &[]);
    script.place(Succeed(0), &[("192.0.2.1", Succeed(10), PROVES)]);
    let (won, elapsed_ms, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((80..90).contains(&elapsed_ms), "{elapsed_ms}");
}

/// Names that are found within the resolution delay keep the configuration's order.
#[tokio::test(start_paused = true)]
async fn quick_resolver_keeps_the_order() {
    let mut script = Script::default();
    script.place(Succeed(30), &[("192.0.2.1", Succeed(10), PROVES)]);
    script.place(Succeed(0), &[("192.0.2.2", Succeed(10), PROVES)]);
    let (won, elapsed_ms, _) = script.run(Memory::default()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((60..70).contains(&elapsed_ms), "{elapsed_ms}");
}

/// The resolver died with the path: the relay is where it was, and is found there.
#[tokio::test(start_paused = true)]
async fn dead_resolver_does_not_hide_a_relay_that_was_found_before() {
    let mut script = Script::default();
    script.place(Nothing, &[("192.0.2.1", Succeed(10), PROVES)]);
    let memory = Memory { known: [(0, vec![at("192.0.2.1")])].into(), failed: BTreeSet::default() };
    let (won, elapsed_ms, _) = script.run(memory.clone()).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((500..550).contains(&elapsed_ms), "{elapsed_ms}");
    script.look_ups[0].0 = Fail(100);
    let (won, elapsed_ms, failures) = script.run(memory).await;
    assert_eq!(won, Some(at("192.0.2.1")));
    assert!((100..150).contains(&elapsed_ms), "{elapsed_ms}");
    assert_eq!(failures, ["place 0 unknown"]);
}

/// Without any address there is an error, and no waiting.
#[tokio::test(start_paused = true)]
async fn no_address_ends_the_race_at_once() {
    let mut script = Script::default();
    script.place(Fail(10), &[]);
    script.place(Succeed(10), &[]);
    let (won, elapsed_ms, failures) = script.run(Memory::default()).await;
    assert_eq!(won, None);
    assert!((10..15).contains(&elapsed_ms), "{elapsed_ms}");
    assert_eq!(failures, ["place 0 unknown"]);
}
