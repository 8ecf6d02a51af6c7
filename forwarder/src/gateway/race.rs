//! One attempt: every address of the relay races the others, and the first behind which the relay
//! proves to be wins (RFC 8305 §5).
//!
//! ```text
//!  look-ups ──▶ candidates ──250 ms apart──▶ connecting ──▶ connected ──3 s apart──▶ authenticating ──▶ won
//!                                             │                                        │
//!                                             └ failed: the next candidate starts at once ┘
//! ```
//!
//! While a connection authenticates no further candidate starts, but those that connect already go
//! on. Should it fail, or not be done within [`PATIENCE`], the next in line is taken up beside it: a
//! SYN proxy or a captive portal that accepts for everybody and says nothing holds nobody up, and a
//! relay that is only slow can still win. Nothing is tried twice. What has not won is closed when
//! the race is dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::mem::take;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::candidates::{Candidate, Candidates};

/// The Connection Attempt Delay of RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long names that are not resolved yet hold back those that are: the Resolution Delay.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// When a name that is not resolved yet is taken to be where it was last time: the resolver may be
/// out of reach for the same reason for which the tunnel was lost.
const RECALL_DELAY: Duration = Duration::from_millis(500);
/// How long a connection may take to authenticate before others are tried beside it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an attempt may take in all.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);

/// What the parts of an attempt are made of. Each must end by itself.
pub(super) trait Dialler {
    type Connection;
    type Carrier;
    type Failure;

    /// The addresses of a place, asked for anew.
    fn look_up(&self, place: usize)
    -> impl Future<Output = Result<Vec<SocketAddr>, Self::Failure>>;

    fn connect(
        &self,
        to: Candidate,
    ) -> impl Future<Output = Result<Self::Connection, Self::Failure>>;

    /// Makes sure that the relay is at the other end.
    fn authenticate(
        &self,
        at: Candidate,
        connection: Self::Connection,
    ) -> impl Future<Output = Result<Self::Carrier, Self::Failure>>;

    /// Whether the addresses of `place` are a proxy's.
    fn is_through_proxy(&self, _place: usize) -> bool {
        false
    }

    /// The failure of an address that does not connect in time.
    fn unreachable(&self, at: Candidate) -> Self::Failure;

    /// The failure of an address that connects, and then does not authenticate in time.
    fn silent(&self, at: Candidate) -> Self::Failure;
}

/// What is known from earlier attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// The addresses of places, as they were last time.
    pub(super) known: BTreeMap<usize, Vec<SocketAddr>>,
    /// Addresses that failed last time.
    pub(super) failed: BTreeSet<SocketAddr>,
}

pub(super) struct Race<'a, D: Dialler> {
    dialler: &'a D,
    look_ups: FuturesUnordered<LocalBoxFuture<'a, Answer<D::Failure>>>,
    /// Earlier addresses of the places that are not resolved yet.
    recalled: BTreeMap<usize, Vec<SocketAddr>>,
    recall_at: Instant,
    candidates: Candidates,
    has_started: bool,
    /// Not before this time does the next candidate start.
    start_at: Instant,
    connecting: Running<'a, D::Connection, D::Failure>,
    connected: VecDeque<(Candidate, D::Connection)>,
    authenticating: Running<'a, D::Carrier, D::Failure>,
    /// The youngest connection that authenticates, and how long the others wait for it.
    awaited: Option<(Candidate, Instant)>,
    failures: Vec<D::Failure>,
    /// Addresses that failed, or took longer than the others waited.
    failed: BTreeSet<SocketAddr>,
    until: Instant,
}

struct Answer<F> {
    place: usize,
    found: Result<Vec<SocketAddr>, F>,
}

enum Event<D: Dialler> {
    Answered(Answer<D::Failure>),
    Connected(Candidate, Result<D::Connection, D::Failure>),
    Authenticated(Candidate, Result<D::Carrier, D::Failure>),
    RecallDue,
    StartDue,
    PatienceOver,
    TimeOver,
}

impl<'a, D: Dialler> Race<'a, D> {
    /// A race of all addresses of so many places. The clock runs from now on.
    pub(super) fn new(dialler: &'a D, places: usize, memory: Memory) -> Self {
        let look_up = |place| {
            async move { Answer { place, found: dialler.look_up(place).await } }.boxed_local()
        };
        let now = Instant::now();
        let mut candidates = Candidates::new(memory.failed);
        (0..places)
            .filter(|place| dialler.is_through_proxy(*place))
            .for_each(|place| candidates.keep_apart(place));
        Self {
            dialler,
            look_ups: (0..places).map(look_up).collect(),
            recalled: memory.known,
            recall_at: now + RECALL_DELAY,
            candidates,
            has_started: false,
            start_at: now + RESOLUTION_DELAY,
            connecting: Running::default(),
            connected: VecDeque::new(),
            authenticating: Running::default(),
            awaited: None,
            failures: Vec::new(),
            failed: BTreeSet::new(),
            until: now + ATTEMPT_MAX,
        }
    }

