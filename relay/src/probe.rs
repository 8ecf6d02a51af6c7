//! Answers probes: `adit doctor` looks at the way here. A probe has a key that is let in, begins no
//! session and takes none over; how many there are, and how much each may use, is bounded.

mod ears;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit::invitation::NoRandomness;
use adit::key::PublicKey;
use adit::net::{Exchange, ExchangeError, Shaken};
use adit::probe::{Answer, BadMessage, Looked, Opened, Request};
use adit::tls::MessageError;
use adit_proto::id::Side;
use adit_proto::limits::{
    PROBE_BYTES_MAX, PROBE_FILL, PROBE_MAX, PROBE_REQUESTS_MAX, PROBES_MAX, PROBES_PER_KEY_MAX,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use crate::daemon::{Input, Look, Probing, Ways};
use crate::refused::Cause;
use ears::Ears;

/// How long one that is sent away may take to hear why.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// How often the log tells of one key's probes.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Probes under way.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    under_way: usize,
    by_key: BTreeMap<PublicKey, OfKey>,
    /// When the log told of a key's last: of the keys that came lately.
    told: BTreeMap<PublicKey, Instant>,
    /// Numbers of [`Ways`] whose probes have ended, until the daemon takes them.
    ended: Vec<u32>,
}

/// One key's probes under way.
#[derive(Debug, Default)]
struct OfKey {
    count: usize,
    /// Tells them that the key is let in no more.
    removed: Rc<Notify>,
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
    removed: Rc<Notify>,
}

impl Probes {
    /// Lets a probe in, until the place is dropped.
    pub(crate) fn enter(probes: &Rc<RefCell<Self>>, key: PublicKey) -> Result<Place, Full> {
        let mut inner = probes.borrow_mut();
        if inner.under_way >= PROBES_MAX {
            return Err(Full::Everywhere);
        }
        let of_key = inner.by_key.entry(key).or_default();
        if of_key.count >= PROBES_PER_KEY_MAX {
            return Err(Full::OfKey);
        }
        of_key.count += 1;
        let removed = Rc::clone(&of_key.removed);
        inner.under_way += 1;
        Ok(Place { probes: Rc::clone(probes), key, removed })
    }

    /// Ends the probes of keys that are let in no more.
    pub(crate) fn end_removed(&self, is_let_in: impl Fn(&PublicKey) -> bool) {
        let removed = self.by_key.iter().filter(|(key, _)| !is_let_in(key));
        removed.for_each(|(_, of_key)| of_key.removed.notify_waiters());
    }

