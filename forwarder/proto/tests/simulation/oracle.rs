//! What must be true whatever happens: it knows what was written to each flow, and for which
//! reasons a flow may have been reset.

use std::collections::BTreeMap;

use adit_proto::frame::ResetReason;
use adit_proto::id::{SessionId, Side};

use crate::datagrams::Datagrams;
use crate::random::mix;

/// What went wrong, in words.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Why a flow is gone before both of its directions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// One of its peers reset it, or could not be connected.
    Party,
    /// An end crashed.
    Crash,
    /// No carrier came back in time.
    Grace,
    /// The carrier of a session that had no `WELCOME` yet was lost.
    Unopened,
    /// The relay was told of another session of the same key.
    Replaced,
    /// The forwarder was told of another session.
    Started,
}

/// The index of a side in pairs: the forwarder first.
pub(crate) fn index(side: Side) -> usize {
    usize::from(side == Side::Relay)
}

/// One flow as both ends should have it; pairs are indexed by the side that writes.
#[derive(Debug, Default)]
struct Record {
    written: [u64; 2],
    delivered: [u64; 2],
    ended: [bool; 2],
    finished: [bool; 2],
    /// The reason that a side gave for its reset.
    reset_by: [Option<ResetReason>; 2],
    reset_heard: [bool; 2],
    cause: Option<Cause>,
}

/// The oracle. Each flow has a number of its own that no session reuses.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    flows: Vec<Record>,
    /// Which ends, the forwarder first, have dropped the session.
    dropped: BTreeMap<SessionId, [bool; 2]>,
    /// Control frames sent by either side in the session, and those that arrived.
    controls: BTreeMap<(SessionId, usize), (u32, u32)>,
    pub(crate) datagrams: Datagrams,
    /// How often each thing happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) causes: BTreeMap<Cause, u64>,
}

