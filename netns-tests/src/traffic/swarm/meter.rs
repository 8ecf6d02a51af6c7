//! What is known of one flow, and of all of them together.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How a flow ended, as this end saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Every byte came, both sums are right, and both ends said so.
    Right,
    /// We cut it ourselves, as we were told.
    Aborted,
    /// The connection was reset.
    Reset,
    /// The stream ended before its sum.
    Early,
    /// A byte, or the sum, is not what it must be; or the other end found one that is not.
    Wrong(String),
    /// Any other error of the socket.
    Broken(String),
}

#[derive(Debug)]
struct State {
    /// When the last byte came; none before the first.
    last: Option<Instant>,
    /// The longest time without a byte since the last mark, and since the beginning.
    longest: Duration,
    longest_ever: Duration,
    received: u64,
    sent: u64,
    end: Option<End>,
}

/// One flow's meter.
#[derive(Debug)]
pub(super) struct Meter {
    stream: Weak<TcpStream>,
    /// The reader has nothing more to read, for better or worse.
    over: AtomicBool,
    aborted: AtomicBool,
    state: Mutex<State>,
}

impl Meter {
    pub(super) fn new(stream: &Arc<TcpStream>) -> Self {
        let state = State {
            last: None,
            longest: Duration::ZERO,
            longest_ever: Duration::ZERO,
            received: 0,
            sent: 0,
            end: None,
        };
        Self {
            stream: Arc::downgrade(stream),
            over: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Counts received bytes; says whether they were the first.
    pub(super) fn received(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let first = state.last.is_none();
        if let Some(last) = state.last.replace(now) {
            state.longest = state.longest.max(now - last);
            state.longest_ever = state.longest_ever.max(now - last);
        }
        state.received += bytes as u64;
        first
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.state().sent += bytes as u64;
    }

    /// The reader is done.
    pub(super) fn set_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, end: End) {
        self.state().end = Some(end);
    }

    pub(super) fn end(&self) -> Option<End> {
        self.state().end.clone()
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// Makes the flow end with a reset: its threads let go of the socket, and the last close does
    /// not linger.
    pub(super) fn abort(&self) {
        let Some(stream) = self.stream.upgrade() else { return };
        self.aborted.store(true, Ordering::Release);
        let prompt = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        // Only wakes the reader; nothing of it is seen outside.
        if let Err(error) = prompt.and_then(|()| stream.shutdown(Shutdown::Read)) {
            println!("abort: {error}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every flow of this process.
#[derive(Debug, Default)]
pub(super) struct Roster {
    meters: Mutex<Vec<Arc<Meter>>>,
    enough: AtomicBool,
}

impl Roster {
    pub(super) fn add(&self, meter: &Arc<Meter>) {
        self.meters().push(Arc::clone(meter));
    }

    pub(super) fn set_enough(&self) {
        self.enough.store(true, Ordering::Release);
    }

    pub(super) fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Acquire)
    }

    pub(super) fn abort(&self) {
        self.meters().iter().for_each(|meter| meter.abort());
    }

    /// How it stands. Stalls are counted anew from here if `mark` is set, and are the longest ever
    /// otherwise.
    pub(super) fn tally(&self, mark: bool) -> Value {
        let now = Instant::now();
        let (mut ends, mut stalls) = ([0_u64; 5], Vec::new());
        let (mut open, mut received, mut sent) = (Duration::ZERO, 0, 0);
        let meters = self.meters();
        for meter in meters.iter() {
            let mut state = meter.state();
            let waiting = match (&state.end, state.last) {
                (None, Some(last)) => now - last,
                _ => Duration::ZERO,
            };
            open = open.max(waiting);
            let longest = if mark { state.longest } else { state.longest_ever };
            stalls.push(longest.max(waiting));
            if mark {
                state.longest = Duration::ZERO;
            }
            (received, sent) = (received + state.received, sent + state.sent);
            let index = match state.end {
                None => continue,
                Some(End::Right) => 0,
                Some(End::Aborted) => 1,
                Some(End::Reset) => 2,
                Some(End::Early) => 3,
                Some(End::Wrong(_) | End::Broken(_)) => 4,
            };
            ends[index] += 1;
        }
        stalls.sort_unstable();
        let at = |percent: usize| {
            let index = (stalls.len() * percent).div_ceil(100).max(1) - 1;
            stalls.get(index).map_or(0, Duration::as_millis)
        };
        json!({
            "flows": meters.len(), "received": received, "sent": sent,
            "right": ends[0], "aborted": ends[1], "resets": ends[2], "early": ends[3],
            "wrong": ends[4], "open_ms": open.as_millis(),
            "stall_p50_ms": at(50), "stall_p99_ms": at(99), "stall_max_ms": at(100),
        })
    }

    /// Flows that did not end as they should.
    pub(super) fn failures(&self) -> Vec<(usize, End)> {
        let ends = self.meters().iter().map(|meter| meter.end()).enumerate().collect::<Vec<_>>();
        ends.into_iter()
            .filter_map(|(index, end)| end.map(|end| (index, end)))
            .filter(|(_, end)| !matches!(end, End::Right | End::Aborted))
            .collect()
    }

    fn meters(&self) -> MutexGuard<'_, Vec<Arc<Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
