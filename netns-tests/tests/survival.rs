//! What kills a plain connection does not touch the flows that the tunnel carries.
//!
//! In every test a hundred flows run from outside to two internal peers, both directions at once,
//! while the fault strikes; each byte is known and each direction summed up by SHA-256. A plain
//! connection through the same gateway is the control: without its death, or its stall, a fault
//! would prove nothing.

use netns_tests::faults::{Answer, Direction, Fault};
use netns_tests::{Daemon, LabError, Trial, stage};

type Outcome = Result<(), LabError>;

fn run(trial: Trial, name: &str) -> Outcome {
    let seen = stage(name, |lab| trial.play(lab))?;
    println!("{name}: {seen}");
    Ok(())
}

/// The gateway loses its state, and swallows what it no longer knows.
#[test]
fn flows_survive_a_gateway_that_forgets_silently() -> Outcome {
    run(Trial::sudden(Fault::Forgetting(Answer::Silence)), "forgets-silently")
}

/// The gateway loses its state, and resets what it no longer knows.
#[test]
fn flows_survive_a_gateway_that_forgets_and_resets() -> Outcome {
    run(Trial::sudden(Fault::Forgetting(Answer::Reset)), "forgets-resets")
}

/// The carrier is destroyed at the forwarder.
#[test]
fn flows_survive_a_carrier_cut_at_the_forwarder() -> Outcome {
    run(Trial::sudden(Fault::Severed(Daemon::Forwarder)), "cut-forwarder")
}

/// The carrier is destroyed at the relay.
#[test]
fn flows_survive_a_carrier_cut_at_the_relay() -> Outcome {
    run(Trial::sudden(Fault::Severed(Daemon::Relay)), "cut-relay")
}

/// The packets of this one carrier vanish for good; a new one gets through.
#[test]
fn flows_survive_a_carrier_that_falls_silent_for_ever() -> Outcome {
    run(Trial::sudden(Fault::Abandoned), "abandoned")
}

/// What goes out is lost for six seconds, what comes in is not.
#[test]
fn flows_survive_an_outward_black_hole() -> Outcome {
    run(Trial::lasting(Fault::OneWay(Direction::Outward), 6), "outward")
}

/// What comes in is lost for six seconds, what goes out is not.
#[test]
fn flows_survive_an_inward_black_hole() -> Outcome {
    run(Trial::lasting(Fault::OneWay(Direction::Inward), 6), "inward")
}

/// Everything is lost for one second: too short for a carrier to be given up.
#[test]
fn flows_survive_a_hole_of_1_s() -> Outcome {
    run(Trial::lasting(Fault::Hole, 1).harmless(), "hole-1")
}

/// Everything is lost for ten seconds.
#[test]
fn flows_survive_a_hole_of_10_s() -> Outcome {
    run(Trial::lasting(Fault::Hole, 10), "hole-10")
}

/// Everything is lost for most of the time that the relay waits.
#[test]
fn flows_survive_a_hole_of_45_s() -> Outcome {
    run(Trial::lasting(Fault::Hole, 45), "hole-45")
}

/// The gateway has another public address from one moment to the next.
#[test]
fn flows_survive_a_change_of_the_public_address() -> Outcome {
    run(Trial::sudden(Fault::AddressChange), "address")
}

/// The gateway's outside goes down and up twenty times in four seconds.
#[test]
fn flows_survive_a_flapping_line() -> Outcome {
    run(Trial::sudden(Fault::Flapping(20)), "flapping")
}

/// Each carrier is cut in the middle of a record after four megabytes, without a word.
#[test]
fn flows_survive_carriers_that_stop_within_a_record() -> Outcome {
    run(Trial::quota(Answer::Silence), "quota-silent")
}

/// Each carrier is reset in the middle of a record after four megabytes.
#[test]
fn flows_survive_carriers_that_are_reset_within_a_record() -> Outcome {
    run(Trial::quota(Answer::Reset), "quota-reset")
}
