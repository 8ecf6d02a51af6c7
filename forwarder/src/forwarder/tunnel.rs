//! How far the tunnel has come: the session, what carries it, and when to dial.
//!
//! ```text
//!           wait is over            a carrier             WELCOME
//!  Waiting ─────────────▶ Dialling ───────────▶ Greeting ─────────▶ Idle
//!     ▲                      │ none                │ none             │ lost, suspect,
//!     └──────────────────────┴─────────────────────┴──────────────────┘ or session over
//! ```
//!
//! The session outlives its carriers, so dialling goes on beside it: a carrier that is suspect
//! stays until another has taken over (make before break).
//!
//! A state machine: time and answers come in as arguments. It is public for whoever keeps many
//! tunnels on one pump: [`Tunnel::take_over`], without a session, sets where the numbers of its sessions begin.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::frame::GoawayReason;
use adit_proto::id::SessionId;
use serde::{Deserialize, Serialize};

use crate::gateway::{Ended, Redial};
use crate::handoff::{Down, SessionKey};
use crate::key::PublicKey;
use crate::logging::rounded;

/// The tunnel as the control plane knows it.
#[derive(Debug)]
pub struct Tunnel {
    session: Option<Session>,
    carrier: Option<Carrier>,
    dial: Dial,
    /// The attempt that counts: what comes of an older one is late news.
    attempt: u64,
    /// Attempts in a row while flows wait.
    urgent_attempts: u32,
    redial: Redial,
    /// The other end of the carrier that was dialled last.
    offered: Option<(SocketAddr, PublicKey)>,
    last_session: u64,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    key: SessionKey,
    id: Option<SessionId>,
}

#[derive(Clone, Copy, Debug)]
struct Carrier {
    remote: SocketAddr,
    /// Who has proved to be there.
    relay: PublicKey,
    since: Instant,
    is_suspect: bool,
}

/// What is known of a carrier that was dialled, for the process that goes on with it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct DialledLeft {
    remote: SocketAddr,
    /// Who has proved to be there.
    pub(super) relay: PublicKey,
    age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    Idle,
    Waiting { until: Instant },
    Dialling { until: Option<Instant> },
    Greeting { until: Option<Instant> },
}

/// While flows wait, an attempt is given up for another after so long: what was sent into a hole
/// comes again only after ever longer pauses, and a new attempt knocks at once …
const URGENT_ATTEMPT: Duration = Duration::from_secs(3);
/// … but one in so many takes its time, for a line on which everything does.
const PATIENT_EVERY: u32 = 6;

impl Tunnel {
    /// Nothing yet; the first attempt is due at once.
    pub fn new(now: Instant) -> Self {
        Self {
            session: None,
            carrier: None,
            dial: Dial::Waiting { until: now },
            attempt: 0,
            urgent_attempts: 0,
            redial: Redial::default(),
            offered: None,
            last_session: 0,
        }
    }

    /// Goes on with a session that another process had, without a carrier: the first attempt is due at
    /// once.
    pub fn take_over(&mut self, session: Option<(SessionKey, SessionId)>, last: u64) {
        self.session = session.map(|(key, id)| Session { key, id: Some(id) });
        self.last_session = last;
    }

    /// Goes on with its carrier as well: none has to be dialled.
    pub(super) fn take_over_carrier(&mut self, left: DialledLeft, now: Instant) {
        let DialledLeft { remote, relay, age } = left;
        let since = now.checked_sub(age).unwrap_or(now);
        self.carrier = Some(Carrier { remote, relay, since, is_suspect: false });
        self.dial = Dial::Idle;
    }

    /// The carrier, for the process that takes over.
    pub(super) fn leave_carrier(&self, now: Instant) -> Option<DialledLeft> {
        let Carrier { remote, relay, since, .. } = self.carrier?;
        Some(DialledLeft { remote, relay, age: now.saturating_duration_since(since) })
    }

    /// The number of the last session that was begun.
    pub(super) fn last_session(&self) -> u64 {
        self.last_session
    }

    /// The session, from its first carrier's greeting to its end.
    pub(super) fn session(&self) -> Option<SessionKey> {
        self.session.map(|session| session.key)
    }

    /// Whether events of `session` concern this tunnel: those of older ones are late news.
    pub fn is_current(&self, session: SessionKey) -> bool {
        self.session() == Some(session)
    }

    /// The session's name on the wire, once `WELCOME` has told it.
    pub(super) fn id(&self) -> Option<SessionId> {
        self.session.and_then(|session| session.id)
    }

