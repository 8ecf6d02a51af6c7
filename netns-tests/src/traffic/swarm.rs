//! Many flows at once, paced, both directions of each at the same time, until told to end.
//!
//! The `swarm` opens them, the `exchange` answers. Both ends know every byte that must come, sum up
//! what did (SHA-256), and tell each other in a trailer; a flow ends by half-closes, the swarm's
//! first. Both take commands on standard input, a line each:
//!
//! - `mark N` prints `mark N {…}`: how it stands, with the stalls since the mark before;
//! - `enough` (or the input's end): no new bytes, the sums, half-closes; flows of a fixed length
//!   do not hear it;
//! - `abort` resets every flow.

mod flow;
mod meter;
mod pattern;

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

pub use flow::TRAILER;
use flow::{Pace, Side, carry};
use meter::{End, Meter, Roster};
use pattern::{Pattern, Way, mix};

/// Every so many flows there is a heavy one, so that long records travel beside short ones.
const HEAVY_EVERY: usize = 10;
/// The share of a heavy flow.
const HEAVY: u64 = 10;
/// A flow's opening: its seed, its rate in bytes a second, its slices in milliseconds, its length.
pub const GREETING: usize = 32;

/// What a swarm does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The exchanges; flows go to each in turn.
    pub to: Vec<SocketAddr>,
    /// How many flows.
    pub flows: usize,
    /// How fast all flows together send, in each direction.
    pub bytes_per_second: u64,
    /// How often each sends.
    pub slice: Duration,
    /// How many bytes each flow has in each direction; as many as come until it is told to end
    /// otherwise.
    pub bytes: Option<NonZeroU64>,
    /// What makes its patterns differ from another swarm's.
    pub seed: u64,
}

/// Runs the swarm: prints `swarming N` when every flow has heard something, and at the end a line
/// `flows {…}` with the result.
///
/// # Errors
/// When any flow ended otherwise than well.
pub fn swarm(plan: &Plan) -> io::Result<()> {
    let roster = Arc::new(Roster::default());
    let commanded = Arc::clone(&roster);
    thread::spawn(move || {
        obey(&commanded);
        commanded.set_enough();
    });
    let (flows, begun) = (plan.flows, Arc::new(AtomicUsize::new(0)));
    let shares = (0..flows).map(share).sum::<u64>().max(1);
    let mut workers = Vec::new();
    for index in 0..flows {
        let to = plan.to[index % plan.to.len()];
        let (roster, begun) = (Arc::clone(&roster), Arc::clone(&begun));
        let greeting = Greeting {
            seed: mix(plan.seed ^ mix(index as u64)),
            bytes_per_second: plan.bytes_per_second * share(index) / shares,
            slice: plan.slice,
            bytes: plan.bytes,
        };
        workers.push(thread::spawn(move || {
            let stream = greeting.open(to).inspect_err(|_| {
                // A swarm is whole or none: who is refused ends it for all.
                roster.set_enough();
                roster.abort();
            })?;
            join(stream, &greeting, (Way::There, Way::Back), &roster, || {
                if begun.fetch_add(1, Ordering::AcqRel) + 1 == flows {
                    println!("swarming {flows}");
                }
            });
            Ok::<_, io::Error>(())
        }));
    }
    let mut failed = Ok(());
    for worker in workers {
        let joined = worker.join().map_err(|_panic| io::Error::other("a flow panicked"));
        failed = failed.and(joined.and_then(|opened| opened));
    }
    report(&roster, failed)
}

fn report(roster: &Roster, failed: io::Result<()>) -> io::Result<()> {
    println!("flows {}", roster.tally(false));
    let failures = roster.failures();
    for (index, end) in &failures {
        println!("flow {index}: {end:?}");
    }
    failed?;
    if failures.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} flows did not end well", failures.len())))
}

/// Answers swarms, forever.
///
/// # Errors
/// When the address is taken.
pub fn exchange(at: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    println!("listening on {at}");
    let roster = Arc::new(Roster::default());
    let commanded = Arc::clone(&roster);
    thread::spawn(move || obey(&commanded));
    loop {
        let (stream, from) = listener.accept()?;
        let roster = Arc::clone(&roster);
        thread::spawn(move || {
            if let Err(error) = answer(stream, &roster) {
                println!("{from}: no greeting: {error}");
            }
        });
    }
}

fn answer(mut stream: TcpStream, roster: &Arc<Roster>) -> io::Result<()> {
    let mut bytes = [0; GREETING];
    stream.read_exact(&mut bytes)?;
    let greeting = Greeting::decode(&bytes);
    stream.set_nodelay(true)?;
    join(stream, &greeting, (Way::Back, Way::There), roster, || ());
    Ok(())
}

/// Adds the flow to the roster and carries it to its end.
fn join(
    stream: TcpStream,
    greeting: &Greeting,
    (sends, hears): (Way, Way),
    roster: &Arc<Roster>,
    on_first: impl FnOnce(),
) {
    let stream = Arc::new(stream);
    let meter = Arc::new(Meter::new(&stream));
    roster.add(&meter);
    let side = Side {
        sends: Pattern::new(greeting.seed, sends),
        hears: Pattern::new(greeting.seed, hears),
        pace: Pace::new(greeting.bytes_per_second, greeting.slice),
        bytes: greeting.bytes,
    };
    carry(stream, side, &meter, roster, on_first);
    match meter.end() {
        Some(End::Right | End::Aborted) | None => {}
        Some(end) => println!("a flow ended: {end:?}"),
    }
}

/// Does what standard input says, until it ends.
fn obey(roster: &Roster) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        match line.trim() {
            "enough" => roster.set_enough(),
            "abort" => roster.abort(),
            line if line.starts_with("mark") => println!("{line} {}", roster.tally(true)),
            line => println!("what is '{line}'?"),
        }
    }
}

fn share(index: usize) -> u64 {
    if index.is_multiple_of(HEAVY_EVERY) { HEAVY } else { 1 }
}

#[derive(Debug)]
struct Greeting {
    seed: u64,
    bytes_per_second: u64,
    slice: Duration,
    bytes: Option<NonZeroU64>,
}

impl Greeting {
    fn open(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let slice_ms = u64::try_from(self.slice.as_millis()).unwrap_or(u64::MAX);
        let bytes = self.bytes.map_or(0, NonZeroU64::get);
        let words = [self.seed, self.bytes_per_second, slice_ms, bytes];
        stream.write_all(words.map(u64::to_be_bytes).as_flattened())?;
        Ok(stream)
    }

    fn decode(bytes: &[u8; GREETING]) -> Self {
        let mut words = [[0; 8]; 4];
        words.as_flattened_mut().copy_from_slice(bytes);
        let [seed, bytes_per_second, slice_ms, bytes] = words.map(u64::from_be_bytes);
        let (slice, bytes) = (Duration::from_millis(slice_ms), NonZeroU64::new(bytes));
        Self { seed, bytes_per_second, slice, bytes }
    }
}
