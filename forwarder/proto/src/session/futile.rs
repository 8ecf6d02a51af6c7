//! Frames that change nothing. Each costs its sender a few bytes and this end a little time, and no
//! credit bounds them: so they have a budget of their own.

use super::{Session, SessionError};
use crate::frame::Frame;
use crate::id::Time;
use crate::limits::{FUTILE_FRAMES_MAX, FUTILE_FRAMES_PER_S, FUTILE_FRAMES_REDEEMED};

/// How many came that nothing has made up for.
#[derive(Debug, Default)]
pub(super) struct Futile {
    count: u64,
    /// Until when time has made up for some.
    reckoned_until: Time,
}

impl Futile {
    /// A frame that changes nothing.
    pub(super) fn add(&mut self, now: Time) -> Result<(), SessionError> {
        let elapsed_ms = u64::try_from(now.since(self.reckoned_until).as_millis());
        let forgiven = elapsed_ms.unwrap_or(u64::MAX).saturating_mul(FUTILE_FRAMES_PER_S) / 1_000;
        if forgiven > 0 {
            self.count = self.count.saturating_sub(forgiven);
            self.reckoned_until = now;
        }
        self.count += 1;
        if self.count > FUTILE_FRAMES_MAX { Err(SessionError::Futile) } else { Ok(()) }
    }

    /// A frame that changes something, or a flow of this end's, of which the other has to speak: an answer,
    /// and what crosses the flow's end. Flows under way are at most [`FLOWS_MAX`], so that honest words
    /// about them stay within [`FUTILE_FRAMES_MAX`].
    ///
    /// [`FLOWS_MAX`]: crate::limits::FLOWS_MAX
    pub(super) fn redeem(&mut self) {
        self.count = self.count.saturating_sub(FUTILE_FRAMES_REDEEMED);
    }
}

impl<B> Session<B> {
    /// Counts a frame against the budget, or in its favour. Datagrams do neither: they may be lost
    /// on the way to a flow that is gone, and have bounds of their own. Bytes count where a flow takes
    /// them; those of a flow that is gone were on their way, which is neither a fault nor a merit.
    pub(super) fn weigh(&mut self, frame: &Frame<'_>, now: Time) -> Result<(), SessionError> {
        let is_futile = match frame {
            Frame::Datagram(..) | Frame::Data(..) => return Ok(()),
            Frame::Pad(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Accept(_)
            | Frame::Blocked(_) => true,
            Frame::Poll(poll) => {
                let acknowledged = self.sent.records - self.sent.retained.len() as u64;
                poll.records <= acknowledged && poll.bytes <= self.sent.grant
            }
            Frame::Fin(id) | Frame::Reset(id, _) => !self.has_flow(*id),
            Frame::Credit(id, credit) => {
                !self.flows.get(id).is_some_and(|flow| flow.is_helped_by(*credit))
            }
            _ => false,
        };
        if is_futile {
            return self.futile.add(now);
        }
        self.futile.redeem();
        Ok(())
    }
}
