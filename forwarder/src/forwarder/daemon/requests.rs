//! What the local API asks of the daemon.

use std::time::Instant;

use super::Daemon;
use crate::api::{Access, Asker, Caller, PeersRequest, Refusal, StatusCode};
use crate::audit::{Audit, Bound, Entry, Event};
use crate::registrar::Lease;

impl Daemon {
    /// Answers a request, now or when it has been seen to.
    pub(super) fn handle_request(&mut self, request: PeersRequest, now: Instant) {
        // Who asks on the socket may do everything, and is refused by what stands here already.
        let refuse = |refusal: &Refusal, asker: Asker, audit: &Audit| {
            let Caller::Remote(from) = asker.caller else { return };
            let fields = |entry: Entry| entry.with("from", from).with("why", &refusal.text);
            audit.record_bounded("api", Bound::OF_STRANGERS, Event::Refused, now, fields);
        };
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
                    Err(refusal) => {
                        refuse(&refusal, asker, &self.audit);
                        reply.send(Err(refusal));
                    }
                }
            }
            PeersRequest::Renew(asker, name, lease, reply) => {
                let checked = self.access(asker).and_then(|access| access.check_name(&name));
                let checked = checked.inspect_err(|error| refuse(error, asker, &self.audit));
                reply.send(checked.and_then(|()| self.registrar.handle_renew(&name, lease, now)));
            }
            PeersRequest::Unregister(asker, name, reply) => {
                let checked = self.access(asker).and_then(|access| access.check_name(&name));
                let checked = checked.inspect_err(|error| refuse(error, asker, &self.audit));
                reply.send(checked.and_then(|()| self.registrar.handle_unregister(&name)));
            }
            PeersRequest::List(asker, reply) => {
                let access = self.access(asker);
                let access = access.inspect_err(|error| refuse(error, asker, &self.audit));
                let shown = access.map(|access| {
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
