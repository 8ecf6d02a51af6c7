//! What breaks, and how the ends hear of it.

use std::time::Duration;

use adit_proto::id::Side;
use adit_proto::session::Session;

use crate::oracle::{Cause, Outcome, index};
use crate::world::{Task, World};

/// Longer than an end puts up with a record that is not acknowledged.
const LULL: Duration = Duration::from_secs(45);

impl World {
    /// Something breaks, somewhere.
    pub(crate) fn fault(&mut self) -> Outcome {
        if !self.plan.is_faulty {
            return Ok(());
        }
        let pause = self.random.micros(100, self.plan.fault_pause);
        self.later(pause, Task::Fault);
        if self.now < self.lull_until {
            return Ok(());
        }
        if self.random.chance(3) {
            // Nothing happens for so long that what was forgotten shows.
            self.lull_until = self.now + LULL;
        }
        let carriers: Vec<u32> = self.carriers.keys().copied().collect();
        let carrier = self.random.pick(&carriers);
        let side = self.draw_side();
        match (self.random.below(100), carrier) {
            (0..30, Some(carrier)) => self.cut(carrier),
            (30..38, Some(carrier)) => self.hang(carrier),
            (38..54, Some(carrier)) => self.hang_one_way(carrier, side),
            (54..62, Some(carrier)) => return self.lose(carrier, side),
            (62..66, _) => return self.crash(side),
            (66..72, _) => return self.jump(side),
            (72..84, _) => self.doubt(),
            (84..92, _) => self.race(),
            (92..96, _) => return self.swizzle(),
            (96..99, _) => return self.upgrade(side),
            _ => {}
        }
        Ok(())
    }

    /// Each direction brings a prefix of what is under way; who is told is drawn.
    pub(crate) fn cut(&mut self, carrier: u32) {
        let told = self.random.below(4);
        self.note("cut", [carrier.into(), told as u64]);
        self.oracle.count("a carrier was cut");
        for side in [Side::Forwarder, Side::Relay] {
            let Some(state) = self.carriers.get_mut(&carrier) else { return };
            let line = state.line_to(side);
            let keep = self.random.between(0, line.under_way());
            line.cut(keep);
            if told & (1 << index(side)) != 0 {
                let delay = self.random.micros(0, 1_000_000);
                self.later(delay, Task::Told(carrier, side));
            }
        }
    }

    pub(crate) fn hang(&mut self, carrier: u32) {
        self.hang_one_way(carrier, Side::Forwarder);
        self.hang_one_way(carrier, Side::Relay);
    }

    /// Nothing reaches `side` on this carrier, for a while or for ever.
    fn hang_one_way(&mut self, carrier: u32, side: Side) {
        let Some(state) = self.carriers.get_mut(&carrier) else { return };
        state.line_to(side).is_hung = true;
        self.note("hang", [carrier.into(), index(side) as u64]);
        self.oracle.count("a carrier hung");
        if self.random.chance(70) {
            let delay = self.random.micros(100_000, 15_000_000);
            self.later(delay, Task::Heal(carrier, side));
        }
    }

    pub(crate) fn heal(&mut self, carrier: u32, side: Side) -> Outcome {
        let now = self.now;
        let Some(state) = self.carriers.get_mut(&carrier) else { return Ok(()) };
        let line = state.line_to(side);
        line.heal(now);
        if std::mem::take(&mut line.owes_end) {
            let at = line.end_arrival(now);
            self.at(at, Task::Told(carrier, side));
        }
        Ok(())
    }

    /// The end closes its socket of the carrier; the other end hears of it when the line lets it.
    pub(crate) fn close(&mut self, carrier: u32, side: Side) {
        if !self.end(side).close(carrier) {
            return;
        }
        self.note("close", [carrier.into(), index(side) as u64]);
        let now = self.now;
        let Some(state) = self.carriers.get_mut(&carrier) else { return };
        state.is_open[index(side)] = false;
        if state.is_open == [false, false] {
            self.carriers.remove(&carrier);
            return;
        }
        state.line_to(side).cut(0);
        let line = state.line_from(side);
        if line.is_cut {
            return;
        }
        // A reset overtakes some of what is under way.
        let is_reset = self.random.chance(50);
        let keep = if is_reset { self.random.between(0, line.under_way()) } else { usize::MAX };
        line.cut(keep);
        let at = line.end_arrival(now);
        self.at(at, Task::Told(carrier, side.other()));
    }

    /// The end of the carrier reaches this side.
    pub(crate) fn told(&mut self, carrier: u32, side: Side) -> Outcome {
        let Some(state) = self.carriers.get_mut(&carrier) else { return Ok(()) };
        let line = state.line_to(side);
        if line.is_hung {
            line.owes_end = true;
            return Ok(());
        }
        self.lose(carrier, side)
    }

    /// This end finds the carrier dead, or gives it up.
    pub(crate) fn lose(&mut self, carrier: u32, side: Side) -> Outcome {
        let end = self.end(side);
        let (was_current, was_pending) =
            (end.current == Some(carrier), end.pending == Some(carrier));
        self.close(carrier, side);
        let clock = self.clock(side);
        let end = self.end(side);
        let is_up = end.session.as_ref().is_some_and(|session| session.is_up());
        if was_current && let Some(session) = &mut end.session {
            let retained = session.records_retained();
            session.handle_carrier_lost(clock);
            end.lost_at = Some(clock);
            if retained > 0 {
                self.oracle.count("a carrier was lost with records retained");
            }
        }
        if was_pending && !is_up {
            self.oracle.count("a session never opened");
            self.end_session(side, Cause::Unopened)?;
        }
        self.check_dial();
        Ok(())
    }

