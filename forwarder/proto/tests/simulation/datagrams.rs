//! Flows of datagrams in the simulation: what their peers send, and what must be true of what comes.
//!
//! Any datagram may be lost; one that comes was sent, is whole and unaltered, and comes once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use adit_proto::frame::{Destination, Open, Protocol, ResetReason};
use adit_proto::id::{ContactId, FlowId, Side};
use adit_proto::limits::DATAGRAM_MAX;
use adit_proto::session::OpenError;

use crate::oracle::{Outcome, fill, index};
use crate::world::World;

/// What is known of the datagrams: by flow and by the side that sent them, the length of each that
/// has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    sent: BTreeMap<(u32, usize), BTreeMap<u64, usize>>,
    numbers: u64,
}

/// A datagram's number leads, and a pattern of its own follows.
fn datagram(flow: u32, from: Side, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(flow, from, number << 17, &mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

impl Datagrams {
    /// The next datagram that the flow's peer behind `side` sends, of `len` bytes or the fewest.
    pub(crate) fn send(&mut self, flow: u32, side: Side, len: usize) -> Vec<u8> {
        self.numbers += 1;
        let len = len.max(8);
        self.sent.entry((flow, index(side))).or_default().insert(self.numbers, len);
        datagram(flow, side, self.numbers, len)
    }

    /// The datagram came out at `side`.
    pub(crate) fn delivered(&mut self, flow: u32, side: Side, bytes: &[u8]) -> Outcome {
        let from = side.other();
        let number = bytes.first_chunk().copied().map(u64::from_le_bytes).unwrap_or_default();
        let sent = self.sent.entry((flow, index(from))).or_default();
        if sent.remove(&number).is_none_or(|len| bytes != datagram(flow, from, number, len)) {
            let len = bytes.len();
            return Err(format!(
                "flow {flow}: datagram {number} of {len} bytes at the {side:?} was not sent like \
                 that, or came before"
            ));
        }
        Ok(())
    }
}

impl World {
    /// Somebody does something with datagrams.
    pub(crate) fn act_on_datagrams(&mut self, side: Side) -> Outcome {
        match self.random.below(12) {
            0..3 => self.open_datagrams(side),
            3..11 => {
                self.send_datagrams(side);
                Ok(())
            }
            _ => {
                self.close_datagrams(side);
                Ok(())
            }
        }
    }

    fn open_datagrams(&mut self, side: Side) -> Outcome {
        let clock = self.clock(side);
        let end = &mut self.ends[index(side)];
        let is_full = end.datagram_flows.len() >= self.plan.flows_max;
        let Some(session) = end.session.as_mut().filter(|_| !is_full) else { return Ok(()) };
        let flow = self.oracle.opened();
        let source = SocketAddr::from((Ipv4Addr::from_bits(flow), 1));
        let (contact, protocol) = (ContactId(flow % 3), Protocol::Udp);
        match session.open_flow(Open { contact, source, protocol, to: Destination::Contact }, clock)
        {
            Ok(id) => {
                self.add_datagrams(side, id, flow);
                self.send_datagrams(side);
                Ok(())
            }
            Err(OpenError::NotUp) if !session.is_up() => {
                self.oracle.never_opened(flow);
                Ok(())
            }
            Err(error) => Err(format!("the {side:?} cannot open a flow of datagrams: {error}")),
        }
    }

    pub(crate) fn add_datagrams(&mut self, side: Side, id: FlowId, flow: u32) {
        self.note("datagram flow", [flow.into(), id.0.into()]);
        let end = self.end(side);
        end.datagram_flows.insert(id, flow);
        end.flows.insert(id, flow);
    }

    fn draw_datagrams(&mut self, side: Side) -> Option<(FlowId, u32)> {
        let flows: Vec<_> =
            self.end(side).datagram_flows.iter().map(|(id, flow)| (*id, *flow)).collect();
        self.random.pick(&flows)
    }

    /// A burst for one flow: a batch, or one datagram of any length.
    fn send_datagrams(&mut self, side: Side) {
        let Some((id, flow)) = self.draw_datagrams(side) else { return };
        let clock = self.clock(side);
        let is_batch = self.random.chance(50);
        let (count, len_max) = if is_batch { (20, 1_500) } else { (1, DATAGRAM_MAX) };
        let (count, len) = (self.random.between(1, count), self.random.size(len_max).max(8));
        let payload: Vec<u8> =
            (0..count).flat_map(|_| self.oracle.datagrams.send(flow, side, len)).collect();
        let Some(session) = &mut self.ends[index(side)].session else { return };
        session.handle_datagrams(id, if count > 1 { len } else { 0 }, &payload, clock);
    }

    fn close_datagrams(&mut self, side: Side) {
        if let Some((id, _)) = self.draw_datagrams(side) {
            self.reset_datagrams(side, id, ResetReason::Peer);
        }
    }

    /// Ends a flow; false when it is none of datagrams.
    pub(crate) fn reset_datagrams(&mut self, side: Side, id: FlowId, reason: ResetReason) -> bool {
        let end = &mut self.ends[index(side)];
        let Some(session) = &mut end.session else { return false };
        let Some(flow) = end.datagram_flows.remove(&id) else { return false };
        self.oracle.reset_by_party(flow, side, reason);
        session.handle_reset(id, reason);
        true
    }

    /// Ends them all.
    pub(crate) fn end_datagrams(&mut self, side: Side) {
        let ids: Vec<FlowId> = self.end(side).datagram_flows.keys().copied().collect();
        for id in ids {
            self.reset_datagrams(side, id, ResetReason::Peer);
        }
    }

    /// What came, as one event says it: `segment` is 0 for one datagram.
    pub(crate) fn deliver_datagrams(
        &mut self,
        side: Side,
        id: FlowId,
        segment: usize,
        payload: &[u8],
    ) -> Outcome {
        let flow = self.end(side).datagram_flows.get(&id).copied();
        let flow = flow.ok_or_else(|| format!("{id:?} at the {side:?} has no datagrams"))?;
        self.oracle.count(if segment == 0 { "a datagram came" } else { "a batch came" });
        let segment = if segment == 0 { payload.len() } else { segment };
        for bytes in payload.chunks(segment) {
            self.oracle.datagrams.delivered(flow, side, bytes)?;
        }
        Ok(())
    }

    /// No datagram waits longer than it may.
    pub(crate) fn check_datagrams(&self) -> Outcome {
        for session in self.ends.iter().filter_map(|end| end.session.as_ref()) {
            let (queued, counters) = (session.datagrams_queued(), session.datagram_counters());
            if queued > 0 {
                return Err(format!("{queued} batches of datagrams wait: {counters:?}"));
            }
        }
        Ok(())
    }
}
