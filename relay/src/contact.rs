//! What a contact point is called at the relay.

use std::fmt;

use adit::handoff::Protocol;
use serde::{Deserialize, Serialize};

/// A contact point: what callers outside name to reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Contact {
    /// A public port, for everybody who may reach it. The same number of another protocol is another
    /// contact point.
    Public(u16, Protocol),
    /// A private name, for keys that may call it. It has no port.
    Private(String),
}

impl Contact {
    /// The port, where it has one.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Public(port, _) => Some(*port),
            Self::Private(_) => None,
        }
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public(port, Protocol::Tcp) => write!(f, "public:{port}"),
            Self::Public(port, Protocol::Udp) => write!(f, "public:{port}/udp"),
            Self::Private(name) => write!(f, "private:{name}"),
        }
    }
}
