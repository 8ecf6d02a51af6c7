//! What a contact point is called at the relay.

use std::fmt;

/// A contact point: what callers outside name to reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contact {
    /// A public port, for everybody who may reach it.
    Public(u16),
    /// A private name, for keys that may call it. It has no port.
    Private(String),
}

impl Contact {
    /// The port, where it has one.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Public(port) => Some(*port),
            Self::Private(_) => None,
        }
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public(port) => write!(f, "public:{port}"),
            Self::Private(name) => write!(f, "private:{name}"),
        }
    }
}
