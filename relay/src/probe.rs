//! Answers probes: `adit doctor` looks at the way here. A probe has a key that is let in, begins no
//! session and takes none over; how many there are, and how much each may use, is bounded.

mod ears;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use adit::invitation::NoRandomness;
use adit::key::PublicKey;
use adit::net::{Exchange, ExchangeError, Shaken};
use adit::probe::{Answer, BadMessage, Looked, Opened, Request};
use adit::tls::MessageError;
use adit_proto::id::Side;
use adit_proto::limits::{
    PROBE_BYTES_MAX, PROBE_FILL, PROBE_MAX, PROBE_REQUESTS_MAX, PROBES_MAX, PROBES_PER_KEY_MAX,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::daemon::{Input, Look, Probing, Ways};
use crate::refused::Cause;
use ears::Ears;

/// Probes under way.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    under_way: usize,
    by_key: BTreeMap<PublicKey, usize>,
}

/// There are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{PROBES_MAX} probes are under way: try again in a moment")]
    Everywhere,
    #[error("{PROBES_PER_KEY_MAX} probes with this key are under way: wait for their end")]
    OfKey,
}

/// One probe's place.
#[derive(Debug)]
pub(crate) struct Place {
    probes: Rc<RefCell<Probes>>,
    key: PublicKey,
}

impl Probes {
    /// Lets a probe in, until the place is dropped.
    pub(crate) fn enter(probes: &Rc<RefCell<Self>>, key: PublicKey) -> Result<Place, Full> {
        let mut inner = probes.borrow_mut();
        if inner.under_way >= PROBES_MAX {
            return Err(Full::Everywhere);
        }
        let of_key = inner.by_key.entry(key).or_insert(0);
        if *of_key >= PROBES_PER_KEY_MAX {
            return Err(Full::OfKey);
        }
        *of_key += 1;
        inner.under_way += 1;
        Ok(Place { probes: Rc::clone(probes), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.probes.borrow_mut();
        inner.under_way -= 1;
        if let Some(count) = inner.by_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                inner.by_key.remove(&self.key);
            }
        }
    }
}

/// Why a probe did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAnswered {
    #[error("came to probe: {0}")]
    Full(#[from] Full),
    #[error("came to probe: {0}")]
    Exchange(#[from] ExchangeError),
    #[error("came to probe: {0}")]
    Message(#[from] BadMessage),
    #[error("came to probe, and asked for more than {PROBE_REQUESTS_MAX} things")]
    TooMuch,
    #[error("came to probe, and moved more than {PROBE_BYTES_MAX} bytes")]
    TooLong,
    #[error("came to probe, and stayed longer than {} s", PROBE_MAX.as_secs())]
    TooSlow,
    #[error("cannot answer a probe: {0}")]
    Socket(io::Error),
    #[error("cannot answer a probe: {0}")]
    Randomness(#[from] NoRandomness),
}

impl NotAnswered {
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Full(_) | Self::TooMuch | Self::TooLong | Self::TooSlow => Cause::OverLimit,
            Self::Exchange(ExchangeError::Io(_)) => Cause::HandshakeClosed,
            Self::Exchange(ExchangeError::Message(_)) | Self::Message(_) => Cause::Protocol,
            Self::Socket(_) | Self::Randomness(_) => Cause::Descriptors,
        }
    }
}

/// Tells a probe that there are too many.
pub(crate) async fn turn_away(shaken: Shaken, full: Full) -> Result<(), NotAnswered> {
    let mut exchange = Exchange::new(Side::Relay, shaken.carrier);
    exchange.send(&Answer::Refused(full.to_string()).to_bytes()).await?;
    Err(full.into())
}

/// Answers a probe until it ends.
pub(crate) async fn answer(shaken: Shaken, inbox: &mpsc::Sender<Input>) -> Result<(), NotAnswered> {
    let until = Instant::now() + PROBE_MAX;
    let (key, local, remote) = (shaken.peer, shaken.local, shaken.carrier.remote);
    let exchange = Exchange::new(Side::Relay, shaken.carrier);
    let budget = Budget::default();
    let mut host = Host { key, local, inbox, exchange, ears: None, budget };
    tracing::info!(%key, %remote, "a probe looks at the way");
    match timeout_at(until.into(), host.answer_all()).await {
        Ok(Err(NotAnswered::Exchange(ExchangeError::Message(MessageError::Closed)))) => Ok(()),
        Ok(answered) => answered,
        Err(_elapsed) => Err(NotAnswered::TooSlow),
    }
}

/// What a probe has used so far.
#[derive(Debug, Default)]
struct Budget {
    requests: usize,
    bytes_in: usize,
    bytes_out: usize,
}

impl Budget {
    fn take(&mut self, request: &Request) -> Result<(), NotAnswered> {
        self.requests += 1;
        match request {
            Request::Fill(bytes) => self.bytes_in += bytes.len(),
            Request::Give(bytes) => {
                let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
                self.bytes_out = self.bytes_out.saturating_add(bytes);
            }
            _ => {}
        }
        if self.requests > PROBE_REQUESTS_MAX {
            return Err(NotAnswered::TooMuch);
        }
        if self.bytes_in.max(self.bytes_out) > PROBE_BYTES_MAX {
            return Err(NotAnswered::TooLong);
        }
        Ok(())
    }
}

/// Whoever answers one probe.
struct Host<'a> {
    key: PublicKey,
    /// The address of ours that it came to.
    local: IpAddr,
    inbox: &'a mpsc::Sender<Input>,
    exchange: Exchange,
    ears: Option<Ears>,
    budget: Budget,
}