/// What a flow's peer behind `side` writes at `offset`, as many bytes as `out` has room for.
pub(crate) fn fill(flow: u32, side: Side, offset: u64, out: &mut [u8]) {
    let key = u64::from(flow) << 33 | (index(side) as u64) << 32;
    let mut at = 0;
    while at < out.len() {
        let position = offset + at as u64;
        let word = mix(key ^ (position / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
        let word = &word[(position % 8) as usize..];
        let len = word.len().min(out.len() - at);
        out[at..at + len].copy_from_slice(&word[..len]);
        at += len;
    }
}

impl Oracle {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn opened(&mut self) -> u32 {
        self.flows.push(Record::default());
        self.flows.len() as u32 - 1
    }

    /// The flow could not be opened after all.
    pub(crate) fn never_opened(&mut self, flow: u32) {
        self.flows[flow as usize].finished = [true, true];
        self.flows[flow as usize].ended = [true, true];
    }

    pub(crate) fn written(&mut self, flow: u32, by: Side, len: usize) {
        self.flows[flow as usize].written[index(by)] += len as u64;
    }

    pub(crate) fn ended(&mut self, flow: u32, by: Side) {
        self.flows[flow as usize].ended[index(by)] = true;
    }

    /// `bytes` of the flow came out at `side`: exactly those that come next.
    pub(crate) fn delivered(&mut self, flow: u32, side: Side, bytes: &[u8]) -> Outcome {
        let from = side.other();
        let record = &mut self.flows[flow as usize];
        let offset = record.delivered[index(from)];
        if record.finished[index(from)] {
            return Err(format!("flow {flow}: data at the {side:?} after its end"));
        }
        if offset + bytes.len() as u64 > record.written[index(from)] {
            return Err(format!("flow {flow}: the {side:?} got more than was written"));
        }
        let mut expected = vec![0; bytes.len()];
        fill(flow, from, offset, &mut expected);
        if expected != bytes {
            return Err(format!("flow {flow}: wrong bytes at the {side:?} from {offset} on"));
        }
        record.delivered[index(from)] += bytes.len() as u64;
        Ok(())
    }

    /// The flow's other direction came to its end at `side`.
    pub(crate) fn finished(&mut self, flow: u32, side: Side) -> Outcome {
        let from = index(side.other());
        let record = &mut self.flows[flow as usize];
        if std::mem::replace(&mut record.finished[from], true) {
            return Err(format!("flow {flow}: a second FIN at the {side:?}"));
        }
        if !record.ended[from] || record.delivered[from] != record.written[from] {
            return Err(format!("flow {flow}: an early FIN at the {side:?}: {record:?}"));
        }
        Ok(())
    }

    /// The flow's peer behind `side` reset it.
    pub(crate) fn reset_by_party(&mut self, flow: u32, side: Side, reason: ResetReason) {
        self.flows[flow as usize].reset_by[index(side)].get_or_insert(reason);
        self.reset(flow, Cause::Party);
    }

    fn reset(&mut self, flow: u32, cause: Cause) {
        let first = &mut self.flows[flow as usize].cause;
        if first.is_none() {
            *first = Some(cause);
            *self.causes.entry(cause).or_default() += 1;
        }
    }

    /// Whether both of the flow's directions have ended where they lead.
    pub(crate) fn is_over(&self, flow: u32) -> bool {
        self.flows[flow as usize].finished == [true, true]
    }

    /// The session at `side` says that the other end reset the flow.
    pub(crate) fn reset_heard(&mut self, flow: u32, side: Side, reason: ResetReason) -> Outcome {
        let record = &mut self.flows[flow as usize];
        if record.reset_by[index(side.other())] != Some(reason) {
            return Err(format!("flow {flow}: {reason:?} at the {side:?} that nobody gave"));
        }
        if std::mem::replace(&mut record.reset_heard[index(side)], true) {
            return Err(format!("flow {flow}: a second RESET at the {side:?}"));
        }
        Ok(())
    }

    /// `side` has dropped the session with these flows.
    pub(crate) fn session_over(
        &mut self,
        side: Side,
        id: SessionId,
        cause: Cause,
        flows: impl Iterator<Item = u32>,
    ) -> Outcome {
        flows.for_each(|flow| self.reset(flow, cause));
        let is_known_to_be_over =
            self.dropped.get(&id).is_some_and(|dropped| dropped[index(side.other())]);
        self.dropped.entry(id).or_default()[index(side)] = true;
        match cause {
            Cause::Party => Err("a party ends no session".to_owned()),
            Cause::Started if !is_known_to_be_over => {
                Err(format!("the {side:?} lost a session that the other end has"))
            }
            _ => Ok(()),
        }
    }

    /// The number of the next control frame that `side` sends.
    pub(crate) fn control_sent(&mut self, id: SessionId, side: Side) -> u32 {
        let (sent, _) = self.controls.entry((id, index(side))).or_default();
        *sent += 1;
        *sent
    }

    /// A control frame with this number arrived at `side`.
    pub(crate) fn control_heard(&mut self, id: SessionId, side: Side, number: u32) -> Outcome {
        let (sent, heard) = self.controls.entry((id, index(side.other()))).or_default();
        *heard += 1;
        if number == *heard && heard <= sent {
            return Ok(());
        }
        Err(format!("control frame {number} at the {side:?} where {heard} of {sent} was due"))
    }

    /// Whether all that was written has arrived, as far as it had not to be given up; else what
    /// has not.
    pub(crate) fn check_complete(&self, session: SessionId) -> Outcome {
        for (flow, record) in self.flows.iter().enumerate().filter(|(_, r)| r.cause.is_none()) {
            if record.written != record.delivered || record.ended != record.finished {
                return Err(format!("flow {flow} is incomplete: {record:?}"));
            }
        }
        for side in [0, 1] {
            let (sent, heard) = self.controls.get(&(session, side)).copied().unwrap_or_default();
            if sent != heard {
                return Err(format!("{heard} of {sent} control frames of side {side} arrived"));
            }
        }
        Ok(())
    }

    /// Whether each flow has ended both ways or been given up.
    pub(crate) fn check_over(&self) -> Outcome {
        let open = self.flows.iter().position(|r| r.cause.is_none() && r.finished != [true, true]);
        open.map_or(Ok(()), |flow| Err(format!("flow {flow} is not over: {:?}", self.flows[flow])))
    }
}
