//! A fault under a hundred flows, beside a plain connection that must not outlive it.

use std::time::{Duration, Instant};

use crate::faults::{Answer, Fault, Struck};
use crate::{Control, Lab, LabError, Scene, Swarm, SwarmPlan, Tally, wait_until};

/// Flows that live through the fault.
const FLOWS: usize = 100;
/// How long flows may take to move again once the path is there: the promise is far shorter, and
/// has its own suite.
const RECOVERY: Duration = Duration::from_secs(15);
/// For how long a control that is said to have died hears nothing, though the tunnel's flows move: far
/// longer than it takes to send something again after a fault that is over at once.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes that a connection may carry: an odd number, so that it ends within a record.
const QUOTA_BYTES: u64 = 4_000_037;

/// What must befall the control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Reset, or without a byte even when the tunnel's flows move again.
    Death,
    /// Without a byte for about so long.
    Stall(Duration),
}

/// A fault, and what it must do to a plain connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    fault: Fault,
    /// How long the fault lasts before it is lifted.
    lasts: Duration,
    fate: Fate,
    /// How often it strikes.
    times: u32,
    /// How many carriers have to be lost.
    resumptions_min: u64,
    control_kbytes_per_second: u64,
}

impl Trial {
    /// A fault that is over at once, and kills.
    #[must_use]
    pub const fn sudden(fault: Fault) -> Self {
        Self {
            fault,
            lasts: Duration::ZERO,
            fate: Fate::Death,
            times: 1,
            resumptions_min: 1,
            control_kbytes_per_second: 100,
        }
    }

    /// A path that is gone for some time.
    #[must_use]
    pub const fn lasting(fault: Fault, seconds: u64) -> Self {
        let lasts = Duration::from_secs(seconds);
        Self { lasts, fate: Fate::Stall(lasts), ..Self::sudden(fault) }
    }

    /// Connections that may carry a few megabytes each.
    #[must_use]
    pub const fn quota(answer: Answer) -> Self {
        Self {
            resumptions_min: 5,
            control_kbytes_per_second: 1000,
            ..Self::sudden(Fault::Quota { bytes: QUOTA_BYTES, answer })
        }
    }

    /// The same, though no carrier need be lost.
    #[must_use]
    pub const fn harmless(self) -> Self {
        Self { resumptions_min: 0, ..self }
    }

    /// The same, so many times, each as soon as all flows move again.
    #[must_use]
    pub const fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Plays it in a lab: no flow loses a byte, and the control does not outlive it. Returns what
    /// was seen.
    ///
    /// # Errors
    /// When a flow ended otherwise than well, when the control lived, or when the fault struck nothing.
    pub fn play(&self, lab: &Lab) -> Result<String, LabError> {
        self.fault.prepare(lab)?;
        let mut scene = Scene::open(lab, "")?;
        let mut swarm = scene.swarm(&SwarmPlan::new(FLOWS))?;
        let session = scene.tunnel.session()?;
        for _ in 0..self.times {
            let control = scene.control(self.control_kbytes_per_second)?;
            self.strike(&mut scene, &mut swarm, control)?;
        }
        let tally = self.finish(&mut swarm, &mut scene)?;
        if scene.tunnel.session()? != session {
            return Err(self.broken("the session is another".to_owned()));
        }
        let resumptions = scene.tunnel.resumptions()?;
        if resumptions < self.resumptions_min {
            return Err(self.broken(format!("only {resumptions} resumptions")));
        }
        Ok(format!(
            "{FLOWS} flows, both sums of each right; resumed {resumptions} times; longest stall {} ms; \
             the plain connection {}",
            tally.stall_max_ms,
            match self.fate {
                Fate::Death => "died",
                Fate::Stall(_) => "stood still",
            }
        ))
    }

    fn wait_resumed(&self, scene: &Scene<'_>) -> Result<(), LabError> {
        wait_until(Duration::from_secs(60), "carriers to be lost", || {
            scene.tunnel.resumptions().is_ok_and(|count| count >= self.resumptions_min)
        })
    }

    /// Strikes once, beside a plain connection of its own.
    fn strike(
        &self,
        scene: &mut Scene<'_>,
        swarm: &mut Swarm,
        mut control: Control,
    ) -> Result<(), LabError> {
        let struck = self.fault.inject(scene.lab)?;
        if self.resumptions_min > 1 {
            self.wait_resumed(scene)?;
        }
        struck.hold(self.lasts);
        match self.fate {
            Fate::Stall(lasts) => {
                let silent_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX) * 8 / 10;
                let what = format!("the control to be silent for {silent_ms} ms");
                wait_until(Duration::from_secs(10), &what, || {
                    control.stalled_ms(scene).is_ok_and(|ms| ms.is_none_or(|ms| ms >= silent_ms))
                })?;
            }
            Fate::Death => {
                // A plain connection that lives tries again after as long as it was cut off, at most.
                let silence = SILENCE.max(struck.at().elapsed() * 3 / 2);
                scene.wait_flowing(swarm, Instant::now(), RECOVERY)?;
                control.must_stall(Instant::now(), silence)?;
            }
        }
        lift(struck, scene, swarm)
    }

    fn finish(&self, swarm: &mut Swarm, scene: &mut Scene<'_>) -> Result<Tally, LabError> {
        let outside = swarm.finish(RECOVERY)?;
        let inside = scene.mark_inside()?;
        for tally in [outside, inside] {
            if tally.right != FLOWS as u64 {
                return Err(self.broken(format!("{tally:?}")));
            }
        }
        Ok(outside)
    }

    fn broken(&self, seen: String) -> LabError {
        LabError::Claim(format!("under {:?}: {seen}", self.fault))
    }
}

fn lift(struck: Struck<'_>, scene: &mut Scene<'_>, swarm: &mut Swarm) -> Result<(), LabError> {
    // What lasts is not over before it is lifted; what was sudden is lifted when it has struck.
    struck.lift()?;
    scene.wait_flowing(swarm, Instant::now(), RECOVERY).map(|_| ())
}
