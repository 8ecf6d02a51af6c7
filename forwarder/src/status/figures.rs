//! The status as Prometheus reads it, by the names of `docs/metrics.md`.

use std::collections::BTreeMap;

use super::{AdmittedStatus, ForwarderStatus, Memory, RelayStatus, Traffic, VERSION};
use crate::handoff::{ContactReport, Way};
use crate::histogram::Figure;

impl ForwarderStatus {
    /// Its figures.
    pub fn figures(&self) -> Vec<Figure> {
        let is_up = u64::from(self.carrier.state == "up");
        let registered =
            self.peers.iter().map(|peer| (peer.name.clone(), u64::from(peer.registered)));
        let mut figures = vec![
            build(),
            Figure::gauge("up", "Whether the tunnel has a carrier", is_up),
            Figure::gauge("flows", "Flows that are open", self.flows as u64),
            Figure::counter("resumptions", "Carriers that took over", self.carrier.resumptions),
            Figure::gauge("peer_registered", "Whether the peer's contact point stands", 0)
                .by("peer", registered),
        ];
        let datagrams = &self.datagrams;
        figures.extend([
            Figure::counter("datagrams_sent", "Datagrams into the tunnel", datagrams.sent),
            Figure::counter("datagrams_received", "Datagrams out of it", datagrams.received),
            Figure::counter("datagrams_dropped", "Datagrams dropped", 0)
                .by("cause", values(&datagrams.dropped)),
            Figure::counter("packets_refused", "Packets of the datagram path refused", 0)
                .by("cause", values(&datagrams.packets_refused)),
            Figure::counter("path_losses", "Losses of the datagram path", datagrams.path_losses),
        ]);
        for (name, help, figure) in TRAFFIC {
            figures.push(Figure::counter(name, help, figure(&self.traffic)));
        }
        figures.extend(contacts(&self.contacts));
        figures.extend(audit(&self.events, self.audit_lost, self.audit_unrecorded));
        figures.extend(memory(self.memory));
        figures
    }
}

impl RelayStatus {
    /// Its figures.
    pub fn figures(&self) -> Vec<Figure> {
        let each = |figure: &dyn Fn(&AdmittedStatus) -> u64| {
            let each = self.forwarders.iter().map(|one| (one.name.clone(), figure(one)));
            each.collect::<Vec<_>>().into_iter()
        };
        let mut figures = vec![
            build(),
            Figure::gauge("forwarder_up", "Whether the forwarder's session has a carrier", 0)
                .by("forwarder", each(&|one| u64::from(one.connected))),
            Figure::gauge("carriers", "Carriers of the forwarder's sessions", 0)
                .by("forwarder", each(&|one| one.carriers as u64)),
            Figure::gauge("flows", "Flows that are open", 0)
                .by("forwarder", each(&|one| one.flows as u64)),
            Figure::counter("resumptions", "Carriers that took over", 0)
                .by("forwarder", each(&|one| one.resumptions)),
            Figure::gauge("handshakes", "Handshakes under way", self.handshakes as u64),
            Figure::counter("refused", "Who or what was refused", 0)
                .by("cause", values(&self.refused)),
            Figure::counter("datagrams_sent", "Datagrams into the tunnel", 0)
                .by("forwarder", each(&|one| one.datagrams.sent)),
            Figure::counter("datagrams_received", "Datagrams out of the tunnel", 0)
                .by("forwarder", each(&|one| one.datagrams.received)),
        ];
        let volumes =
            || self.forwarders.iter().filter_map(|one| Some((one.name.clone(), one.volume?)));
        figures.extend([
            Figure::gauge("month_moved_bytes", "Bytes that the key has moved in this month", 0)
                .by("forwarder", volumes().map(|(name, volume)| (name, volume.moved))),
            Figure::gauge("month_max_bytes", "Bytes that it may move in a month", 0)
                .by("forwarder", volumes().map(|(name, volume)| (name, volume.max))),
        ]);
        let dropped = self.forwarders.iter().flat_map(|one| {
            let of = |(cause, count): (&String, &u64)| {
                (vec![("forwarder", one.name.clone()), ("cause", cause.clone())], *count)
            };
            one.datagrams.dropped.iter().map(of).collect::<Vec<_>>()
        });
        figures.push(
            Figure::counter("datagrams_dropped", "Datagrams dropped", 0).of(dropped.collect()),
        );
        for (name, help, figure) in TRAFFIC {
            let values = each(&|one| figure(&one.traffic));
            figures.push(Figure::counter(name, help, 0).by("forwarder", values));
        }
        figures.extend(contacts(&self.contacts));
        figures.extend(audit(&self.events, self.audit_lost, self.audit_unrecorded));
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

fn values(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, u64)> {
    counts.iter().map(|(name, count)| (name.clone(), *count))
}

fn build() -> Figure {
    Figure::gauge("build_info", "The version that runs", 0)
        .by("version", [(VERSION.to_owned(), 1)].into_iter())
}

/// What is counted for each contact point, whatever becomes of sessions.
fn contacts(contacts: &[ContactReport]) -> [Figure; 3] {
    let labels = |report: &ContactReport| {
        vec![("session", report.session.clone()), ("contact", report.contact.clone())]
    };
    let flows = contacts.iter().map(|report| (labels(report), report.flows)).collect();
    let bytes = contacts.iter().flat_map(|report| {
        let ways =
            [(Way::ToTunnel, report.bytes_to_tunnel), (Way::FromTunnel, report.bytes_from_tunnel)];
        ways.map(|(way, bytes)| {
            let way = vec![("way", way.name().to_owned())];
            ([labels(report), way].concat(), bytes)
        })
    });
    let limited = contacts.iter().flat_map(|report| {
        let of = |(limit, count): (&String, &u64)| {
            ([labels(report), vec![("limit", limit.clone())]].concat(), *count)
        };
        report.limited.iter().map(of).collect::<Vec<_>>()
    });
    [
        Figure::counter("contact_flows", "Flows of the contact point", 0).of(flows),
        Figure::counter("contact_bytes", "Payload bytes of the contact point", 0)
            .of(bytes.collect()),
        Figure::counter("contact_limited", "How often a limit has struck", 0).of(limited.collect()),
    ]
}

fn audit(events: &BTreeMap<String, u64>, lost: u64, unrecorded: u64) -> [Figure; 3] {
    [
        Figure::counter("events", "What happened, as in the audit log", 0)
            .by("event", values(events)),
        Figure::counter("audit_lost", "Audit lines that could not be written", lost),
        Figure::counter("audit_unrecorded", "Audit lines left out to keep the bound", unrecorded),
    ]
}

fn memory(memory: Memory) -> [Figure; 2] {
    [
        Figure::gauge("memory_held_bytes", "Buffers that hold something", memory.held as u64),
        Figure::gauge("memory_max_bytes", "Buffers that there can be", memory.max as u64),
    ]
}
