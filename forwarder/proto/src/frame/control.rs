//! The frames that the registrars of both ends exchange; sessions only carry them.

use super::{Frame, Goaway, Refused, Registered, Registration};
use crate::id::ContactId;

/// A frame between the registrars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// Asks for a contact point.
    Register(ContactId, Registration),
    /// Grants it.
    Registered(ContactId, Registered),
    /// Refuses it.
    Refused(ContactId, Refused),
    /// Gives it up.
    Unregister(ContactId),
    /// The sender drains, or ends the session.
    Goaway(Goaway),
}

impl From<ControlFrame> for Frame<'_> {
    fn from(frame: ControlFrame) -> Self {
        match frame {
            ControlFrame::Register(id, body) => Self::Register(id, body),
            ControlFrame::Registered(id, body) => Self::Registered(id, body),
            ControlFrame::Refused(id, body) => Self::Refused(id, body),
            ControlFrame::Unregister(id) => Self::Unregister(id),
            ControlFrame::Goaway(body) => Self::Goaway(body),
        }
    }
}
