//! A conversation with the relay.

use std::pin::pin;
use std::time::Duration;

use adit_proto::limits::PROBE_FILL;
use tokio::time::timeout;

use crate::net::{Exchange, ExchangeError, Watch};
use crate::probe::{Answer, Asked, BadMessage, Heard, Looked, Opened, Request};
use crate::tls::{HandshakeError, MessageError};

/// How long an answer may take, and how long no byte of a transfer may get on.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a transfer may take.
const TRANSFER_MAX: Duration = Duration::from_secs(120);

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum VisitError {
    #[error("no answer in {} s", ANSWER_MAX.as_secs())]
    Silent,
    #[error("not done in {} s", TRANSFER_MAX.as_secs())]
    TooSlow,
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error("{0}")]
    Refused(String),
    #[error("the relay judges {answered} contact points, and was asked for {asked}")]
    Verdicts { asked: usize, answered: usize },
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

    /// Waits for a part of a transfer, for as long as bytes go either way: a slow line is none that is
    /// broken.
    async fn patiently<T>(
        watch: Option<&Watch>,
        part: impl Future<Output = Result<T, VisitError>>,
    ) -> Result<T, VisitError> {
        let moved = || {
            let sample = watch.and_then(Watch::sample);
            sample.map(|sample| (sample.acknowledged, sample.received))
        };
        let (mut part, mut before) = (pin!(part), moved());
        loop {
            if let Ok(done) = timeout(ANSWER_MAX, &mut part).await {
                return done;
            }
            let now = moved();
            if now == before {
                return Err(VisitError::Silent);
            }
            before = now;
        }
    }

    async fn say(&mut self, request: &Request) -> Result<(), VisitError> {
        let sent = timeout(ANSWER_MAX, self.0.send(&request.to_bytes())).await;
        sent.map_err(|_elapsed| VisitError::Silent)?.map_err(VisitError::from)
    }

    async fn hear(&mut self) -> Result<Answer, VisitError> {
        let received = timeout(ANSWER_MAX, self.next()).await;
        received.map_err(|_elapsed| VisitError::Silent)?
    }

    async fn next(&mut self) -> Result<Answer, VisitError> {
        match Answer::from_bytes(&self.0.receive().await?)? {
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
        let until = timeout(TRANSFER_MAX, self.transfer_all(bytes, &mut moved)).await;
        until.unwrap_or(Err(VisitError::TooSlow)).map_err(|error| (moved, error))
    }

    async fn transfer_all(&mut self, bytes: usize, moved: &mut Moved) -> Result<(), VisitError> {
        let watch = self.0.watch().ok();
        let watch = watch.as_ref();
        while moved.sent < bytes {
            let now = (bytes - moved.sent).min(PROBE_FILL);
            let fill = Request::Fill(vec![0; now]).to_bytes();
            let sent = async { Ok(self.0.send(&fill).await?) };
            Self::patiently(watch, sent).await?;
            moved.sent += now;
        }
        let filled = Request::Filled.to_bytes();
        let filled = async {
            self.0.send(&filled).await?;
            self.next().await
        };
        match Self::patiently(watch, filled).await {
            Ok(Answer::Filled(_)) => {}
            Ok(other) => return Err(VisitError::Other(other)),
            Err(error) => return Err(error),
        }
        let give = Request::Give(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.say(&give).await?;
        while moved.received < bytes {
            match Self::patiently(watch, self.next()).await? {
                Answer::Fill(fill) if !fill.is_empty() => moved.received += fill.len(),
                other => return Err(VisitError::Other(other)),
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
