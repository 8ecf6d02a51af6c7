//! What is drawn: the daemon as it is, and what has moved since it was looked at before.

use std::time::Instant;

use crate::handoff::Measure;
use crate::histogram::{Histograms, Shown, TUNNEL, spark, time};
use crate::status::{ForwarderStatus, RelayStatus, bytes};

/// The daemon at one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    at: Instant,
    /// What it is, and how it is.
    heading: Vec<String>,
    flows: usize,
    sent: u64,
    received: u64,
    /// Peers, or forwarders, with their state.
    states: Vec<(String, String)>,
    histograms: Vec<Shown>,
}

/// A picture of it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) heading: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// Why the picture is old.
    pub(super) trouble: Option<String>,
}

/// One histogram's line.
#[derive(Clone, Debug)]
pub(super) struct Row(pub(super) [String; 9]);

/// What the columns of a [`Row`] are.
pub(super) const COLUMNS: [&str; 9] =
    ["OF", "STATE", "MEASURE", "WAY", "RATE", "P50", "P99", "MAX", "1 µs … 1 s"];

impl Seen {
    pub(super) fn of_forwarder(
        status: &ForwarderStatus,
        histograms: Histograms,
        at: Instant,
    ) -> Self {
        let carrier = &status.carrier;
        let to = carrier.remote.as_ref().map_or(String::new(), |remote| format!(" to {remote}"));
        let mut heading = vec![
            format!("adit {}, relay {}", status.version, status.relay),
            format!(
                "carrier   {}{to}, round trip {}, {} resumptions",
                carrier.state,
                time(carrier.round_trip_us * 1_000),
                carrier.resumptions
            ),
        ];
        heading.extend(carrier.last_error.as_ref().map(|error| format!("last lost {error}")));
        let states = status.peers.iter().map(|peer| (peer.name.clone(), peer.state.clone()));
        Self {
            at,
            heading,
            flows: status.flows,
            sent: status.traffic.bytes_sent,
            received: status.traffic.bytes_received,
            states: states.collect(),
            histograms: histograms.histograms,
        }
    }

    pub(super) fn of_relay(status: &RelayStatus, histograms: Histograms, at: Instant) -> Self {
        let forwarders = || status.forwarders.iter();
        let connected = forwarders().filter(|forwarder| forwarder.connected).count();
        let listen = status.listen.join(", ");
        let heading = vec![
            format!("adit-relay {}, listening on {listen}", status.version),
            format!(
                "carriers  {connected} of {} forwarders, {} handshakes under way",
                status.forwarders.len(),
                status.handshakes
            ),
        ];
        let state = |connected| if connected { "connected" } else { "away" }.to_owned();
        let states = forwarders().map(|one| (one.name.clone(), state(one.connected)));
        let traffic = || forwarders().map(|forwarder| forwarder.traffic);
        Self {
            at,
            heading,
            flows: status.flows,
            sent: traffic().map(|traffic| traffic.bytes_sent).sum(),
            received: traffic().map(|traffic| traffic.bytes_received).sum(),
            states: states.collect(),
            histograms: histograms.histograms,
        }
    }

    /// The state of the peer, or of the forwarder that it belongs to.
    fn state_of(&self, shown: &Shown) -> String {
        let named = |name: &str| self.states.iter().find(|(known, _)| known == name);
        let found = shown.contact.as_deref().and_then(named).or_else(|| named(&shown.session));
        found.map_or_else(|| "-".to_owned(), |(_, state)| state.clone())
    }
}

impl View {
    /// The picture of `seen`; with what was seen before it also has rates.
    pub(super) fn new(seen: &Seen, before: Option<&Seen>) -> Self {
        let ms = before.map(|before| seen.at.saturating_duration_since(before.at).as_millis());
        let ms = ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let per_s = |now: u64, then: u64| Some(now.saturating_sub(then) * 1_000 / ms?);
        let rate = |now, then: fn(&Seen) -> u64| {
            let per_s = before.and_then(|before| per_s(now, then(before)));
            per_s.map_or("-".to_owned(), |rate| format!("{}/s", bytes(rate)))
        };
        let mut heading = seen.heading.clone();
        heading.push(format!(
            "flows     {} open; to the tunnel {} ({} in all), from it {} ({} in all)",
            seen.flows,
            rate(seen.sent, |seen| seen.sent),
            bytes(seen.sent),
            rate(seen.received, |seen| seen.received),
            bytes(seen.received)
        ));
        let row = |shown: &Shown| {
            let is_same = |other: &&Shown| {
                (other.name, other.way) == (shown.name, shown.way)
                    && (&other.session, &other.contact) == (&shown.session, &shown.contact)
            };
            let then = before.and_then(|before| before.histograms.iter().find(is_same));
            let rate = before.and_then(|_| per_s(shown.count, then.map_or(0, |then| then.count)));
            Row::new(seen, shown, rate)
        };
        // Of a stall that never was there is nothing to see.
        let is_shown = |shown: &&Shown| shown.count > 0 || shown.name == Measure::Inside;
        let rows = seen.histograms.iter().filter(is_shown).map(row).collect();
        Self { heading, rows, trouble: None }
    }
}

impl Row {
    fn new(seen: &Seen, shown: &Shown, per_s: Option<u64>) -> Self {
        let at = |value| if shown.count == 0 { "-".to_owned() } else { time(value) };
        let of = shown.contact.clone().unwrap_or_else(|| format!("{TUNNEL} {}", shown.session));
        let spark = shown.times().map_or(String::new(), |times| spark(&times.histogram));
        Self([
            of,
            seen.state_of(shown),
            shown.name.to_string(),
            shown.way.map_or("-", crate::handoff::Way::name).to_owned(),
            per_s.map_or("-".to_owned(), |rate| format!("{rate}/s")),
            at(shown.p50),
            at(shown.p99),
            at(shown.max),
            spark,
        ])
    }
}
