//! The relay's status, made from what its parts know.

use std::time::Instant;

use adit::config::Admitted;
use adit::handoff::{Report, SessionReport};
use adit::status::{AdmittedStatus, ContactStatus, Memory, RelayStatus, Traffic, VERSION};

use super::Daemon;

impl Daemon {
    pub(super) fn status(&self, reports: &[Report], now: Instant) -> RelayStatus {
        let sessions = || reports.iter().flat_map(|report| &report.sessions);
        let forwarder = |admitted| self.admitted(admitted, sessions(), now);
        RelayStatus {
            version: VERSION.to_owned(),
            key: self.key.to_string(),
            listen: self.config.listen.iter().map(ToString::to_string).collect(),
            forwarders: self.config.admitted.iter().map(forwarder).collect(),
            flows: sessions().map(|session| session.flows).sum(),
            handshakes: self.door.borrow().under_way(),
            refused: self.refusals.borrow().counts(),
            memory: Memory::of(reports),
        }
    }

    fn admitted<'a>(
        &self,
        admitted: &Admitted,
        mut reports: impl Iterator<Item = &'a SessionReport>,
        now: Instant,
    ) -> AdmittedStatus {
        let key = self.sessions_by_key.get(&admitted.key);
        let session = key.and_then(|key| self.sessions.get(key)).filter(|s| s.id.is_some());
        let report = reports.find(|report| key.is_some_and(|key| key.0 == report.key));
        let leases = self.registrar.leases().filter(|lease| lease.key == admitted.key);
        let contact = |lease: &crate::registrar::Lease<_>| ContactStatus {
            peer: lease.peer.clone(),
            port: lease.contact.port(),
            lease_s: lease.kept_until().map(|until| until.duration_since(now).as_secs()),
        };
        AdmittedStatus {
            name: admitted.name.clone(),
            role: admitted.role.to_string(),
            connected: session.is_some_and(|session| session.is_carried),
            resumptions: report.map_or(0, |report| report.resumptions),
            remote: session.map(|session| session.remote.to_string()),
            session: session.and_then(|session| session.id).map(|id| id.to_string()),
            round_trip_us: report.map_or(0, |report| report.round_trip_us),
            contacts: leases.map(contact).collect(),
            flows: report.map_or(0, |report| report.flows),
            traffic: report.map(Traffic::from).unwrap_or_default(),
        }
    }
}
