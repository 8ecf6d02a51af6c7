//! The listeners inside: internal peers that connect to them reach out through the tunnel.
//!
//! They are bound for the daemon's life, and given to the pump anew for each session; in between,
//! who connects waits to be accepted.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use adit_proto::id::ContactId;

use crate::config::{Outward, To};
use crate::exit::{Exit, Failed};
use crate::handoff::{Command, Destination, SessionKey};
use crate::net;
use crate::sources::Sources;

/// Connections that may wait while there is no tunnel.
const BACKLOG: i32 = 128;

/// All of them.
#[derive(Debug)]
pub(super) struct Listeners {
    bound: Vec<Bound>,
    /// Who may connect.
    sources: Arc<Sources>,
}

#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    name: Arc<str>,
    to: Destination,
}

/// Registered peers count from below, listeners from above: a session has room for both.
fn contact(index: usize) -> ContactId {
    ContactId(u32::MAX - u32::try_from(index).unwrap_or(u32::MAX))
}

impl Listeners {
    /// Binds them, for `sources` at first.
    pub(super) fn bind(listeners: &[Outward], sources: Sources) -> Result<Self, Failed> {
        let bind = |Outward { name, listen, to }: &Outward| {
            let listener = net::bind(*listen, BACKLOG, true).map_err(|error| {
                Failed::new(
                    Exit::Failure,
                    format!("listener {name}: cannot listen on {listen}: {error}"),
                )
            })?;
            tracing::info!(%listen, to = %To(to.clone()), "listening inside");
            Ok(Bound { listener, name: name.as_str().into(), to: to.clone() })
        };
        let bound = listeners.iter().map(bind).collect::<Result<_, Failed>>()?;
        Ok(Self { bound, sources: Arc::new(sources) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// What the pump is to be told in a session that has begun.
    pub(super) fn handle_up(&self, session: SessionKey) -> io::Result<Vec<Command>> {
        let listen = |(index, bound): (usize, &Bound)| {
            Ok(Command::Listen {
                session,
                contact: contact(index),
                peer: Arc::clone(&bound.name),
                listener: bound.listener.try_clone()?,
                to: bound.to.clone(),
                sources: Arc::clone(&self.sources),
            })
        };
        self.bound.iter().enumerate().map(listen).collect()
    }

    /// Takes who may connect from now on; returns what the pump is to be told.
    pub(super) fn handle_sources(
        &mut self,
        sources: Arc<Sources>,
        session: Option<SessionKey>,
    ) -> Vec<Command> {
        self.sources = sources;
        let admit = |session, index| Command::Admit {
            session,
            contact: contact(index),
            sources: Arc::clone(&self.sources),
        };
        let all = |session| (0..self.bound.len()).map(move |index| admit(session, index));
        session.into_iter().flat_map(all).collect()
    }
}
