//! The status as Prometheus reads it.

use super::{AdmittedStatus, ForwarderStatus, Memory, RelayStatus, Traffic};
use crate::histogram::Figure;

impl ForwarderStatus {
    /// Its figures, by the names of `docs/operations.md`.
    pub fn figures(&self) -> Vec<Figure> {
        let is_up = u64::from(self.carrier.state == "up");
        let registered =
            self.peers.iter().map(|peer| (peer.name.clone(), u64::from(peer.registered)));
        let mut figures = vec![
            Figure::gauge("up", "Whether the tunnel has a carrier", is_up),
            Figure::gauge("flows", "Flows that are open", self.flows as u64),
            Figure::counter("resumptions", "Carriers that took over", self.carrier.resumptions),
            Figure::gauge("peer_registered", "Whether the peer's contact point stands", 0)
                .by("peer", registered),
        ];
        let datagrams = &self.datagrams;
        let dropped = datagrams.dropped.iter().map(|(cause, count)| (cause.clone(), *count));
        figures.extend([
            Figure::counter("datagrams_sent", "Datagrams into the tunnel", datagrams.sent),
            Figure::counter("datagrams_received", "Datagrams out of it", datagrams.received),
            Figure::counter("datagrams_dropped", "Datagrams dropped", 0).by("cause", dropped),
        ]);
        for (name, help, figure) in TRAFFIC {
            figures.push(Figure::counter(name, help, figure(&self.traffic)));
        }
        figures.extend(memory(self.memory));
        figures
    }
}

impl RelayStatus {
    /// Its figures, by the names of `docs/operations.md`.
    pub fn figures(&self) -> Vec<Figure> {
        let each = |figure: &dyn Fn(&AdmittedStatus) -> u64| {
            let each = self.forwarders.iter().map(|one| (one.name.clone(), figure(one)));
            each.collect::<Vec<_>>().into_iter()
        };
        let refused = self.refused.iter().map(|(cause, count)| (cause.clone(), *count));
        let mut figures = vec![
            Figure::gauge("forwarder_up", "Whether the forwarder's session has a carrier", 0)
                .by("forwarder", each(&|one| u64::from(one.connected))),
            Figure::gauge("flows", "Flows that are open", 0)
                .by("forwarder", each(&|one| one.flows as u64)),
            Figure::counter("resumptions", "Carriers that took over", 0)
                .by("forwarder", each(&|one| one.resumptions)),
            Figure::gauge("handshakes", "Handshakes under way", self.handshakes as u64),
            Figure::counter("refused", "Who or what was refused", 0).by("cause", refused),
        ];
        for (name, help, figure) in TRAFFIC {
            let values = each(&|one| figure(&one.traffic));
            figures.push(Figure::counter(name, help, 0).by("forwarder", values));
        }
        figures.extend(memory(self.memory));
        figures
    }
}

type OfTraffic = fn(&Traffic) -> u64;

/// What both count of their sessions.
const TRAFFIC: [(&str, &str, OfTraffic); 6] = [
    ("flows_opened", "Flows opened in the session", |traffic| traffic.flows_opened),
    ("flows_failed", "Flows refused or not connected", |traffic| traffic.flows_failed),
    ("flows_forbidden", "Callers turned away by address", |traffic| traffic.flows_forbidden),
    ("flows_over_quota", "Callers turned away by quota", |traffic| traffic.flows_over_quota),
    ("sent_bytes", "Stream bytes into the tunnel", |traffic| traffic.bytes_sent),
    ("received_bytes", "Stream bytes out of the tunnel", |traffic| traffic.bytes_received),
];

fn memory(memory: Memory) -> [Figure; 2] {
    [
        Figure::gauge("memory_held_bytes", "Buffers that hold something", memory.held as u64),
        Figure::gauge("memory_max_bytes", "Buffers that there can be", memory.max as u64),
    ]
}
