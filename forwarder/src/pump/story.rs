//! What the log tells of each flow: that it begins, and that it has ended, with what it has moved. Both
//! daemons give a flow the same name, which is made of the session's and of the flow's in it.
//!
//! A flood of flows is told of in part: at most [`STORIES_PER_S`] begin in a second, and the next line
//! says how many were left out. What was told of at its beginning is told of at its end.

use std::net::SocketAddr;
use std::time::Duration;

use adit_proto::frame::Protocol;
use adit_proto::id::{FlowId, SessionId, Time};
use adit_proto::limits::STORIES_PER_S;
use serde::{Deserialize, Serialize};

use super::meter::Pace;
use crate::handoff::Way;

/// What flows' lines are filtered by.
const TARGET: &str = "adit::flow";

/// One flow's story.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Story {
    session: SessionId,
    id: FlowId,
    protocol: Protocol,
    source: SocketAddr,
    began: Time,
    to_tunnel: u64,
    from_tunnel: u64,
    is_told: bool,
}

impl Story {
    /// Of a flow that `source` has opened.
    pub(super) fn new(id: FlowId, protocol: Protocol, source: SocketAddr) -> Self {
        let (session, began) = (SessionId::NONE, Time::default());
        let (to_tunnel, from_tunnel, is_told) = (0, 0, false);
        Self { session, id, protocol, source, began, to_tunnel, from_tunnel, is_told }
    }

    /// Whether it is known which session's it is, so that its beginning is past.
    pub(super) fn has_begun(&self) -> bool {
        self.session != SessionId::NONE
    }

    /// So many bytes have passed the socket.
    pub(super) fn handle_moved(&mut self, way: Way, bytes: usize) {
        match way {
            Way::ToTunnel => self.to_tunnel += bytes as u64,
            Way::FromTunnel => self.from_tunnel += bytes as u64,
        }
    }

    /// The flow is over.
    pub(super) fn tell_end(&self, peer: &str, is_reset: bool, now: Time) {
        if self.is_told {
            let (to_tunnel, from_tunnel) = (self.to_tunnel, self.from_tunnel);
            let lasted_ms = now.since(self.began).as_millis();
            let lasted_ms = u64::try_from(lasted_ms).unwrap_or(u64::MAX);
            tracing::debug!(
                target: TARGET, flow = %self.name(), %peer, to_tunnel, from_tunnel, lasted_ms,
                is_reset, "flow ended"
            );
        }
    }

    /// The same in both daemons.
    pub(super) fn name(&self) -> String {
        format!("{}-{:x}", self.session, self.id.0)
    }
}

/// Who tells how much.
#[derive(Debug)]
pub(super) struct Teller {
    pace: Pace,
    untold: u64,
}

impl Default for Teller {
    fn default() -> Self {
        Self { pace: Pace::new(STORIES_PER_S, Duration::from_secs(1)), untold: 0 }
    }
}

impl Teller {
    /// The flow is there.
    pub(super) fn tell_begin(
        &mut self,
        story: &mut Story,
        session: SessionId,
        peer: &str,
        now: Time,
    ) {
        (story.session, story.began) = (session, now);
        if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            return;
        }
        if !self.pace.admits_one(now) {
            self.untold += 1;
            return;
        }
        story.is_told = true;
        let untold = Some(std::mem::take(&mut self.untold)).filter(|count| *count > 0);
        let protocol = match story.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let (name, source) = (story.name(), story.source);
        // As everybody writes it, whichever family the socket is of.
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        tracing::debug!(target: TARGET, flow = %name, %peer, %source, protocol, untold, "flow opened");
    }
}