    /// The present carrier's other end, or that of the one under way.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.carrier.map(|carrier| carrier.remote).or(self.greeted().map(|(remote, _)| remote))
    }

    /// The other end of the carrier that is under way.
    fn greeted(&self) -> Option<(SocketAddr, PublicKey)> {
        self.offered.filter(|_| matches!(self.dial, Dial::Greeting { .. }))
    }

    /// Whether somebody is at the other end, or about to be, whom `is_known` does not know.
    pub(super) fn has_stranger(&self, is_known: impl Fn(&PublicKey) -> bool) -> bool {
        let carrier = self.carrier.map(|carrier| carrier.relay);
        let greeted = self.greeted().map(|(_, relay)| relay);
        carrier.iter().chain(&greeted).any(|relay| !is_known(relay))
    }

    /// For people: `up`, `suspect`, `opening`, `dialling` or `waiting`.
    pub(super) fn state(&self) -> &'static str {
        match (self.carrier, self.dial) {
            (Some(carrier), _) if !carrier.is_suspect => "up",
            (Some(_), _) => "suspect",
            (None, Dial::Greeting { .. }) => "opening",
            (None, Dial::Dialling { .. }) => "dialling",
            (None, _) => "waiting",
        }
    }

    /// When the next attempt is due, if one is.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.dial {
            Dial::Waiting { until } => Some(until),
            Dial::Dialling { until } | Dial::Greeting { until } => until,
            Dial::Idle => None,
        }
    }

    /// Whether to dial now, in place of any attempt under way; if so, the attempt's number.
    pub fn poll_dial(&mut self, now: Instant) -> Option<u64> {
        self.poll_timeout().filter(|until| *until <= now)?;
        let is_patient = self.urgent_attempts % PATIENT_EVERY == PATIENT_EVERY - 1;
        let is_urgent = self.is_urgent();
        self.urgent_attempts = if is_urgent { self.urgent_attempts + 1 } else { 0 };
        let until = (is_urgent && !is_patient).then(|| now + URGENT_ATTEMPT);
        self.dial = Dial::Dialling { until };
        self.attempt += 1;
        Some(self.attempt)
    }

    /// Flows wait for a carrier.
    fn is_urgent(&self) -> bool {
        self.id().is_some()
    }

    /// Whether the attempt still counts.
    pub fn is_awaited(&self, attempt: u64) -> bool {
        attempt == self.attempt && matches!(self.dial, Dial::Dialling { .. })
    }

    /// The attempt has brought a carrier; returns the session to offer it to.
    pub fn handle_dialled(&mut self, remote: SocketAddr, relay: PublicKey) -> SessionKey {
        let until = match self.dial {
            Dial::Dialling { until } => until,
            _ => None,
        };
        self.dial = Dial::Greeting { until };
        self.offered = Some((remote, relay));
        let session = self.session.get_or_insert_with(|| {
            self.last_session += 1;
            Session { key: SessionKey(self.last_session), id: None }
        });
        session.key
    }

    /// The attempt has come to nothing; returns how long to wait for the next, if one is wanted.
    pub fn handle_not_dialled(&mut self, ended: Ended, now: Instant) -> Option<Duration> {
        self.dial = Dial::Idle;
        // Who had a session knows that the key is good: somebody else answers, for the moment.
        let is_strange = ended == Ended::Denied && self.is_urgent();
        self.wait_unless_well(if is_strange { Ended::Failed } else { ended }, now)
    }

    /// The session has begun, or goes on, on the carrier that was dialled last.
    pub fn handle_up(&mut self, id: SessionId, now: Instant) {
        if let (Some(session), Some((remote, relay))) = (&mut self.session, self.offered) {
            session.id = Some(id);
            self.carrier = Some(Carrier { remote, relay, since: now, is_suspect: false });
            self.dial = Dial::Idle;
            self.urgent_attempts = 0;
        }
    }

    /// The session has no carrier any more; returns how long to wait before dialling.
    pub fn handle_lost(&mut self, now: Instant) -> Option<Duration> {
        let lived = self.carrier.take().map(|carrier| now.duration_since(carrier.since));
        if matches!(self.dial, Dial::Dialling { .. } | Dial::Greeting { .. }) {
            // Another carrier is on its way already.
            return None;
        }
        Some(self.wait(lived.map_or(Ended::Failed, Ended::Lost), now))
    }

    /// The carrier does not answer in time, or does so again.
    pub fn handle_suspect(&mut self, is_suspect: bool, now: Instant) {
        let Some(carrier) = &mut self.carrier else { return };
        carrier.is_suspect = is_suspect;
        match self.dial {
            Dial::Idle if is_suspect => self.dial = Dial::Waiting { until: now },
            Dial::Waiting { .. } if !is_suspect => self.dial = Dial::Idle,
            _ => {}
        }
    }

    /// The network of this host has changed: whatever was waited for may be there now, and an
    /// attempt under way may go out by an address that is gone.
    pub(super) fn handle_network_change(&mut self, now: Instant) {
        if self.dial != Dial::Idle {
            self.dial = Dial::Waiting { until: now };
        }
    }

    /// The carrier that was offered came to nothing; returns how long to wait for the next, if one
    /// is wanted.
    pub fn handle_dropped(&mut self, now: Instant) -> Option<Duration> {
        if !matches!(self.dial, Dial::Greeting { .. }) {
            return None;
        }
        self.dial = Dial::Idle;
        self.wait_unless_well(Ended::Failed, now)
    }

    /// The session is over; returns how long to wait before another is begun.
    pub fn handle_down(&mut self, why: &Down, now: Instant) -> Duration {
        let carrier = self.carrier.take();
        self.session = None;
        let is_serving = matches!(self.dial, Dial::Dialling { .. });
        let ended = match (why, carrier) {
            (Down::Denied | Down::Goaway(GoawayReason::Revoked, _), _) => Ended::Denied,
            (Down::Goaway(GoawayReason::Superseded, _), _) => Ended::Superseded,
            (_, Some(carrier)) => Ended::Lost(now.duration_since(carrier.since)),
            (_, None) => Ended::Failed,
        };
        if is_serving && matches!(ended, Ended::Lost(_) | Ended::Failed) {
            // The attempt under way serves the next session as well.
            return Duration::ZERO;
        }
        self.wait(ended, now)
    }

    fn wait_unless_well(&mut self, ended: Ended, now: Instant) -> Option<Duration> {
        let is_well = self.carrier.is_some_and(|carrier| !carrier.is_suspect);
        (!is_well).then(|| self.wait(ended, now))
    }

    fn wait(&mut self, ended: Ended, now: Instant) -> Duration {
        let wait = self.redial.wait(ended, self.is_urgent());
        self.dial = Dial::Waiting { until: now + wait };
        rounded(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);
    const ID: SessionId = SessionId([7; 16]);

    fn relay(key: u8) -> PublicKey {
        [key; 32].into()
    }

    fn up(now: Instant) -> Tunnel {
        let mut tunnel = Tunnel::new(now);
        assert!(tunnel.poll_dial(now).is_some());
        tunnel.handle_dialled(REMOTE, relay(1));
        tunnel.handle_up(ID, now);
        tunnel
    }

    /// A session keeps its name over its carriers.
    #[test]
    fn a_lost_carrier_is_dialled_for_the_same_session_at_once() {
        let now = Instant::now();
        let mut tunnel = up(now);
        let session = tunnel.session();
        let later = now + Duration::from_secs(5);
        assert_eq!(tunnel.handle_lost(later), Some(Duration::ZERO));
        assert!(tunnel.poll_dial(later).is_some());
        assert_eq!(Some(tunnel.handle_dialled(REMOTE, relay(1))), session);
        tunnel.handle_up(ID, later);
        assert_eq!((tunnel.state(), tunnel.poll_timeout()), ("up", None));
    }

    /// A carrier that is only suspect stays; when it answers again, no other is wanted.
    #[test]
    fn a_suspect_carrier_is_dialled_for_and_kept_when_it_answers() {
        let now = Instant::now();
        let mut tunnel = up(now);
        tunnel.handle_suspect(true, now);
        assert_eq!(tunnel.state(), "suspect");
        assert!(tunnel.poll_dial(now).is_some());
        tunnel.handle_dialled(REMOTE, relay(1));
        tunnel.handle_suspect(false, now);
        assert_eq!(tunnel.handle_dropped(now), None);
        assert_eq!((tunnel.state(), tunnel.poll_timeout()), ("up", None));
    }

    /// While a carrier is suspect, attempts that fail are repeated.
    #[test]
    fn attempts_go_on_while_the_carrier_is_suspect() {
        let now = Instant::now();
        let mut tunnel = up(now);
        tunnel.handle_suspect(true, now);
        assert!(tunnel.poll_dial(now).is_some());
        let wait = tunnel.handle_not_dialled(Ended::Failed, now).unwrap();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
        assert!(tunnel.poll_timeout().is_some());
    }

    /// Who was overtaken by another with the same key does not take the session back at once.
    #[test]
    fn a_superseded_session_is_waited_out() {
        let now = Instant::now();
        let mut tunnel = up(now);
        let why = Down::Goaway(GoawayReason::Superseded, String::new());
        assert!(tunnel.handle_down(&why, now) >= Duration::from_secs(5));
        assert_eq!((tunnel.session(), tunnel.state()), (None, "waiting"));
    }

    /// One attempt at a time, whatever happens meanwhile.
    #[test]
    fn a_carrier_lost_while_dialling_is_not_dialled_for_twice() {
        let now = Instant::now();
        let mut tunnel = up(now);
        tunnel.handle_suspect(true, now);
        assert!(tunnel.poll_dial(now).is_some());
        assert_eq!(tunnel.handle_lost(now), None);
        assert_eq!(tunnel.poll_dial(now + Duration::from_secs(1)), None);
        tunnel.handle_down(&Down::Grace, now);
        assert_eq!(tunnel.poll_dial(now + Duration::from_secs(1)), None);
    }

    /// Whose session was taken over does not take it back by an attempt that was under way.
    #[test]
    fn a_superseded_session_discards_the_attempt_under_way() {
        let now = Instant::now();
        let mut tunnel = up(now);
        tunnel.handle_suspect(true, now);
        let attempt = tunnel.poll_dial(now).unwrap();
        let why = Down::Goaway(GoawayReason::Superseded, String::new());
        assert!(tunnel.handle_down(&why, now) >= Duration::from_secs(5));
        assert!(!tunnel.is_awaited(attempt));
    }

    /// While flows wait, an attempt that hangs is given up for another; now and then one may take
    /// its time.
    #[test]
    fn an_attempt_that_hangs_is_repeated_while_flows_wait() {
        let mut now = Instant::now();
        let mut tunnel = up(now);
        now += Duration::from_secs(5);
        tunnel.handle_lost(now);
        let first = tunnel.poll_dial(now).unwrap();
        for _ in 1..PATIENT_EVERY {
            assert_eq!(tunnel.poll_dial(now), None);
            now += URGENT_ATTEMPT;
            assert!(tunnel.poll_dial(now).is_some());
        }
        assert!(!tunnel.is_awaited(first));
        assert_eq!(tunnel.poll_dial(now + Duration::from_secs(60)), None);
    }

    /// An attempt that goes out by an address that is gone is not waited for.
    #[test]
    fn a_network_change_replaces_the_attempt_under_way() {
        let now = Instant::now();
        let mut tunnel = Tunnel::new(now);
        let first = tunnel.poll_dial(now).unwrap();
        tunnel.handle_network_change(now);
        let second = tunnel.poll_dial(now).unwrap();
        assert!(tunnel.is_awaited(second) && !tunnel.is_awaited(first));
    }

    /// An impostor that answers while the relay is out of reach is no refusal by the relay.
    #[test]
    fn a_stranger_that_answers_during_an_outage_is_not_waited_out() {
        let begun = Instant::now();
        let mut tunnel = up(begun);
        let now = begun + Duration::from_secs(5);
        tunnel.handle_lost(now);
        tunnel.poll_dial(now).unwrap();
        let wait = tunnel.handle_not_dialled(Ended::Denied, now).unwrap();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
    }

    /// Whose key is not known any more is a stranger, before the greeting and after it; who was there
    /// before a successor took over is none.
    #[test]
    fn a_stranger_is_known_by_its_key() {
        let now = Instant::now();
        let mut tunnel = up(now);
        let is = |known: u8| move |key: &PublicKey| *key == relay(known);
        assert!(tunnel.has_stranger(is(2)) && !tunnel.has_stranger(is(1)));
        tunnel.handle_suspect(true, now);
        tunnel.poll_dial(now).unwrap();
        tunnel.handle_dialled(REMOTE, relay(2));
        assert!(tunnel.has_stranger(is(1)) && tunnel.has_stranger(is(2)));
        tunnel.handle_up(ID, now);
        assert!(tunnel.has_stranger(is(1)) && !tunnel.has_stranger(is(2)));
        tunnel.handle_lost(now);
        assert!(!tunnel.has_stranger(is(1)));
    }

    /// A change of the network ends a wait.
    #[test]
    fn a_network_change_ends_the_wait() {
        let now = Instant::now();
        let mut tunnel = up(now);
        tunnel.handle_down(&Down::Silent, now);
        tunnel.handle_network_change(now);
        assert!(tunnel.poll_dial(now).is_some());
    }
}
