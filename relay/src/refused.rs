//! Who and what was refused: a counter for each cause, and a log line now and then. A flood of
//! strangers moves counters; it does not fill a disk with lines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit::audit::{Audit, Bound, Entry, Event};
use adit::exit::{Exit, Failed};
use adit::net::ShakeError;
use adit::tls::HandshakeError;

/// At most one line for each cause in this time.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Too many handshakes under way.
    OverLimit,
    /// No descriptor left to accept with.
    Descriptors,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The caller hung up during the handshake.
    HandshakeClosed,
    /// The caller does not speak TLS.
    NotTls,
    /// The caller speaks TLS, but is no forwarder.
    NotAdit,
    /// A forwarder whose key is not in the configuration.
    UnknownKey,
    /// A forwarder that expects another relay's key.
    OtherRelayKey,
    /// The protocol was broken, in the handshake or in the session.
    Protocol,
    /// Somebody wants to join without an invitation that is good.
    Invitation,
    /// A public contact point that the policy forbids.
    PortNotAllowed,
    /// A public contact point that somebody else has.
    PortTaken,
    /// A contact point that the system does not give.
    PortUnavailable,
    /// More contact points than a forwarder may have, or one twice.
    ContactLimit,
    /// A private name that the policy forbids.
    NameNotAllowed,
    /// A private name that somebody else has.
    NameTaken,
    /// A call of a private name that the caller may not call, or from where its owner forbids it.
    CallForbidden,
    /// A call of a private name that may be called, but that nobody has at the moment.
    CallUnknown,
    /// A call, or an address to dial, beyond what can be judged at once.
    CallLimit,
    /// An address that the relay does not dial for this key.
    DialForbidden,
    /// A host that has no address.
    DialUnresolved,
}

impl Cause {
    const ALL: [Self; 21] = [
        Self::OverLimit,
        Self::Descriptors,
        Self::HandshakeTimeout,
        Self::HandshakeClosed,
        Self::NotTls,
        Self::NotAdit,
        Self::UnknownKey,
        Self::OtherRelayKey,
        Self::Protocol,
        Self::Invitation,
        Self::PortNotAllowed,
        Self::PortTaken,
        Self::PortUnavailable,
        Self::ContactLimit,
        Self::NameNotAllowed,
        Self::NameTaken,
        Self::CallForbidden,
        Self::CallUnknown,
        Self::CallLimit,
        Self::DialForbidden,
        Self::DialUnresolved,
    ];

    /// How many lines of the audit log it may have: those that come before anybody is let in are
    /// anybody's to cause.
    fn bound(self) -> Bound {
        match self {
            Self::OverLimit
            | Self::Descriptors
            | Self::HandshakeTimeout
            | Self::HandshakeClosed
            | Self::NotTls
            | Self::NotAdit
            | Self::UnknownKey
            | Self::OtherRelayKey
            | Self::Protocol
            | Self::Invitation => Bound::OF_STRANGERS,
            _ => Bound::OF_KNOWN,
        }
    }

    /// The name in the status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OverLimit => "over_limit",
            Self::Descriptors => "descriptors",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeClosed => "handshake_closed",
            Self::NotTls => "not_tls",
            Self::NotAdit => "not_adit",
            Self::UnknownKey => "unknown_key",
            Self::OtherRelayKey => "other_relay_key",
            Self::Protocol => "protocol",
            Self::Invitation => "invitation",
            Self::PortNotAllowed => "port_not_allowed",
            Self::PortTaken => "port_taken",
            Self::PortUnavailable => "port_unavailable",
            Self::ContactLimit => "contact_limit",
            Self::NameNotAllowed => "name_not_allowed",
            Self::NameTaken => "name_taken",
            Self::CallForbidden => "call_forbidden",
            Self::CallUnknown => "call_unknown",
            Self::CallLimit => "call_limit",
            Self::DialForbidden => "dial_forbidden",
            Self::DialUnresolved => "dial_unresolved",
        }
    }
}

