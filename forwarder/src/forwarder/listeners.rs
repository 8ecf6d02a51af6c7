//! The listeners inside: internal peers that connect to them reach out through the tunnel.
//!
//! They are bound for the daemon's life, and given to the pump anew for each session, once it is known
//! who may connect; until then, who connects waits to be accepted.

use std::io;
use std::sync::Arc;

use adit_proto::id::ContactId;

use crate::config::{Outward, To};
use crate::exit::{Exit, Failed};
use crate::handoff::{Command, ContactSocket, Destination, Protocol, SessionKey};
use crate::net;
use crate::sources::Sources;

/// Connections that may wait while there is no tunnel.
const BACKLOG: i32 = 128;

/// All of them.
#[derive(Debug)]
pub(super) struct Listeners {
    bound: Vec<Bound>,
    /// The session in which the pump has them.
    session: Option<SessionKey>,
}

#[derive(Debug)]
struct Bound {
    socket: ContactSocket,
    name: Arc<str>,
    to: Destination,
}

/// Registered peers count from below, listeners from above: a session has room for both.
fn contact(index: usize) -> ContactId {
    ContactId(u32::MAX - u32::try_from(index).unwrap_or(u32::MAX))
}

impl Listeners {
    /// Binds them; nobody is accepted yet.
    pub(super) fn bind(listeners: &[Outward]) -> Result<Self, Failed> {
        let bind = |Outward { name, listen, protocol, to }: &Outward| {
            let bound = match protocol {
                Protocol::Tcp => net::bind_kept(*listen, BACKLOG, true).map(ContactSocket::Tcp),
                Protocol::Udp => net::bind_datagrams_kept(*listen, true).map(ContactSocket::Udp),
            };
            let socket = bound.map_err(|error| {
                Failed::new(
                    Exit::Failure,
                    format!("listener {name}: cannot listen on {listen}: {error}"),
                )
            })?;
            tracing::info!(%listen, to = %To(to.clone()), "listening inside");
            Ok(Bound { socket, name: name.as_str().into(), to: to.clone() })
        };
        let bound = listeners.iter().map(bind).collect::<Result<_, Failed>>()?;
        Ok(Self { bound, session: None })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// Takes who may connect in `session` from now on; returns what the pump is to be told.
    pub(super) fn handle_sources(
        &mut self,
        sources: &Arc<Sources>,
        session: SessionKey,
    ) -> io::Result<Vec<Command>> {
        let is_new = self.session.replace(session) != Some(session);
        let tell = |(index, bound): (usize, &Bound)| {
            let (contact, sources) = (contact(index), Arc::clone(sources));
            if !is_new {
                return Ok(Command::Admit { session, contact, sources });
            }
            Ok(Command::Listen {
                session,
                contact,
                peer: Arc::clone(&bound.name),
                socket: bound.socket.try_clone()?,
                to: bound.to.clone(),
                sources,
            })
        };
        self.bound.iter().enumerate().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pump has a listener once in each session, and with it who may connect: nobody is turned
    /// away for the time before.
    #[test]
    fn a_listener_is_handed_over_with_those_who_may_connect() {
        let (name, to) = ("web".to_owned(), Destination::Name("laptop-web".to_owned()));
        let (listen, protocol) = (([127, 0, 0, 1], 0).into(), Protocol::Tcp);
        let outward = Outward { name, listen, protocol, to };
        let mut listeners = Listeners::bind(&[outward]).unwrap();
        let any = Arc::new(Sources::any());
        for session in [SessionKey(1), SessionKey(2)] {
            let first = listeners.handle_sources(&any, session).unwrap();
            assert!(
                matches!(&first[..], [Command::Listen { sources, .. }] if **sources == *any),
                "{first:?}"
            );
            let then = listeners.handle_sources(&any, session).unwrap();
            assert!(matches!(&then[..], [Command::Admit { .. }]), "{then:?}");
        }
    }
}
