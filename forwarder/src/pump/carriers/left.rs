//! Carriers that stand still, and go on: here or in another process, which has their sockets and keys then.

use adit_proto::limits::RECORD_ACCEPTED_MAX;
use adit_proto::record::{RecordLayer, RecordsLeft};
use adit_ring::{SendHow, Slice, SliceList, Socket};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CarrierSocket, Role};
use crate::collector::Intake;
use crate::distributor::Line;
use crate::handoff::Down;
use crate::pump::Pump;
use crate::pump::slots::{Purpose, Slot};

/// A carrier; its socket is the next one.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::pump) struct CarrierLeft {
    remote: String,
    records: RecordsLeft,
    /// The beginning of a record whose rest has not arrived.
    unfinished: Bytes,
    /// The end of what was sealed: the kernel has the rest.
    called_back: Bytes,
    line: Line,
}

impl CarrierSocket {
    /// What another process needs to go on with it; nothing where that would be of no use.
    pub(in crate::pump) fn leave(&self) -> Option<(CarrierLeft, &Socket)> {
        let left = CarrierLeft {
            remote: self.remote.clone(),
            records: self.records.leave()?,
            unfinished: self.intake.unfinished().to_vec().into(),
            called_back: self.called_back.iter().flat_map(|slice| slice.iter().copied()).collect(),
            line: self.line.clone(),
        };
        Some((left, &self.socket))
    }

    /// Goes on with what was left, standing still.
    pub(in crate::pump) fn take_over(
        left: CarrierLeft,
        socket: Socket,
        tunnel: Slot,
    ) -> Option<Self> {
        let records = RecordLayer::take_over(left.records).ok()?;
        let unfinished = Vec::from(left.unfinished);
        let called_back = Some(Vec::from(left.called_back)).filter(|bytes| !bytes.is_empty());
        (unfinished.len() <= RECORD_ACCEPTED_MAX).then(|| Self {
            role: Role::Carries(tunnel),
            remote: left.remote,
            socket,
            records,
            intake: Intake::take_over(unfinished),
            line: left.line,
            departed: Vec::new(),
            called_back: called_back.into_iter().map(Slice::from).collect(),
            is_sending: false,
            is_full: false,
        })
    }
}

/// What is left of `slices` behind their first `sent` bytes.
pub(super) fn rest(mut slices: SliceList, mut sent: usize) -> SliceList {
    for slice in &mut slices {
        let gone = sent.min(slice.len());
        slice.advance(gone);
        sent -= gone;
    }
    slices.retain(|slice| !slice.is_empty());
    slices
}

impl Pump {
    /// Lets go of all carriers that nobody could go on with; the others carry their sessions yet, but
    /// nothing more is asked of them.
    pub(in crate::pump) fn halt_carriers(&mut self) {
        let slots: Vec<Slot> = self.carriers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let Some(carrier) = self.carriers.get(slot) else { continue };
            let tunnel = match carrier.role {
                Role::Carries(at) => self.tunnels.get_mut(at),
                _ => None,
            };
            let is_passable = carrier.records.is_passable();
            match tunnel.filter(|tunnel| is_passable && !tunnel.is_ending()) {
                Some(tunnel) => {
                    tunnel.stalled_since.get_or_insert(self.now);
                }
                None => {
                    let why = Down::Lost("this process hands over to another".into());
                    self.lose_carrier(slot, why);
                }
            }
        }
    }

    /// Lets all carriers go on, each with what was called back of its last send.
    pub(in crate::pump) fn thaw_carriers(&mut self) {
        self.carriers_dry.clear();
        // Nobody goes on with those: their other ends hear of it now.
        for socket in self.carriers_left.drain(..) {
            socket.shutdown_both().ok();
        }
        let slots: Vec<Slot> = self.carriers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.arm_carrier(slot);
            let Some(carrier) = self.carriers.get_mut(slot) else { continue };
            let called_back = std::mem::take(&mut carrier.called_back);
            (carrier.is_sending, carrier.is_full) = (!called_back.is_empty(), false);
            if carrier.is_sending {
                let token = slot.token(Purpose::CarrierSend);
                self.ring.send(&carrier.socket, called_back, SendHow::Whole, token);
            }
            let Role::Carries(at) = carrier.role else { continue };
            if let Some(tunnel) = self.tunnels.get_mut(at) {
                tunnel.session.handle_standstill(self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However far the kernel had come, what is left follows it.
    #[test]
    fn what_is_left_of_a_send_follows_what_was_sent() {
        let all: Vec<u8> = (0..60).collect();
        for sent in 0..=all.len() {
            let slices: SliceList = all.chunks(25).map(|part| Slice::from(part.to_vec())).collect();
            let left: Vec<u8> =
                rest(slices, sent).iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(left, all[sent..]);
        }
    }
}
