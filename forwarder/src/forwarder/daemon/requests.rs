//! What the local API asks of the daemon.

use std::time::Instant;

use super::Daemon;
use crate::api::{Access, Asker, PeersRequest, Refusal, StatusCode};
use crate::registrar::Lease;

impl Daemon {
    /// Answers a request, now or when it has been seen to.
    pub(super) fn handle_request(&mut self, request: PeersRequest, now: Instant) {
        match request {
            PeersRequest::Register(asker, peer, time, reply) => {
                let checked = self.access(asker).and_then(|access| {
                    access.check_peer(&peer)?;
                    Ok(access.token())
                });
                match checked {
                    _ if self.ending.is_some() => {
                        let text = "the forwarder is ending";
                        reply.send(Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)));
                    }
                    Ok(by) => {
                        self.registrar.handle_register(*peer, Lease { time, by }, reply, now);
                    }
                    Err(refusal) => reply.send(Err(refusal)),
                }
            }
            PeersRequest::Renew(asker, name, lease, reply) => {
                let checked = self.access(asker).and_then(|access| access.check_name(&name));
                reply.send(checked.and_then(|()| self.registrar.handle_renew(&name, lease, now)));
            }
            PeersRequest::Unregister(asker, name, reply) => {
                let checked = self.access(asker).and_then(|access| access.check_name(&name));
                reply.send(checked.and_then(|()| self.registrar.handle_unregister(&name)));
            }
            PeersRequest::List(asker, reply) => {
                let shown = self.access(asker).map(|access| {
                    let peers = self.registrar.peers(now).into_iter();
                    peers.filter(|peer| access.covers(&peer.name)).collect()
                });
                reply.send(shown);
            }
        }
    }

    fn access(&self, asker: Asker) -> Result<Access<'_>, Refusal> {
        asker.access(&self.config.tokens)
    }
}
