//! Memory that becomes scarce, and memory that is not needed any more.

use adit_proto::limits::{CARRIER_BUFFERS_LOW, FLOW_SLOTS_LOW, POOL_TRIM_EVERY, POOL_TRIM_MAX};
use adit_ring::Memory;

use super::Pump;

impl Pump {
    /// Moves what lies in the way, and gives back what only a burst has needed.
    pub(super) fn relieve_memory(&mut self) {
        self.relieve_receive_buffers();
        self.relieve_slots();
        if self.trim_due <= self.now {
            self.trim_due = self.now + POOL_TRIM_EVERY;
            for group in [self.groups.carriers, self.groups.flows, self.groups.messages] {
                self.ring.pool(group).trim(POOL_TRIM_MAX);
            }
        }
    }

    /// Copies what waits for full sockets out of the receive buffers when those become scarce.
    fn relieve_receive_buffers(&mut self) {
        if self.ring.pool(self.groups.carriers).free() >= CARRIER_BUFFERS_LOW {
            return;
        }
        for slot in std::mem::take(&mut self.flows_blocked) {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.copy_out();
            }
        }
    }

    /// When slots become scarce, sessions without a carrier keep what they hold elsewhere: it may
    /// be long until they can send it.
    fn relieve_slots(&mut self) {
        if self.ring.pool(self.groups.flows).free() >= FLOW_SLOTS_LOW {
            return;
        }
        let copy = |memory: &Memory| match memory {
            Memory::Pool(buffer) => Some(Memory::from(Box::<[u8]>::from(buffer.bytes()))),
            Memory::Heap(_) => None,
        };
        for tunnel in self.tunnels.tenants_mut() {
            let is_lost = tunnel.session.is_up() && !tunnel.session.is_carried();
            if is_lost && !std::mem::replace(&mut tunnel.is_moved_out, true) {
                tunnel.session.move_out(copy);
            }
        }
    }
}
