//! What kills a plain connection does not touch the flows that the tunnel carries.
//!
//! In every test a hundred flows run from outside to two internal peers, both directions at once,
//! while the fault strikes; each byte is known and each direction summed up by SHA-256. A plain
//! connection through the same gateway is the control: without its death, or its stall, a fault
//! would prove nothing.

use std::time::{Duration, Instant};

use netns_tests::faults::{Answer, Direction, Fault};
use netns_tests::{Control, Daemon, Lab, LabError, Scene, Swarm, SwarmPlan, stage};

type Outcome = Result<(), LabError>;

const FLOWS: usize = 100;
/// How long flows may take to move again once the path is there: the promise is far shorter, and
/// has its own suite.
const RECOVERY: Duration = Duration::from_secs(15);
/// A silent control has to have been silent for so long.
const SILENCE_MS: u64 = 2_000;

/// What must befall the control.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Reset, or without a byte from the strike on.
    Death,
    /// Without a byte for about so long.
    Stall(Duration),
}

/// One test.
#[derive(Debug)]
struct Trial {
    fault: Fault,
    /// How long the fault lasts before it is lifted.
    lasts: Duration,
    fate: Fate,
    /// How many carriers have to be lost.
    resumptions_min: u64,
    control_kbytes_per_second: u64,
}

impl Trial {
    /// A fault that is over at once, and kills.
    fn sudden(fault: Fault) -> Self {
        Self {
            fault,
            lasts: Duration::ZERO,
            fate: Fate::Death,
            resumptions_min: 1,
            control_kbytes_per_second: 100,
        }
    }

    /// A path that is gone for some time.
    fn lasting(fault: Fault, seconds: u64) -> Self {
        let lasts = Duration::from_secs(seconds);
        Self { lasts, fate: Fate::Stall(lasts), ..Self::sudden(fault) }
    }

    fn run(&self, name: &str) -> Outcome {
        stage(name, |lab| self.play(lab))
    }

    fn play(&self, lab: &Lab) -> Outcome {
        self.fault.prepare(lab)?;
        let mut scene = Scene::open(lab, "")?;
        let mut swarm = scene.swarm(&SwarmPlan::new(FLOWS))?;
        let mut control = scene.control(self.control_kbytes_per_second)?;
        let session = scene.tunnel.session()?;
        let struck = self.fault.inject(lab)?;
        if self.resumptions_min > 1 {
            self.wait_resumed(&scene)?;
        }
        struck.hold(self.lasts);
        if self.lasts.is_zero() {
            scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
        }
        self.check_control(&mut control, &mut scene)?;
        struck.lift()?;
        scene.wait_flowing(&mut swarm, Instant::now(), RECOVERY)?;
        self.finish(&mut swarm, &mut scene)?;
        assert_eq!(scene.tunnel.session()?, session, "another session");
        let resumptions = scene.tunnel.resumptions()?;
        assert!(resumptions >= self.resumptions_min, "{resumptions} resumptions");
        Ok(())
    }

    fn wait_resumed(&self, scene: &Scene<'_>) -> Outcome {
        netns_tests::wait_until(Duration::from_secs(60), "carriers to be lost", || {
            scene.tunnel.resumptions().is_ok_and(|count| count >= self.resumptions_min)
        })
    }

    /// The control has to fall silent or die; how long that takes is the kernel's business.
    fn check_control(&self, control: &mut Control, scene: &mut Scene<'_>) -> Outcome {
        let silent_ms = match self.fate {
            Fate::Death => SILENCE_MS,
            Fate::Stall(lasts) => u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX) * 8 / 10,
        };
        let what = format!("the control to die or to be silent for {silent_ms} ms");
        netns_tests::wait_until(Duration::from_secs(10), &what, || {
            control.stalled_ms(scene).is_ok_and(|ms| ms.is_none_or(|ms| ms >= silent_ms))
        })
    }

    fn finish(&self, swarm: &mut Swarm, scene: &mut Scene<'_>) -> Outcome {
        let tally = swarm.finish(RECOVERY)?;
        println!("{:?}: {tally:?}", self.fault);
        assert_eq!(tally.right, FLOWS as u64, "{tally:?}");
        let inside = scene.mark_inside()?;
        assert_eq!(inside.right, FLOWS as u64, "inside: {inside:?}");
        Ok(())
    }
}

