//! The daemon's way out: connections from inside, and from standard input, that become flows to
//! private names and to addresses outside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use adit_proto::id::ContactId;
use socket2::SockRef;
use tokio::sync::{mpsc, watch};

use super::daemon::Input;
use super::listeners::Listeners;
use super::socks::{self, Admitted, Asked};
use super::{Role, stdio};
use crate::config::ForwarderConfig;
use crate::exit::{Exit, Failed};
use crate::handoff::{
    Command, Destination, Listening, Open, Protocol, Replies, ResetReason, SessionKey,
};
use crate::sources::Sources;

/// What SOCKS flows, and the one of standard input, count to.
const SOCKS: ContactId = ContactId(0);

/// Everything that leads out.
#[derive(Debug)]
pub(super) struct Outward {
    listeners: Listeners,
    /// Whom SOCKS5 is open to; nothing while that is not known.
    admitted: watch::Sender<Admitted>,
    /// The name that standard input and output are to be joined to, once there is a tunnel.
    stdio: Option<String>,
    /// Open to registered peers, and not to everybody on this host.
    is_for_peers: bool,
}

impl Outward {
    /// Opens what the configuration names: to registered peers alone at the internal contact point,
    /// to everybody on this host where the user calls.
    pub(super) fn open(
        role: &Role,
        config: &ForwarderConfig,
        inbox: &mpsc::Sender<Input>,
    ) -> Result<Self, Failed> {
        let (stdio, is_contact) = match role {
            Role::Contact(_) => (None, true),
            Role::Caller { stdio } => (stdio.clone(), false),
        };
        let (admitted, known) = watch::channel(Some(Arc::new(Sources::none())));
        let listeners = Listeners::bind(&config.listeners)?;
        if let Some(listen) = config.socks {
            socks::serve(listen, known, inbox.clone())?;
        }
        let is_closed = listeners.is_empty() && config.socks.is_none();
        Ok(Self { listeners, admitted, stdio, is_for_peers: is_contact && !is_closed })
    }

    /// A session has begun; returns what the pump is to be told. Peers wait until it is known which of
    /// them are registered in it.
    pub(super) fn handle_up(
        &mut self,
        session: SessionKey,
        inbox: &mpsc::Sender<Input>,
    ) -> Result<Vec<Command>, Failed> {
        let failed = |error: io::Error| Failed::new(Exit::Failure, error);
        let mut commands = Vec::new();
        if self.is_for_peers {
            self.admitted.send_replace(None);
        } else {
            let any = Arc::new(Sources::any());
            commands = self.listeners.handle_sources(&any, session).map_err(failed)?;
        }
        if let Some(name) = self.stdio.take() {
            let stream = stdio::join(&name, inbox.clone()).map_err(failed)?;
            let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let to = Destination::Name(name);
            commands.push(open(session, (stream, source), to, stdio::replies()));
        }
        Ok(commands)
    }

    /// Whether it is to know who is registered.
    pub(super) fn is_for_peers(&self) -> bool {
        self.is_for_peers
    }

    /// Takes who may use the ways out in `session` from now on; returns what the pump is to be told.
    pub(super) fn handle_registered(
        &mut self,
        sources: Arc<Sources>,
        session: SessionKey,
    ) -> Result<Vec<Command>, Failed> {
        let commands = self.listeners.handle_sources(&sources, session);
        self.admitted.send_replace(Some(sources));
        commands.map_err(|error| Failed::new(Exit::Failure, error))
    }

    /// Somebody asks by SOCKS5; returns what the pump is to be told.
    pub(super) fn handle_socks(asked: Asked, session: Option<SessionKey>) -> Option<Command> {
        let Asked { stream, source, to } = asked;
        let Some(session) = session else {
            tracing::info!(%source, "turned away from SOCKS5: there is no tunnel at the moment");
            // Ten bytes into an empty socket; whether they are read is the asker's affair.
            SockRef::from(&stream).send(&socks::refused(ResetReason::Ending)).ok();
            return None;
        };
        Some(open(session, (stream, source), to, socks::replies()))
    }
}

fn open(
    session: SessionKey,
    (stream, source): (OwnedFd, SocketAddr),
    to: Destination,
    replies: Replies,
) -> Command {
    let peer = match &to {
        Destination::Name(text) | Destination::Address(text) => Arc::from(text.as_str()),
        Destination::Contact => Arc::from(""),
    };
    let open = Open { contact: SOCKS, source, protocol: Protocol::Tcp, to };
    let listening = Some(Listening::Caller(replies));
    Command::Open { session, open, peer, stream, listening }
}
