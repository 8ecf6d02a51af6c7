//! Newtypes for what the protocol names, so that one id cannot stand for another.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A flow within a session, as it stands in a frame's header. The relay opens even ids, the
/// forwarder odd ones, so that both may open without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowId(pub u32);

/// A contact point within a session; the forwarder chooses it in `REGISTER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContactId(pub u32);

/// A session's name, chosen at random by the relay; it outlives the carriers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// What a forwarder says in `HELLO` when it has no session to resume.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A moment: nanoseconds since an origin that the caller chose and keeps to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// The time that passed since `earlier`; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The internal contact point: it dials, says `HELLO`, and opens odd flows.
    Forwarder,
    /// The relay: it answers `WELCOME`, and opens even flows.
    Relay,
}

impl Side {
    /// The first flow id that this side opens; the others follow in steps of two.
    pub fn first_flow(self) -> FlowId {
        match self {
            Self::Forwarder => FlowId(1),
            Self::Relay => FlowId(2),
        }
    }

    /// Whether `flow` is an id that this side may open.
    pub fn opens(self, flow: FlowId) -> bool {
        flow.0 != 0 && flow.0 % 2 == self.first_flow().0 % 2
    }

    /// The side at the other end.
    pub fn other(self) -> Self {
        match self {
            Self::Forwarder => Self::Relay,
            Self::Relay => Self::Forwarder,
        }
    }
}