/// The gateway loses its state, and swallows what it no longer knows.
#[test]
fn flows_survive_a_gateway_that_forgets_silently() -> Outcome {
    Trial::sudden(Fault::Forgetting(Answer::Silence)).run("forgets-silently")
}

/// The gateway loses its state, and resets what it no longer knows.
#[test]
fn flows_survive_a_gateway_that_forgets_and_resets() -> Outcome {
    Trial::sudden(Fault::Forgetting(Answer::Reset)).run("forgets-resets")
}

/// The carrier is destroyed at the forwarder.
#[test]
fn flows_survive_a_carrier_cut_at_the_forwarder() -> Outcome {
    Trial::sudden(Fault::Severed(Daemon::Forwarder)).run("cut-forwarder")
}

/// The carrier is destroyed at the relay.
#[test]
fn flows_survive_a_carrier_cut_at_the_relay() -> Outcome {
    Trial::sudden(Fault::Severed(Daemon::Relay)).run("cut-relay")
}

/// The packets of this one carrier vanish for good; a new one gets through.
#[test]
fn flows_survive_a_carrier_that_falls_silent_for_ever() -> Outcome {
    Trial::sudden(Fault::Abandoned).run("abandoned")
}

/// What goes out is lost for six seconds, what comes in is not.
#[test]
fn flows_survive_an_outward_black_hole() -> Outcome {
    Trial::lasting(Fault::OneWay(Direction::Outward), 6).run("outward")
}

/// What comes in is lost for six seconds, what goes out is not.
#[test]
fn flows_survive_an_inward_black_hole() -> Outcome {
    Trial::lasting(Fault::OneWay(Direction::Inward), 6).run("inward")
}

/// Everything is lost for one second: too short for a carrier to be given up.
#[test]
fn flows_survive_a_hole_of_1_s() -> Outcome {
    Trial { resumptions_min: 0, ..Trial::lasting(Fault::Hole, 1) }.run("hole-1")
}

/// Everything is lost for ten seconds.
#[test]
fn flows_survive_a_hole_of_10_s() -> Outcome {
    Trial::lasting(Fault::Hole, 10).run("hole-10")
}

/// Everything is lost for most of the time that the relay waits.
#[test]
fn flows_survive_a_hole_of_45_s() -> Outcome {
    Trial::lasting(Fault::Hole, 45).run("hole-45")
}

/// The gateway has another public address from one moment to the next.
#[test]
fn flows_survive_a_change_of_the_public_address() -> Outcome {
    Trial::sudden(Fault::AddressChange).run("address")
}

/// The gateway's outside goes down and up twenty times in four seconds.
#[test]
fn flows_survive_a_flapping_line() -> Outcome {
    Trial::sudden(Fault::Flapping(20)).run("flapping")
}

/// Bytes that a connection may carry: an odd number, so that it ends within a record.
const QUOTA_BYTES: u64 = 4_000_037;

fn quota(answer: Answer) -> Trial {
    Trial {
        resumptions_min: 5,
        control_kbytes_per_second: 1000,
        ..Trial::sudden(Fault::Quota { bytes: QUOTA_BYTES, answer })
    }
}

/// Each carrier is cut in the middle of a record after four megabytes, without a word.
#[test]
fn flows_survive_carriers_that_stop_within_a_record() -> Outcome {
    quota(Answer::Silence).run("quota-silent")
}

/// Each carrier is reset in the middle of a record after four megabytes.
#[test]
fn flows_survive_carriers_that_are_reset_within_a_record() -> Outcome {
    quota(Answer::Reset).run("quota-reset")
}
