//! Where forwarders come in: accepts, keeps the doorway's bounds, makes handshakes, and counts
//! whom it turns away.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use adit::invitation::{BadMessage, Request};
use adit::key::PublicKey;
use adit::net::{self, Exchange, ExchangeError, Listener, ShakeError, Shaken, Stream};
use adit::tls::{Handshake, MessageError, Purpose, ServerTls, Trust};
use adit_proto::id::Side;
use adit_proto::limits::HANDSHAKE_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::daemon::{Enrol, Input, Joining};
use crate::door::{Door, Ticket};
use crate::probe::{self, Probes};
use crate::refused::{Cause, Refusals};

/// The pause after an accept that failed for want of descriptors: the caller is still there, and
/// asking again at once would only burn a core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why somebody who came to join was not heard.
#[derive(Debug, thiserror::Error)]
enum NotAsked {
    #[error("came to join, and took longer than {} s", HANDSHAKE_MAX.as_secs())]
    TooSlow,
    #[error("came to join: {0}")]
    Exchange(#[from] ExchangeError),
    #[error("came to join: {0}")]
    Message(#[from] BadMessage),
}

impl NotAsked {
    fn cause(&self) -> Cause {
        match self {
            Self::TooSlow => Cause::HandshakeTimeout,
            Self::Exchange(ExchangeError::Io(_) | ExchangeError::Message(MessageError::Closed)) => {
                Cause::HandshakeClosed
            }
            Self::Exchange(ExchangeError::Message(_)) | Self::Message(_) => Cause::Protocol,
        }
    }
}

/// The keys that are let in. A handshake asks; a reload changes them.
#[derive(Debug, Default)]
pub(crate) struct Admission(RwLock<BTreeSet<PublicKey>>);

impl Admission {
    /// Lets in these keys from now on, and no others.
    pub(crate) fn set(&self, keys: BTreeSet<PublicKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

impl Trust for Admission {
    fn accepts(&self, key: &PublicKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

/// What all listeners share.
#[derive(Debug)]
pub(crate) struct Reception {
    pub(crate) tls: ServerTls,
    pub(crate) door: Rc<RefCell<Door>>,
    pub(crate) probes: Rc<RefCell<Probes>>,
    pub(crate) refusals: Rc<RefCell<Refusals>>,
    pub(crate) inbox: mpsc::Sender<Input>,
}

impl Reception {
    /// Takes callers of `listener` until it is stopped.
    pub(crate) async fn accept_all(self: Rc<Self>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(stream) => self.receive(stream),
                // Stopped: the relay is ending.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                // The caller was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.refuse(Cause::Descriptors, "a caller", &error);
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn refuse(&self, cause: Cause, whom: impl std::fmt::Display, why: impl std::fmt::Display) {
        self.refusals.borrow_mut().count(cause, whom, why, Instant::now());
    }

    fn receive(self: &Rc<Self>, stream: Stream) {
        match Door::enter(&self.door, stream.remote().ip()) {
            Ok(ticket) => net::spawn(Rc::clone(self).shake(stream, ticket)),
            // Dropping the stream closes it without a word.
            Err(full) => self.refuse(Cause::OverLimit, stream.remote(), full),
        }
    }

    async fn shake(self: Rc<Self>, stream: Stream, ticket: Ticket) {
        let (remote, until) = (stream.remote(), Instant::now() + HANDSHAKE_MAX);
        match self.handshake(stream).await {
            Ok(shaken) if shaken.purpose == Purpose::Join => {
                let joined = timeout_at(until.into(), self.join(shaken)).await;
                if let Err(error) = joined.unwrap_or(Err(NotAsked::TooSlow)) {
                    self.refuse(error.cause(), remote, &error);
                }
            }
            Ok(shaken) if shaken.purpose == Purpose::Probe => {
                self.answer_probe(shaken, ticket).await;
                return;
            }
            // The loop has ended: the carrier is closed by being dropped.
            Ok(shaken) => drop(self.inbox.send(Input::Arrived(Box::new(shaken))).await),
            Err(error) => self.refuse(Cause::from(&error), remote, &error),
        }
        drop(ticket);
    }

    /// Lets a key that may have a session look at the way.
    async fn answer_probe(&self, shaken: Shaken, ticket: Ticket) {
        let (key, remote) = (shaken.peer, shaken.carrier.remote);
        let answered = match Probes::enter(&self.probes, key) {
            Ok(place) => {
                // It has bounds of its own, and takes longer than a handshake may.
                drop(ticket);
                probe::answer(shaken, &place, &self.inbox).await
            }
            Err(full) => probe::turn_away(shaken, full).await,
        };
        if let Err(error) = answered {
            self.refuse(error.cause(), remote, &error);
        }
    }

    /// Takes the one request of somebody who came to join, and passes the answer on.
    async fn join(&self, shaken: Shaken) -> Result<(), NotAsked> {
        let (key, remote) = (shaken.peer, shaken.carrier.remote);
        let mut exchange = Exchange::new(Side::Relay, shaken.carrier);
        let request = Request::from_bytes(&exchange.receive().await?)?;
        let (reply, answer) = oneshot::channel();
        let joining = Joining { key, remote, request, reply };
        // Without a loop there is no answer, and the caller sees the end.
        self.inbox.send(Input::Enrol(Enrol::Join(joining))).await.ok();
        let Ok(answer) = answer.await else { return Ok(()) };
        exchange.send(&answer.to_bytes()).await?;
        // It has its answer; how it leaves does not matter.
        exchange.finish().await.ok();
        Ok(())
    }

    async fn handshake(&self, stream: Stream) -> Result<Shaken, ShakeError> {
        net::shake_hands(stream, Handshake::server(&self.tls)?).await
    }
}
