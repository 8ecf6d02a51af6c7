//! The forwarder's status, made from what its parts know.

use std::time::Instant;

use super::Daemon;
use crate::handoff::{Report, SessionKey};
use crate::status::{CarrierStatus, ForwarderStatus, Memory, Traffic, VERSION};

impl Daemon {
    pub(super) fn status(&self, reports: &[Report], now: Instant) -> ForwarderStatus {
        let session = self.tunnel.session();
        let mut sessions = reports.iter().flat_map(|report| &report.sessions);
        let report = sessions.find(|report| Some(SessionKey(report.key)) == session);
        ForwarderStatus {
            version: VERSION.to_owned(),
            key: self.key.to_string(),
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
        }
    }
}