    /// Runs to the first that wins, or to the end of all.
    pub(super) async fn run(&mut self) -> Option<D::Carrier> {
        loop {
            self.start_next(Instant::now());
            if self.is_over() {
                return None;
            }
            match self.next_event().await {
                Event::Answered(answer) => self.handle_answer(answer),
                Event::Connected(at, Ok(connection)) => self.connected.push_back((at, connection)),
                Event::Connected(to, Err(failure)) => self.handle_failure(to, failure),
                Event::Authenticated(at, Ok(carrier)) => {
                    self.failed.remove(&at.address);
                    return Some(carrier);
                }
                Event::Authenticated(at, Err(failure)) => {
                    self.awaited.take_if(|(awaited, _)| *awaited == at);
                    self.handle_failure(at, failure);
                }
                Event::RecallDue => self.recall_all(),
                Event::StartDue => {}
                Event::PatienceOver => {
                    let awaited = self.awaited.take();
                    self.failed.extend(awaited.map(|(at, _)| at.address));
                }
                Event::TimeOver => {
                    self.give_up();
                    return None;
                }
            }
        }
    }

    /// What has failed so far, in order, and the addresses that had better be tried last.
    pub(super) fn into_failures(self) -> (Vec<D::Failure>, BTreeSet<SocketAddr>) {
        (self.failures, self.failed)
    }

    fn start_next(&mut self, now: Instant) {
        if self.awaited.is_some() {
            return;
        }
        if let Some((at, connection)) = self.connected.pop_front() {
            self.authenticating.push(at, self.dialler.authenticate(at, connection));
            self.awaited = Some((at, now + PATIENCE));
        } else if self.start_at <= now
            && let Some(to) = self.candidates.pop()
        {
            self.connecting.push(to, self.dialler.connect(to));
            self.has_started = true;
            self.start_at = now + ATTEMPT_DELAY;
        }
    }

    /// Whether anything could start if nobody were waited for, or has started and may do better.
    fn has_others(&self) -> bool {
        !self.candidates.is_empty() || !self.connecting.is_empty() || !self.connected.is_empty()
    }

    fn is_over(&self) -> bool {
        self.look_ups.is_empty() && self.authenticating.is_empty() && !self.has_others()
    }

    async fn next_event(&mut self) -> Event<D> {
        let may_start = self.awaited.is_none() && !self.candidates.is_empty();
        let may_recall = !self.recalled.is_empty();
        let patience_until = self.awaited.map(|(_, until)| until);
        let is_impatient = patience_until.is_some() && self.has_others();
        tokio::select! {
            biased;
            Some((at, done)) = self.authenticating.next() => Event::Authenticated(at, done),
            Some((at, done)) = self.connecting.next() => Event::Connected(at, done),
            Some(answer) = self.look_ups.next() => Event::Answered(answer),
            () = sleep_until(patience_until.unwrap_or(self.until)), if is_impatient => {
                Event::PatienceOver
            }
            () = sleep_until(self.start_at), if may_start => Event::StartDue,
            () = sleep_until(self.recall_at), if may_recall => Event::RecallDue,
            () = sleep_until(self.until) => Event::TimeOver,
        }
    }

    fn handle_answer(&mut self, Answer { place, found }: Answer<D::Failure>) {
        let recalled = self.recalled.remove(&place).unwrap_or_default();
        match found {
            Ok(addresses) => self.candidates.add(place, &addresses),
            Err(failure) => {
                self.failures.push(failure);
                self.candidates.add(place, &recalled);
            }
        }
        if self.look_ups.is_empty() && !self.has_started {
            self.start_at = Instant::now();
        }
    }

    fn recall_all(&mut self) {
        for (place, addresses) in take(&mut self.recalled) {
            self.candidates.add(place, &addresses);
        }
    }

    /// The next candidate need not wait out its delay.
    fn handle_failure(&mut self, of: Candidate, failure: D::Failure) {
        self.failed.insert(of.address);
        self.failures.push(failure);
        self.start_at = Instant::now();
    }

    fn give_up(&mut self) {
        let connected = take(&mut self.connected).into_iter().map(|(at, _)| at);
        for at in take(&mut self.authenticating.candidates).into_iter().chain(connected) {
            self.handle_failure(at, self.dialler.silent(at));
        }
        for to in take(&mut self.connecting.candidates) {
            self.handle_failure(to, self.dialler.unreachable(to));
        }
    }
}

/// Steps of the same kind that are under way, each with its candidate.
struct Running<'a, T, F> {
    steps: FuturesUnordered<LocalBoxFuture<'a, (Candidate, Result<T, F>)>>,
    candidates: Vec<Candidate>,
}

impl<T, F> Default for Running<'_, T, F> {
    fn default() -> Self {
        Self { steps: FuturesUnordered::new(), candidates: Vec::new() }
    }
}

impl<'a, T, F> Running<'a, T, F> {
    fn push(&mut self, candidate: Candidate, step: impl Future<Output = Result<T, F>> + 'a) {
        self.candidates.push(candidate);
        self.steps.push(async move { (candidate, step.await) }.boxed_local());
    }

    /// The next that is done; none when there is none under way.
    async fn next(&mut self) -> Option<(Candidate, Result<T, F>)> {
        let (candidate, done) = self.steps.next().await?;
        self.candidates.retain(|other| *other != candidate);
        Some((candidate, done))
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests;