impl From<&ShakeError> for Cause {
    fn from(error: &ShakeError) -> Self {
        match error {
            ShakeError::TooSlow => Self::HandshakeTimeout,
            ShakeError::Closed | ShakeError::Io(_) => Self::HandshakeClosed,
            ShakeError::Handshake(HandshakeError::NotTls(_)) => Self::NotTls,
            ShakeError::Handshake(HandshakeError::NotAdit { .. }) => Self::NotAdit,
            ShakeError::Handshake(HandshakeError::UnknownPeer(_)) => Self::UnknownKey,
            ShakeError::Handshake(HandshakeError::RelayRefused) => Self::OtherRelayKey,
            ShakeError::Handshake(_) => Self::Protocol,
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    last_line: Option<Instant>,
    since_line: u64,
}

/// The counters, and the audit log.
#[derive(Debug)]
pub(crate) struct Refusals {
    tallies_by_cause: BTreeMap<Cause, Tally>,
    audit: Audit,
}

impl Refusals {
    /// All causes from the start: a counter that appears later is easily missed.
    fn new(audit: Audit) -> Self {
        let all = Cause::ALL.into_iter().map(|cause| (cause, Tally::default()));
        Self { tallies_by_cause: all.collect(), audit }
    }

    /// Counters, and an audit log at `path` if there is to be one.
    pub(crate) fn shared(path: Option<&Path>) -> Result<Rc<RefCell<Self>>, Failed> {
        let audit = Audit::open(path, &Event::OF_RELAY);
        let audit = audit.map_err(|error| Failed::new(Exit::Failure, error))?;
        Ok(Rc::new(RefCell::new(Self::new(audit))))
    }

    /// Where registrations and keys are written down, too.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Counts a refusal of `whom`, and logs it unless there was a line a moment ago.
    pub(crate) fn count(
        &mut self,
        cause: Cause,
        whom: impl Display,
        why: impl Display,
        now: Instant,
    ) {
        let fields =
            |entry: Entry| entry.with("cause", cause.name()).with("from", &whom).with("why", &why);
        self.audit.record_bounded(cause.name(), cause.bound(), Event::Refused, now, fields);
        if let Some(unlogged) = self.tally(cause, now) {
            let unlogged = Some(unlogged).filter(|count| *count > 0);
            tracing::warn!(cause = %cause.name(), from = %whom, unlogged, "refused: {why}");
        }
    }

    /// How many refusals had no line, if this one has.
    fn tally(&mut self, cause: Cause, now: Instant) -> Option<u64> {
        let tally = self.tallies_by_cause.entry(cause).or_default();
        tally.count += 1;
        let is_recent = |last| now.duration_since(last) < LINE_EVERY;
        if tally.last_line.is_some_and(is_recent) {
            tally.since_line += 1;
            return None;
        }
        tally.last_line = Some(now);
        Some(std::mem::take(&mut tally.since_line))
    }

    /// The counters by name.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let all = self.tallies_by_cause.iter();
        all.map(|(cause, tally)| (cause.name().to_owned(), tally.count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood is counted to the last one, in one line a second that says how many it stands for.
    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let mut refusals = Refusals::new(Audit::open(None, &[]).unwrap());
        let start = Instant::now();
        assert_eq!(refusals.tally(Cause::NotTls, start), Some(0));
        for _ in 0..999 {
            assert_eq!(refusals.tally(Cause::NotTls, start + LINE_EVERY / 2), None);
        }
        assert_eq!(refusals.tally(Cause::Protocol, start), Some(0), "other causes have their own");
        assert_eq!(refusals.tally(Cause::NotTls, start + LINE_EVERY), Some(999));
        assert_eq!(refusals.counts().get("not_tls"), Some(&1001));
    }

    /// Every cause is in the status from the start.
    #[test]
    fn all_causes_are_listed_from_the_start() {
        let counts = Refusals::new(Audit::open(None, &[]).unwrap()).counts();
        assert_eq!(counts.len(), Cause::ALL.len());
        assert!(counts.values().all(|count| *count == 0));
    }
}
