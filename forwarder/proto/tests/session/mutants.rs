//! Mutants of every frame, in numbers for which handshakes would be too slow.

use super::corpus::{corpus, mutant};
use super::*;

/// Records, each of a few frames, of which a few bytes are altered.
const MUTANTS: u64 = 100_000;

/// A hundred thousand mutants at either end go on with the session, which can still be spoken on, or
/// end it with an error of its own.
#[test]
fn a_hundred_thousand_mutants_are_taken_or_refused() {
    let mut random = fastrand::Rng::with_seed(1);
    let fresh = || {
        let mut pair = Pair::new();
        let flow = pair.open();
        let corpus = corpus(flow);
        (pair, corpus)
    };
    let (mut pair, mut frames) = fresh();
    let (mut taken, mut refused) = (0, 0);
    for number in 0..MUTANTS {
        let content = mutant(&frames, &mut random);
        let now = pair.now;
        let end = if number % 2 == 0 { &mut pair.relay } else { &mut pair.forwarder };
        match end.receive_content(&content, now) {
            Ok(()) => {
                end.transmit(now);
                taken += 1;
            }
            Err(_typed) => {
                (pair, frames) = fresh();
                refused += 1;
            }
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > MUTANTS / 20 && refused > MUTANTS / 20, "{taken} taken, {refused} refused");
}