    /// The process is gone, with all that it held; its kernel may say so or not.
    fn crash(&mut self, side: Side) -> Outcome {
        if !self.plan.crashes || !self.end(side).is_running {
            return Ok(());
        }
        self.note("crash", [index(side) as u64, 0]);
        self.oracle.count("an end crashed");
        if self.random.chance(30) {
            // The host went down with it: nobody is told.
            let carriers: Vec<u32> = self.end(side).links.keys().copied().collect();
            for carrier in carriers {
                if let Some(state) = self.carriers.get_mut(&carrier) {
                    state.line_from(side).cut(0);
                }
            }
        }
        let carriers: Vec<u32> = self.end(side).links.keys().copied().collect();
        carriers.into_iter().for_each(|carrier| self.close(carrier, side));
        self.end_session(side, Cause::Crash)?;
        self.end(side).is_running = false;
        let delay = self.random.micros(10_000, 20_000_000);
        self.later(delay, Task::Restart(side));
        Ok(())
    }

    /// Another process takes over what this end has: its sockets, its session, and mostly what carries it.
    fn upgrade(&mut self, side: Side) -> Outcome {
        if !self.end(side).is_running {
            return Ok(());
        }
        self.note("upgrade", [index(side) as u64, 0]);
        let is_passed_on = self.random.chance(70);
        let end = self.end(side);
        let kept = end.current.filter(|current| is_passed_on && end.pass_on(*current));
        let carriers: Vec<u32> = self.end(side).links.keys().copied().collect();
        for carrier in carriers.into_iter().filter(|carrier| Some(*carrier) != kept) {
            self.lose(carrier, side)?;
        }
        let (now, clock) = (self.now, self.clock(side));
        let end = self.end(side);
        let Some(session) = end.session.take() else { return Ok(()) };
        let snapshot = session.snapshot().map_err(|error| format!("the {side:?}: {error}"))?;
        let bytes = postcard::to_allocvec(&snapshot).map_err(|error| error.to_string())?;
        let snapshot = postcard::from_bytes(&bytes).map_err(|error| error.to_string())?;
        let restored = Session::restore(snapshot, clock);
        let mut restored = restored.map_err(|error| format!("the {side:?}: {error}"))?;
        restored.handle_standstill(clock);
        let [was, is] = [&session, &restored].map(|session| {
            let queued = (session.bytes_queued(), session.bytes_waiting(), session.counters());
            let kept = (session.records_retained(), session.is_carried());
            (queued, kept, session.stream_flows(), session.datagram_flows())
        });
        if was != is {
            return Err(format!("the {side:?} is another after an upgrade: {was:?}, {is:?}"));
        }
        end.take_over(restored, now);
        self.oracle.count("an end was upgraded");
        if kept.is_some() {
            self.oracle.count("an end was upgraded with its carrier");
        }
        if is.1.0 > 0 {
            self.oracle.count("an end was upgraded with records retained");
        }
        self.turn(side)
    }

    pub(crate) fn restart(&mut self, side: Side) -> Outcome {
        self.end(side).is_running = true;
        self.check_dial();
        Ok(())
    }

    /// The end was suspended: its clock leaps.
    fn jump(&mut self, side: Side) -> Outcome {
        let span = u64::try_from(self.plan.jump_max.as_micros()).unwrap();
        let jump = self.random.micros(1_000_000, span);
        self.note("jump", [index(side) as u64, jump.as_secs()]);
        self.oracle.count("a clock leapt");
        self.end(side).ahead += jump;
        Ok(())
    }

    /// The forwarder's network seems to have changed.
    fn doubt(&mut self) {
        let clock = self.ends[0].clock(self.now);
        if let Some(session) = &mut self.ends[0].session {
            session.handle_doubt(clock);
        }
        self.check_dial();
    }

    /// One more carrier is dialled, whatever there is already.
    fn race(&mut self) {
        if self.ends[0].is_running {
            self.dial_in(Duration::from_micros(1));
        }
    }

    /// Several things stop one by one, and go on in another order.
    fn swizzle(&mut self) -> Outcome {
        self.oracle.count("a swizzle");
        let mut stopped = Vec::new();
        let lines = self.carriers.keys().copied().collect::<Vec<_>>();
        for carrier in lines {
            for side in [Side::Forwarder, Side::Relay] {
                if self.random.chance(60) {
                    stopped.push((carrier, side));
                }
            }
        }
        for (carrier, side) in stopped {
            if let Some(state) = self.carriers.get_mut(&carrier) {
                state.line_to(side).is_hung = true;
                let delay = self.random.micros(1_000, 5_000_000);
                self.later(delay, Task::Heal(carrier, side));
            }
        }
        if self.random.chance(30) {
            let side = self.draw_side();
            return self.crash(side);
        }
        Ok(())
    }

    /// Faults are over: what hangs is healed or cut, and who is down comes back.
    pub(crate) fn calm(&mut self) -> Outcome {
        self.plan.is_faulty = false;
        self.note("calm", [0, 0]);
        let carriers: Vec<u32> = self.carriers.keys().copied().collect();
        for carrier in carriers {
            if self.random.chance(30) {
                self.cut(carrier);
            }
            self.heal(carrier, Side::Forwarder)?;
            self.heal(carrier, Side::Relay)?;
        }
        for side in [Side::Forwarder, Side::Relay] {
            let ids: Vec<_> = self.end(side).sockets.keys().copied().collect();
            for id in ids {
                self.set_stalled(side, id, false)?;
            }
            self.turn(side)?;
        }
        Ok(())
    }
}
