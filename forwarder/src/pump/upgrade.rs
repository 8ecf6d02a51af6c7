//! Standing still, so that another process can take over what the pump has; and going on, there or,
//! should that fail, here.
//!
//! ```text
//!            Freeze              the kernel has nothing of ours       Pack
//!  Running ─────────▶ Stopping ─────────────────────────────▶ Still ────────▶ Packed
//!     ▲                  │                                      │                │
//!     └──────────────────┴────────────── Thaw ─────────────────┴────────────────┘
//!
//!  in the process that takes over, from Still on:
//!
//!              Restore          Thaw
//!        Still ───────▶ Packed ──────▶ Running
//! ```
//!
//! **Architecture Invariant:** what was received is in a session before anything is packed, but for the
//! beginning of a record: a pump that stands still has no operation in the kernel.
//!
//! Carriers are passed on with the keys that they have at the moment. What later keys are made from is the
//! TLS library's own, so that a carrier which needs others is lost then; a session outlives it anyway.

mod pack;
mod unpack;

use std::time::Duration;

use adit_proto::id::Side;
use adit_proto::limits::ANNOUNCED_MAX;

use super::carriers::CarrierSocket;
use super::flows::State;
use super::slots::{Purpose, Slot};
use super::timers::Timer;
use super::{Pump, WAIT_MAX};
use crate::handoff::{Down, Event};

/// How often what the kernel still has is called back.
const CALL_BACK: Duration = Duration::from_millis(10);

/// Whether the pump moves anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    Running,
    Stopping,
    Still,
    Packed,
}

impl Pump {
    /// Whether nothing new may be given to the kernel.
    pub(super) fn is_still(&self) -> bool {
        self.standing != Standing::Running
    }

    /// Whether what the pump has is another process's by now, or still, perhaps.
    pub(super) fn is_packed(&self) -> bool {
        self.standing == Standing::Packed
    }

    /// How long the pump may wait, whatever is due.
    pub(super) fn wait_still(&self) -> Option<Duration> {
        match self.standing {
            Standing::Stopping => Some(CALL_BACK),
            // Nothing is done before it is known who goes on, and that is a command.
            Standing::Packed => Some(WAIT_MAX),
            Standing::Running | Standing::Still => None,
        }
    }

    /// Moves nothing more, and lets go of what nobody can go on with.
    pub(super) fn freeze(&mut self) {
        if self.is_still() {
            // One upgrade was given up, and here is the next, which is to hear of this, too.
            if std::mem::take(&mut self.is_thaw_due) {
                self.standing = Standing::Stopping;
            }
            return;
        }
        self.standing = Standing::Stopping;
        self.let_go_of_ending();
    }

    /// Lets go of the carriers and sessions that nobody can go on with.
    pub(super) fn let_go_of_ending(&mut self) {
        self.halt_carriers();
        let closing = self.tunnels.iter().filter(|(_, tunnel)| tunnel.is_closing);
        for slot in closing.map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.end(slot, Down::Closed);
        }
    }

    /// Looks whether the pump stands still by now.
    pub(super) fn stand(&mut self) {
        if self.standing == Standing::Stopping {
            if self.ring.is_quiet() {
                // What was received last may have been a goodbye.
                self.let_go_of_ending();
            }
            if !self.ring.is_quiet() {
                return self.ring.cancel_all();
            }
            self.standing = Standing::Still;
            self.emit(Event::Quiet);
        }
        if self.is_still() && std::mem::take(&mut self.is_thaw_due) {
            self.thaw();
        }
    }

    /// Goes on with all that is here.
    fn thaw(&mut self) {
        self.standing = Standing::Running;
        self.thaw_carriers();
        let tunnels: Vec<Slot> = self.tunnels.iter().map(|(slot, _)| slot).collect();
        for slot in &tunnels {
            self.schedule_send(*slot);
            self.set_session_timer(*slot);
        }
        let flows: Vec<Slot> = self.flows.iter().map(|(slot, _)| slot).collect();
        flows.into_iter().for_each(|slot| self.thaw_flow(slot));
        for slot in self.listeners.iter().map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.arm_accept(slot);
        }
        let inlets = self.inlets.iter().map(|(slot, _)| (Purpose::InletReceive, slot));
        let own = |slot| (Purpose::AssociationReceive, slot);
        let associations = self.associations.iter().map(|(slot, _)| own(slot));
        let paths = self.paths.sockets.iter().map(|(slot, _)| (Purpose::PathReceive, slot));
        let messages: Vec<_> = inlets.chain(associations).chain(paths).collect();
        self.messages_dry.clear();
        messages.into_iter().for_each(|(purpose, slot)| self.arm_messages(purpose, slot));
        // Those that are made only now have been armed already.
        tunnels.into_iter().for_each(|slot| self.thaw_path(slot));
    }

    /// A forwarder's socket for datagrams is not passed on: it has another.
    fn thaw_path(&mut self, slot: Slot) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let carrier = tunnel.carrier.and_then(|carrier| self.carriers.get(carrier));
        let relay = carrier.and_then(CarrierSocket::remote_ip);
        if relay.is_some() && tunnel.session.side() == Side::Forwarder {
            self.take_path(slot, relay);
        }
    }

    fn thaw_flow(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        match flow.state.clone() {
            State::Connected => {
                flow.outlet.is_blocked = false;
                self.flows_blocked.remove(&slot);
                self.schedule_flow(slot);
                self.arm_flow(slot);
            }
            // What was under way was called back.
            State::Connecting(Some(target), first) => self.connect(slot, &target, first),
            State::Announced(_) => {
                self.timers.set(self.now + ANNOUNCED_MAX, Timer::Announced(slot));
            }
            State::Judged(_) | State::Connecting(None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;

    fn pump() -> Pump {
        let (sender, _) = handoff::events().unwrap();
        Pump::new(super::super::probe().unwrap(), sender).unwrap().0
    }

    fn is_told_quiet(pump: &Pump) -> usize {
        pump.unsent.iter().filter(|event| matches!(event, Event::Quiet)).count()
    }

    /// What is due waits for the word, and the pump with it: the process that is to take over needs the
    /// processor. The control is one that has packed nothing.
    #[test]
    fn a_packed_pump_sleeps_until_it_is_told() {
        let mut pump = pump();
        let (slot, now) = (Slot::NOWHERE, pump.clock());
        pump.timers.set(now, Timer::Flush(slot));
        pump.standing = Standing::Still;
        assert_eq!(pump.wait(), Duration::ZERO);
        pump.standing = Standing::Packed;
        assert_eq!(pump.wait(), WAIT_MAX);
    }

    /// One that is to go on and to stand still again, in one breath, says again that it does; the
    /// control is one that is to go on.
    #[test]
    fn a_pump_stands_still_for_each_upgrade() {
        let mut pump = pump();
        pump.freeze();
        pump.stand();
        assert_eq!((pump.standing, is_told_quiet(&pump)), (Standing::Still, 1));
        pump.standing = Standing::Packed;
        pump.is_thaw_due = true;
        pump.freeze();
        pump.stand();
        assert_eq!((pump.standing, is_told_quiet(&pump)), (Standing::Still, 2));
        pump.is_thaw_due = true;
        pump.stand();
        assert_eq!((pump.standing, is_told_quiet(&pump)), (Standing::Running, 2));
    }
}