    /// The numbers of [`Ways`] whose probes have ended since this was asked last.
    pub(crate) fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Whether the log tells of a probe of `key`: not of each of many.
    fn is_told(&mut self, key: PublicKey, now: Instant) -> bool {
        self.told.retain(|_, at| now.saturating_duration_since(*at) < TOLD_EVERY);
        if self.told.contains_key(&key) {
            return false;
        }
        self.told.insert(key, now);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.probes.borrow_mut();
        inner.under_way -= 1;
        if let Some(of_key) = inner.by_key.get_mut(&self.key) {
            of_key.count -= 1;
            if of_key.count == 0 {
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
    #[error("came to probe, with a key that is let in no more")]
    Removed,
    #[error("cannot answer a probe: {0}")]
    Socket(io::Error),
    #[error("cannot answer a probe: {0}")]
    Randomness(#[from] NoRandomness),
}

impl NotAnswered {
    /// Whether we end it, over a connection that works.
    fn is_decision(&self) -> bool {
        matches!(self, Self::TooMuch | Self::TooLong | Self::TooSlow | Self::Removed)
    }

    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Full(_) | Self::TooMuch | Self::TooLong | Self::TooSlow => Cause::OverLimit,
            Self::Removed => Cause::UnknownKey,
            Self::Exchange(ExchangeError::Io(_)) => Cause::HandshakeClosed,
            Self::Exchange(ExchangeError::Message(_)) | Self::Message(_) => Cause::Protocol,
            Self::Socket(_) | Self::Randomness(_) => Cause::Descriptors,
        }
    }
}

/// Tells a probe that there are too many.
pub(crate) async fn turn_away(shaken: Shaken, full: Full) -> Result<(), NotAnswered> {
    refuse(Exchange::new(Side::Relay, shaken.carrier), full.to_string()).await;
    Err(full.into())
}

/// Says why this is the end, and lets the other end read it: what it has sent meanwhile is not read,
/// and closing over that would send a reset, which may overtake the words.
async fn refuse(mut exchange: Exchange, why: String) {
    let farewell = async {
        exchange.send(&Answer::Refused(why).to_bytes()).await.ok();
        // How it leaves does not matter.
        exchange.finish().await.ok();
    };
    timeout(FAREWELL_MAX, farewell).await.ok();
}

/// Answers a probe until it ends.
pub(crate) async fn answer(
    shaken: Shaken,
    place: &Place,
    inbox: &mpsc::Sender<Input>,
) -> Result<(), NotAnswered> {
    let until = Instant::now() + PROBE_MAX;
    let (key, local, remote) = (shaken.peer, shaken.local, shaken.carrier.remote);
    let exchange = Exchange::new(Side::Relay, shaken.carrier);
    let budget = Budget::default();
    let (probes, ears, echo) = (&place.probes, None, None);
    let mut host =
        Host { key, local, inbox, probes, exchange, ears, echo, budget, is_listening: true };
    if place.probes.borrow_mut().is_told(key, Instant::now()) {
        tracing::info!(%key, %remote, "a probe looks at the way");
    } else {
        tracing::debug!(%key, %remote, "a probe looks at the way");
    }
    let answered = tokio::select! {
        // Before the first answer: the key may go while that is asked for.
        biased;
        () = place.removed.notified() => Err(NotAnswered::Removed),
        answered = timeout_at(until.into(), host.answer_all()) => {
            answered.unwrap_or(Err(NotAnswered::TooSlow))
        }
    };
    match &answered {
        Err(NotAnswered::Exchange(ExchangeError::Message(MessageError::Closed))) => return Ok(()),
        Err(error) if error.is_decision() && host.is_listening => {
            let Host { exchange, ears, echo, .. } = host;
            drop((ears, echo));
            refuse(exchange, error.to_string()).await;
        }
        _ => {}
    }
    answered
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
    probes: &'a Rc<RefCell<Probes>>,
    exchange: Exchange,
    ears: Option<Ears>,
    echo: Option<Echo>,
    budget: Budget,
    /// Whether nothing is being sent: words in the middle of an answer would spoil both.
    is_listening: bool,
}

/// The probe's packets at the socket of the datagram paths are sent back until this is dropped.
struct Echo {
    number: u32,
    probes: Rc<RefCell<Probes>>,
    inbox: mpsc::Sender<Input>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.probes.borrow_mut().ended.push(self.number);
        // It looks at what has ended in each turn: an inbox that is full gives it one anyway.
        self.inbox.try_send(Input::Probe(Probing::Ended)).ok();
    }
}

impl Host<'_> {
    async fn answer_all(&mut self) -> Result<(), NotAnswered> {
        // The key may have gone between its handshake and now, when nobody was told of it.
        let (reply, judged) = oneshot::channel();
        let look = Look { key: self.key, asked: Vec::new(), reply };
        if self.ask(Probing::Look(look), judged).await.is_err() {
            return Err(NotAnswered::Removed);
        }
        loop {
            self.is_listening = true;
            let request = Request::from_bytes(&self.exchange.receive().await?)?;
            self.budget.take(&request)?;
            self.is_listening = false;
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
        let ways = Ways { key: self.key, token, local: self.local, number, reply };
        // Before it is asked for: whoever waits may be gone when it comes.
        let echo = Echo { number, probes: Rc::clone(self.probes), inbox: self.inbox.clone() };
        let way = match self.ask(Probing::Ways(ways), way).await {
            Ok(way) => way,
            Err(refused) => return Ok(refused),
        };
        let ears = Ears::open(token, self.local, way.other).map_err(NotAnswered::Socket)?;
        let sockets = ears.places();
        self.ears = Some(ears);
        self.echo = way.path.map(|_| echo);
        Ok(Answer::Opened(Opened { token, sockets, path: way.path }))
    }

    /// Asks the daemon; what the probe is told instead, should there be no answer.
    async fn ask<T>(&self, probing: Probing, answer: oneshot::Receiver<T>) -> Result<T, Answer> {
        self.inbox.send(Input::Probe(probing)).await.ok();
        // Without a loop, or without a policy any more, nobody answers.
        answer.await.map_err(|_gone| {
            Answer::Refused("the relay is ending, or lets this key in no more".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

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
        let notices: Vec<_> = places.iter().map(|place| Rc::clone(&place.removed)).collect();
        let mut removed = pin!(notices.first().unwrap().notified());
        let mut kept = pin!(notices.last().unwrap().notified());
        probes.borrow().end_removed(|let_in| *let_in != key(0));
        assert!(removed.as_mut().enable() && !kept.as_mut().enable());
        drop(places);
        assert!(probes.borrow().by_key.is_empty());
        assert_eq!(probes.borrow().under_way, 0);
    }

    /// A key that probes without end does not fill the log.
    #[test]
    fn the_log_tells_of_a_key_now_and_then() {
        let mut probes = Probes::default();
        let (one, other) = (PublicKey::from([1; 32]), PublicKey::from([2; 32]));
        let start = Instant::now();
        assert!(probes.is_told(one, start));
        assert!(!probes.is_told(one, start));
        assert!(probes.is_told(other, start));
        assert!(probes.is_told(one, start + TOLD_EVERY));
        assert_eq!(probes.told.len(), 1);
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
