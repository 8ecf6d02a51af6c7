//! Datagrams: those that wait to be sent, and those that come in parts.

pub(crate) mod join;
pub(crate) mod queue;
