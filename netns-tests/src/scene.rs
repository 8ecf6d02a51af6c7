//! Where the tests of survival play: two internal peers behind a tunnel, flows to both of them, and a
//! plain connection through the same gateway as the control.

use std::thread;
use std::time::{Duration, Instant};

use crate::faults::CONTROL_PORT;
use crate::{Lab, LabError, SHORT, Swarm, SwarmPlan, Tally, Topology, Tunnel, wait_until};

/// The internal peers' port.
const EXCHANGE_PORT: u16 = 7000;
/// Their contact points.
const CONTACTS: [u16; 2] = [8003, 8004];

/// The cast.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Adit.
    pub tunnel: Tunnel<'a>,
    /// The internal peers' ends.
    pub inside: [Swarm; 2],
    /// The control's server.
    outside: Swarm,
}

/// Builds the standard lab for paced traffic, makes sure of its NAT, and plays in it; its logs stay if
/// that fails.
///
/// # Errors
/// As [`crate::LabBuilder::build`], [`Lab::verify_nat`], and what is played.
pub fn stage<T>(name: &str, play: impl FnOnce(&Lab) -> Result<T, LabError>) -> Result<T, LabError> {
    let mut lab = Topology::STANDARD.build_paced(name)?;
    let outcome = play(&lab);
    if outcome.is_err() {
        lab.keep();
    }
    outcome
}

/// A plain connection, out through the gateway.
#[derive(Debug)]
pub struct Control {
    flow: Swarm,
    worst_ms: u64,
}

impl<'a> Scene<'a> {
    /// Starts the peers and the tunnel; `relay` are lines of its configuration.
    ///
    /// # Errors
    /// When something does not start.
    pub fn open(lab: &'a Lab, relay: &str) -> Result<Self, LabError> {
        let inside = [
            Swarm::exchange(&lab.host("peer3"), EXCHANGE_PORT)?,
            Swarm::exchange(&lab.host("peer4"), EXCHANGE_PORT)?,
        ];
        let outside = Swarm::exchange(&lab.host("ext"), CONTROL_PORT)?;
        let mut plan = Tunnel::builder().extra("", relay);
        for (host, contact) in ["peer3", "peer4"].into_iter().zip(CONTACTS) {
            let at = lab.host(host).at(EXCHANGE_PORT);
            plan = plan.peer(host, &at, contact);
        }
        Ok(Self { lab, tunnel: plan.start(lab)?, inside, outside })
    }

    /// Flows from outside to both internal peers, all of them begun.
    ///
    /// # Errors
    /// When one does not begin.
    pub fn swarm(&self, plan: &SwarmPlan) -> Result<Swarm, LabError> {
        let mut swarm = self.launch(plan)?;
        swarm.wait_begun(SHORT)?;
        Ok(swarm)
    }

    /// Flows from outside to both internal peers, which begin when they can.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn launch(&self, plan: &SwarmPlan) -> Result<Swarm, LabError> {
        let contacts = CONTACTS.map(|port| self.tunnel.contact(port));
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        Swarm::launch(&self.lab.host("ext"), &contacts, plan)
    }

    /// A plain connection at this rate, begun.
    ///
    /// # Errors
    /// When it does not begin.
    pub fn control(&self, kbytes_per_second: u64) -> Result<Control, LabError> {
        let to = self.lab.host("ext").at(CONTROL_PORT);
        let plan = SwarmPlan::new(1).kbytes_per_second(kbytes_per_second);
        Ok(Control { flow: Swarm::start(&self.lab.host("icp"), &[&to], &plan)?, worst_ms: 0 })
    }

    /// The internal peers' ends together; times are the worse of both.
    ///
    /// # Errors
    /// When one has died.
    pub fn mark_inside(&mut self) -> Result<Tally, LabError> {
        let mut sum = Tally::default();
        for exchange in &mut self.inside {
            sum = sum.and(exchange.mark()?);
        }
        Ok(sum)
    }

    /// Waits until a byte has come on every flow, at both of its ends, after `since`. Returns the
    /// longest time that any flow has been without one, since the mark before, at either end.
    ///
    /// # Errors
    /// When one has none within `deadline`.
    pub fn wait_flowing(
        &mut self,
        swarm: &mut Swarm,
        since: Instant,
        deadline: Duration,
    ) -> Result<Duration, LabError> {
        let (mut worst, mut seen) = (0, Ok(Tally::default()));
        let flowing = wait_until(deadline, "every flow to move again", || {
            let waited = since.elapsed();
            seen = swarm.mark().and_then(|outside| Ok(outside.and(self.mark_inside()?)));
            seen.as_ref().is_ok_and(|seen| {
                worst = worst.max(seen.stall_max_ms);
                u128::from(seen.open_ms) < waited.as_millis()
            })
        });
        seen?;
        flowing.map(|()| Duration::from_millis(worst))
    }

    /// What the control's server saw.
    ///
    /// # Errors
    /// When it has died.
    pub fn mark_outside(&mut self) -> Result<Tally, LabError> {
        self.outside.mark()
    }
}

impl Control {
    /// How many milliseconds the control has been, or was, without a byte, at the worse of its ends,
    /// since it began; nothing if it is dead.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn stalled_ms(&mut self, scene: &mut Scene<'_>) -> Result<Option<u64>, LabError> {
        if !self.flow.process_mut().runs() {
            return Ok(None);
        }
        let seen = self.flow.mark()?.and(scene.mark_outside()?);
        self.worst_ms = self.worst_ms.max(seen.stall_max_ms);
        Ok((seen.ended() == 0).then_some(self.worst_ms))
    }

    /// Whether nothing has come to its caller's end since then; a dead one hears nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn is_silent_since(&mut self, since: Instant) -> Result<bool, LabError> {
        if !self.flow.process_mut().runs() {
            return Ok(true);
        }
        // Taken before the mark: a byte that came since makes its own time the shorter.
        let elapsed = since.elapsed();
        let seen = self.flow.mark()?;
        Ok(seen.ended() > 0 || u128::from(seen.open_ms) >= elapsed.as_millis())
    }

    /// Makes sure that nothing comes to its caller's end for so long from `since` on, or that it is dead.
    ///
    /// # Errors
    /// When it lives, or cannot be told.
    pub fn must_stall(&mut self, since: Instant, silence: Duration) -> Result<(), LabError> {
        // The length of the silence, not a wait for anything.
        thread::sleep(silence.saturating_sub(since.elapsed()));
        if self.is_silent_since(since)? {
            return Ok(());
        }
        Err(LabError::Claim("the plain connection beside the tunnel lives".to_owned()))
    }
}
