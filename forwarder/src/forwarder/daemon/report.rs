//! The forwarder's status, made from what its parts know.

use std::time::Instant;

use super::{Daemon, Input};
use crate::exit::Failed;
use crate::handoff::{Command, ContactReport, Report, SessionKey};
use crate::histogram::TimesRequest;
use crate::status::{Ask, CarrierStatus, ForwarderStatus, Memory, Traffic, VERSION};

impl From<TimesRequest> for Input {
    fn from(request: TimesRequest) -> Self {
        Self::Times(request)
    }
}

impl Daemon {
    /// Answers whoever has asked how it goes.
    pub(super) fn report(&mut self, now: Instant) -> Result<(), Failed> {
        self.record_peers();
        if let Some((asks, reports)) = self.gathering.poll_answer(now) {
            let silent = self.gathering.silent(&reports);
            Ask::answer(asks, &self.status(&reports, now), silent);
        }
        if let Some((answer, reports)) = self.live.poll_answer(now) {
            let figures = self.status(&reports, now).figures();
            self.live.answer(answer, &figures, now);
        }
        let commands = self.live.handle_timeout(now);
        commands.into_iter().try_for_each(|(_, command)| self.tell(command))?;
        self.report_to_service_manager(now)
    }

    fn report_to_service_manager(&mut self, now: Instant) -> Result<(), Failed> {
        let (tunnel, error) = (&self.tunnel, self.last_error.as_deref());
        let relay = || tunnel.remote().map_or(self.name.to_string(), |remote| remote.to_string());
        self.service.set_status(|| match (tunnel.state(), error) {
            _ if self.ending.is_some() => "ending".to_owned(),
            ("up", _) => format!("tunnel up: {}", relay()),
            (state, None) => format!("no tunnel yet, {state}: {}", relay()),
            (state, Some(error)) => format!("no tunnel, {state}: {error}"),
        });
        let mut asked = self.service.handle_timeout(now).into_iter();
        asked.try_for_each(|asked| self.tell(Command::Pulse(asked)))
    }

    pub(super) fn status(&self, reports: &[Report], now: Instant) -> ForwarderStatus {
        let session = self.tunnel.session();
        let mut sessions = reports.iter().flat_map(|report| &report.sessions);
        let report = sessions.find(|report| Some(SessionKey(report.key)) == session);
        ForwarderStatus {
            version: VERSION.to_owned(),
            key: self.key.public().to_string(),
            relay: self.name.to_string(),
            carrier: CarrierStatus {
                state: self.tunnel.state().to_owned(),
                remote: self.tunnel.remote().map(|remote| remote.to_string()),
                round_trip_us: report.map_or(0, |report| report.round_trip_us),
                resumptions: report.map_or(0, |report| report.resumptions),
                last_error: self.last_error.clone(),
            },
            session: self.tunnel.id().map(|id| id.to_string()),
            peers: self.registrar.peers(now),
            flows: report.map_or(0, |report| report.flows),
            traffic: report.map(Traffic::from).unwrap_or_default(),
            datagrams: report.map(|report| report.datagrams.clone()).unwrap_or_default(),
            memory: Memory::of(reports),
            contacts: ContactReport::merged(reports.iter().flat_map(|report| &report.contacts)),
            events: self.audit.counts(),
            audit_lost: self.audit.lost(),
            audit_unrecorded: self.audit.unrecorded(),
            is_ending: self.ending.is_some(),
        }
    }
}