impl Host<'_> {
    async fn answer_all(&mut self) -> Result<(), NotAnswered> {
        loop {
            let request = Request::from_bytes(&self.exchange.receive().await?)?;
            self.budget.take(&request)?;
            let Some(answer) = self.answer(request).await? else { continue };
            self.exchange.send(&answer.to_bytes()).await?;
        }
    }

    async fn answer(&mut self, request: Request) -> Result<Option<Answer>, NotAnswered> {
        Ok(Some(match request {
            Request::Look(asked) => {
                let observed = self.exchange.remote();
                let (reply, judged) = oneshot::channel();
                let look = Look { key: self.key, asked, reply };
                match self.ask(Probing::Look(look), judged).await {
                    Ok(judged) => {
                        let (name, verdicts) = (judged.name, judged.verdicts);
                        Answer::Looked(Looked { name, observed, verdicts })
                    }
                    Err(refused) => refused,
                }
            }
            Request::Open => self.open().await?,
            Request::Heard => {
                Answer::Heard(self.ears.as_ref().map(Ears::heard).unwrap_or_default())
            }
            Request::Send { socket, number } => Answer::Sent(match &self.ears {
                Some(ears) => ears.send(socket, number).await,
                None => false,
            }),
            Request::Fill(_) => return Ok(None),
            Request::Filled => Answer::Filled(self.budget.bytes_in as u64),
            Request::Give(bytes) => {
                let mut left = usize::try_from(bytes).unwrap_or(0);
                while left > 0 {
                    let now = left.min(PROBE_FILL);
                    self.exchange.send(&Answer::Fill(vec![0; now]).to_bytes()).await?;
                    left -= now;
                }
                return Ok(None);
            }
            Request::Still => Answer::Still,
        }))
    }

    /// Opens sockets for datagrams, once.
    async fn open(&mut self) -> Result<Answer, NotAnswered> {
        if self.ears.is_some() {
            return Ok(Answer::Refused("the sockets are open already".to_owned()));
        }
        let (token, number) = ears::secrets()?;
        let (reply, way) = oneshot::channel();
        let ways = Ways { token, local: self.local, number, reply };
        let way = match self.ask(Probing::Ways(ways), way).await {
            Ok(way) => way,
            Err(refused) => return Ok(refused),
        };
        let ears = Ears::open(token, self.local, way.other).map_err(NotAnswered::Socket)?;
        let sockets = ears.places();
        self.ears = Some(ears);
        Ok(Answer::Opened(Opened { token, sockets, path: way.path }))
    }

    /// Asks the daemon; what the probe is told instead, should there be no answer.
    async fn ask<T>(&self, probing: Probing, answer: oneshot::Receiver<T>) -> Result<T, Answer> {
        self.inbox.send(Input::Probe(probing)).await.ok();
        // Without a loop, or without a policy any more, nobody answers.
        answer.await.map_err(|_gone| Answer::Refused("the relay is ending".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probes are bounded for each key and for all together, and leave nothing behind.
    #[test]
    fn probes_are_bounded() {
        let probes: Rc<RefCell<Probes>> = Rc::default();
        let key = |n: usize| PublicKey::from([u8::try_from(n).unwrap(); 32]);
        let mut places = Vec::new();
        for _ in 0..PROBES_PER_KEY_MAX {
            places.push(Probes::enter(&probes, key(0)).unwrap());
        }
        assert_eq!(Probes::enter(&probes, key(0)).unwrap_err(), Full::OfKey);
        let mut n = 0;
        while places.len() < PROBES_MAX {
            n += 1;
            places.push(Probes::enter(&probes, key(n)).unwrap());
        }
        assert_eq!(Probes::enter(&probes, key(n + 1)).unwrap_err(), Full::Everywhere);
        drop(places);
        assert!(probes.borrow().by_key.is_empty());
        assert_eq!(probes.borrow().under_way, 0);
    }

    /// What one probe may ask and move ends somewhere.
    #[test]
    fn what_a_probe_uses_is_bounded() {
        let mut budget = Budget::default();
        for _ in 0..PROBE_REQUESTS_MAX {
            budget.take(&Request::Still).unwrap();
        }
        assert!(matches!(budget.take(&Request::Still), Err(NotAnswered::TooMuch)));
        for request in [Request::Give(u32::MAX), Request::Give(5 << 20)] {
            let taken = Budget::default().take(&request);
            assert!(matches!(taken, Err(NotAnswered::TooLong)));
        }
        let mut budget = Budget::default();
        let fill = Request::Fill(vec![0; PROBE_FILL]);
        let fills = (0..).take_while(|_| budget.take(&fill).is_ok()).count();
        assert_eq!(fills, PROBE_BYTES_MAX / PROBE_FILL);
    }
}
