//! The relay's status, made from what its parts know.

use std::collections::BTreeMap;
use std::time::Instant;

use adit::config::Admitted;
use adit::exit::Failed;
use adit::handoff::{Command, ContactReport, Protocol, Report, SessionKey, SessionReport};
use adit::histogram::TimesRequest;
use adit::key::PublicKey;
use adit::status::{
    AdmittedStatus, Ask, ContactStatus, Memory, RelayStatus, Traffic, VERSION, VolumeStatus,
};

use super::{Daemon, Input, Session};

/// What one key has at the moment.
#[derive(Default)]
struct Holding<'a> {
    reports: Vec<&'a SessionReport>,
    contacts: Vec<ContactStatus>,
}

impl From<Ask> for Input {
    fn from(ask: Ask) -> Self {
        Self::Ask(ask)
    }
}

impl From<TimesRequest> for Input {
    fn from(request: TimesRequest) -> Self {
        Self::Times(request)
    }
}

impl Daemon {
    pub(super) fn measure(&mut self, request: TimesRequest, now: Instant) -> Result<(), Failed> {
        let mut commands = self.live.handle_request(request, now).into_iter();
        commands.try_for_each(|(pump, command)| self.tell(pump, command))
    }

    /// Answers whoever has asked how it goes.
    pub(super) fn report(&mut self, now: Instant) -> Result<(), Failed> {
        if let Some((asks, reports)) = self.gathering.poll_answer(now) {
            let silent = self.gathering.silent(&reports);
            Ask::answer(asks, &self.status(&reports, now), silent);
        }
        if let Some((answer, reports)) = self.live.poll_answer(now) {
            let figures = self.status(&reports, now).figures();
            self.live.answer(answer, &figures, now);
        }
        let mut commands = self.live.handle_timeout(now).into_iter();
        commands.try_for_each(|(pump, command)| self.tell(pump, command))?;
        self.report_to_service_manager(now)
    }

    /// Tells the service manager how it goes, and asks the pumps whether they turn.
    fn report_to_service_manager(&mut self, now: Instant) -> Result<(), Failed> {
        let (is_ending, sessions) = (self.ending.is_some(), self.sessions.len());
        let keys = self.config.admitted.len();
        self.service.set_status(|| match is_ending {
            true => "ending".to_owned(),
            false => format!("listening; {keys} keys are let in, {sessions} sessions"),
        });
        let mut asked = self.service.handle_timeout(now).into_iter();
        asked.try_for_each(|asked| self.tell(asked.pump, Command::Pulse(asked)))
    }

    pub(super) fn status(&self, reports: &[Report], now: Instant) -> RelayStatus {
        let sessions = || reports.iter().flat_map(|report| &report.sessions);
        let shown = self.sessions_shown();
        let holdings = self.holdings(sessions(), now);
        let mut carriers: BTreeMap<_, usize> = BTreeMap::new();
        for state in self.sessions.values().filter(|state| state.is_carried) {
            *carriers.entry(state.key).or_default() += 1;
        }
        let forwarder = |admitted: &Admitted| {
            let nothing = Holding::default();
            let holding = holdings.get(&admitted.key).unwrap_or(&nothing);
            let status = status_of(admitted, shown.get(&admitted.key).copied(), holding);
            let carriers = carriers.get(&admitted.key).copied().unwrap_or(0);
            let moved = self.volumes.moved(&admitted.key);
            let volume = admitted.bytes_per_month.map(|max| VolumeStatus { moved, max });
            AdmittedStatus { carriers, volume, ..status }
        };
        let refusals = self.refusals.borrow();
        RelayStatus {
            version: VERSION.to_owned(),
            key: self.key.to_string(),
            listen: self.config.listen.iter().map(ToString::to_string).collect(),
            forwarders: self.config.admitted.iter().map(forwarder).collect(),
            flows: sessions().map(|session| session.flows).sum(),
            handshakes: self.door.borrow().under_way(),
            refused: refusals.counts(),
            memory: Memory::of(reports),
            contacts: ContactReport::merged(reports.iter().flat_map(|report| &report.contacts)),
            events: refusals.audit().counts(),
            audit_lost: refusals.audit().lost(),
            audit_unrecorded: refusals.audit().unrecorded(),
            listening: self.listeners.len(),
            is_ending: self.ending.is_some(),
        }
    }

    /// The session that stands for all of its key's: the newest that has a carrier, or else the
    /// newest.
    pub(super) fn sessions_shown(&self) -> BTreeMap<PublicKey, (SessionKey, &Session)> {
        let mut shown: BTreeMap<_, (SessionKey, &Session)> = BTreeMap::new();
        for (&session, state) in &self.sessions {
            let older = shown.get(&state.key);
            if state.is_carried || older.is_none_or(|(_, older)| !older.is_carried) {
                shown.insert(state.key, (session, state));
            }
        }
        shown
    }

    fn holdings<'a>(
        &self,
        reports: impl Iterator<Item = &'a SessionReport>,
        now: Instant,
    ) -> BTreeMap<PublicKey, Holding<'a>> {
        let mut holdings: BTreeMap<_, Holding<'a>> = BTreeMap::new();
        for report in reports {
            if let Some(state) = self.sessions.get(&SessionKey(report.key)) {
                holdings.entry(state.key).or_default().reports.push(report);
            }
        }
        for lease in self.registrar.leases() {
            holdings.entry(lease.key).or_default().contacts.push(ContactStatus {
                peer: lease.peer.clone(),
                protocol: match lease.protocol {
                    Protocol::Tcp => "tcp".to_owned(),
                    Protocol::Udp => "udp".to_owned(),
                },
                port: lease.contact.port(),
                lease_s: lease.kept_until().map(|until| until.duration_since(now).as_secs()),
            });
        }
        holdings
    }
}

/// Sums over all sessions of a key; what cannot be summed is that of the one shown.
fn status_of(
    admitted: &Admitted,
    shown: Option<(SessionKey, &Session)>,
    holding: &Holding<'_>,
) -> AdmittedStatus {
    let reports = || holding.reports.iter().copied();
    let session = shown.map(|(_, state)| state);
    let is_shown = |report: &&SessionReport| shown.is_some_and(|(key, _)| key.0 == report.key);
    AdmittedStatus {
        name: admitted.name.clone(),
        role: admitted.role.to_string(),
        connected: session.is_some_and(|session| session.is_carried),
        resumptions: reports().map(|report| report.resumptions).sum(),
        remote: session.map(|session| session.remote.to_string()),
        session: session.and_then(|session| session.id).map(|id| id.to_string()),
        round_trip_us: reports().find(is_shown).map_or(0, |report| report.round_trip_us),
        contacts: holding.contacts.clone(),
        flows: reports().map(|report| report.flows).sum(),
        traffic: reports().map(Traffic::from).fold(Traffic::default(), sum),
        datagrams: reports()
            .find(is_shown)
            .map(|shown| shown.datagrams.clone())
            .unwrap_or_default(),
        carriers: 0,
        volume: None,
    }
}

fn sum(one: Traffic, other: Traffic) -> Traffic {
    Traffic {
        flows_opened: one.flows_opened + other.flows_opened,
        flows_failed: one.flows_failed + other.flows_failed,
        flows_forbidden: one.flows_forbidden + other.flows_forbidden,
        flows_over_quota: one.flows_over_quota + other.flows_over_quota,
        bytes_sent: one.bytes_sent + other.bytes_sent,
        bytes_received: one.bytes_received + other.bytes_received,
        records_retained: one.records_retained + other.records_retained,
        bytes_waiting: one.bytes_waiting + other.bytes_waiting,
    }
}
