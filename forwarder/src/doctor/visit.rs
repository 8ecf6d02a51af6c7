//! A conversation with the relay.

use std::time::Duration;

use adit_proto::limits::PROBE_FILL;
use tokio::time::timeout;

use crate::net::{Exchange, ExchangeError};
use crate::probe::{Answer, Asked, BadMessage, Heard, Looked, Opened, Request};
use crate::tls::{HandshakeError, MessageError};

/// How long an answer, or a part of a transfer, may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum VisitError {
    #[error("no answer in {} s", ANSWER_MAX.as_secs())]
    Silent,
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error("{0}")]
    Refused(String),
    #[error("the relay answers something else: {0}")]
    Other(Answer),
}

impl VisitError {
    /// Whether the relay does not let our key in.
    pub(super) fn is_denial(&self) -> bool {
        let Self::Exchange(ExchangeError::Message(MessageError::Refused(error))) = self else {
            return false;
        };
        matches!(error, HandshakeError::AccessDenied)
    }
}

/// The relay, behind a connection.
pub(super) struct Visit(Exchange);

impl Visit {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self(exchange)
    }

    async fn say(&mut self, request: &Request) -> Result<(), VisitError> {
        let sent = timeout(ANSWER_MAX, self.0.send(&request.to_bytes())).await;
        sent.map_err(|_elapsed| VisitError::Silent)?.map_err(VisitError::from)
    }

    async fn hear(&mut self) -> Result<Answer, VisitError> {
        let received = timeout(ANSWER_MAX, self.0.receive()).await;
        let bytes = received.map_err(|_elapsed| VisitError::Silent)??;
        match Answer::from_bytes(&bytes)? {
            Answer::Refused(text) => Err(VisitError::Refused(text)),
            answer => Ok(answer),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, VisitError> {
        self.say(&request).await?;
        self.hear().await
    }

    pub(super) async fn look(&mut self, asked: Vec<Asked>) -> Result<Looked, VisitError> {
        match self.ask(Request::Look(asked)).await? {
            Answer::Looked(looked) => Ok(looked),
            other => Err(VisitError::Other(other)),
        }
    }

    pub(super) async fn open(&mut self) -> Result<Opened, VisitError> {
        match self.ask(Request::Open).await? {
            Answer::Opened(opened) => Ok(opened),
            other => Err(VisitError::Other(other)),
        }
    }

    pub(super) async fn heard(&mut self) -> Result<Vec<Heard>, VisitError> {
        match self.ask(Request::Heard).await? {
            Answer::Heard(heard) => Ok(heard),
            other => Err(VisitError::Other(other)),
        }
    }

    pub(super) async fn send(&mut self, socket: u8, number: u16) -> Result<bool, VisitError> {
        match self.ask(Request::Send { socket, number }).await? {
            Answer::Sent(is_sent) => Ok(is_sent),
            other => Err(VisitError::Other(other)),
        }
    }

    pub(super) async fn still(&mut self) -> Result<(), VisitError> {
        match self.ask(Request::Still).await? {
            Answer::Still => Ok(()),
            other => Err(VisitError::Other(other)),
        }
    }

    /// Moves `bytes` each way; should it fail, says how many went out and came in.
    pub(super) async fn transfer(&mut self, bytes: usize) -> Result<(), (Moved, VisitError)> {
        let mut moved = Moved::default();
        while moved.sent < bytes {
            let now = (bytes - moved.sent).min(PROBE_FILL);
            let fill = Request::Fill(vec![0; now]);
            self.say(&fill).await.map_err(|error| (moved, error))?;
            moved.sent += now;
        }
        match self.ask(Request::Filled).await {
            Ok(Answer::Filled(_)) => {}
            Ok(other) => return Err((moved, VisitError::Other(other))),
            Err(error) => return Err((moved, error)),
        }
        let give = Request::Give(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.say(&give).await.map_err(|error| (moved, error))?;
        while moved.received < bytes {
            match self.hear().await {
                Ok(Answer::Fill(fill)) if !fill.is_empty() => moved.received += fill.len(),
                Ok(other) => return Err((moved, VisitError::Other(other))),
                Err(error) => return Err((moved, error)),
            }
        }
        Ok(())
    }
}

/// What a transfer has moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) sent: usize,
    pub(super) received: usize,
}
