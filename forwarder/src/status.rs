//! What a daemon says about itself: the answer to `GET /v1/status` of its [API](crate::api).

mod figures;
mod gathering;
mod ready;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::Reply;
use crate::handoff::{ContactReport, DatagramReport, Report};

pub use gathering::Gathering;
pub use table::{Table, bytes, forwarder_table, peers_table, relay_table};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A question for the daemon's status.
#[derive(Debug)]
pub enum Ask {
    /// All of it, in JSON.
    Status(Reply<String>),
    /// Whether all is as it should be.
    Condition(Reply<Condition>),
}

impl Ask {
    /// Tells all who have asked; `silent` pumps have not reported in time.
    pub fn answer(asks: Vec<Self>, status: &(impl Serialize + Ready), silent: usize) {
        let json = serde_json::to_string(status).unwrap_or_default();
        let unwell = (silent > 0)
            .then(|| format!("{silent} thread(s) of the data plane have not answered in time"));
        for ask in asks {
            match ask {
                Self::Status(reply) => reply.send(Ok(json.clone())),
                Self::Condition(reply) => {
                    let (unwell, unready) = (unwell.clone(), status.unready());
                    reply.send(Ok(Condition { unwell, unready }));
                }
            }
        }
    }
}

/// How a daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What of it does not answer.
    pub unwell: Option<String>,
    /// Why it does not do what it is there for.
    pub unready: Vec<String>,
}

/// What can say why it is not ready.
pub trait Ready {
    /// Every reason; none when it is.
    fn unready(&self) -> Vec<String>;
}

/// A forwarder, as `adit status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwarderStatus {
    /// The daemon's version.
    pub version: String,
    /// Its public key.
    pub key: String,
    /// Where it dials.
    pub relay: String,
    /// The tunnel's carrier.
    pub carrier: CarrierStatus,
    /// The session's name, while there is one.
    pub session: Option<String>,
    /// The internal peers of the configuration.
    pub peers: Vec<PeerStatus>,
    /// Open flows.
    pub flows: usize,
    /// Flows and bytes since the session began.
    pub traffic: Traffic,
    /// Datagrams, and their path.
    pub datagrams: DatagramReport,
    /// Buffers.
    pub memory: Memory,
    /// What was counted for each contact point since the start.
    #[serde(default)]
    pub contacts: Vec<ContactReport>,
    /// What happened, as in the audit log, by name.
    #[serde(default)]
    pub events: BTreeMap<String, u64>,
    /// Lines of the audit log that could not be written.
    #[serde(default)]
    pub audit_lost: u64,
    /// Lines of the audit log that were left out, to keep its bound.
    #[serde(default)]
    pub audit_unrecorded: u64,
    /// Whether it takes no more work.
    #[serde(default)]
    pub is_ending: bool,
}

/// A carrier, or the lack of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierStatus {
    /// `up`, `opening`, `dialling` or `waiting`.
    pub state: String,
    /// The relay's address.
    pub remote: Option<String>,
    /// Smoothed round trip in microseconds; 0 while unknown.
    pub round_trip_us: u64,
    /// How often another carrier has taken the session over.
    pub resumptions: u64,
    /// Why there is none, or why the last one was lost.
    pub last_error: Option<String>,
}

/// An internal peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its contact address; what the configuration asks for until it is registered.
    pub contact: String,
    /// `registered`, `asked`, `refused`, `down`, or `waiting` for the tunnel.
    pub state: String,
    /// Whether the contact point stands.
    pub registered: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// How long it stays registered without renewal, in seconds; nothing for a peer of the
    /// configuration.
    pub lease_s: Option<u64>,
    /// `good`, `failing`, or `unknown` before the first check; nothing for a peer without checks.
    pub health: Option<String>,
}

/// What has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Flows opened.
    pub flows_opened: u64,
    /// Flows refused or not connected.
    pub flows_failed: u64,
    /// Connections turned away for where they come from.
    pub flows_forbidden: u64,
    /// Connections turned away by the owner's quota.
    pub flows_over_quota: u64,
    /// Stream bytes sent into the tunnel.
    pub bytes_sent: u64,
    /// Stream bytes received from it.
    pub bytes_received: u64,
    /// Records that the other end has not acknowledged.
    pub records_retained: usize,
    /// Received bytes that no socket has taken.
    pub bytes_waiting: u64,
}

/// Bytes in buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Held at the moment.
    pub held: usize,
    /// The most there can be.
    pub max: usize,
}

/// A relay, as `adit-relay status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The daemon's version.
    pub version: String,
    /// Its public key.
    pub key: String,
    /// Where forwarders dial.
    pub listen: Vec<String>,
    /// The forwarders of the configuration.
    pub forwarders: Vec<AdmittedStatus>,
    /// Open flows of all of them.
    pub flows: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// Who or what was refused, by cause.
    pub refused: BTreeMap<String, u64>,
    /// Buffers of all pumps.
    pub memory: Memory,
    /// What was counted for each contact point since the start.
    #[serde(default)]
    pub contacts: Vec<ContactReport>,
    /// What happened, as in the audit log, by name.
    #[serde(default)]
    pub events: BTreeMap<String, u64>,
    /// Lines of the audit log that could not be written.
    #[serde(default)]
    pub audit_lost: u64,
    /// Lines of the audit log that were left out, to keep its bound.
    #[serde(default)]
    pub audit_unrecorded: u64,
    /// Where it really listens.
    #[serde(default)]
    pub listening: usize,
    /// Whether it takes no more work.
    #[serde(default)]
    pub is_ending: bool,
}

/// A forwarder that the relay lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedStatus {
    /// Its name.
    pub name: String,
    /// `forwarder` or `external`.
    pub role: String,
    /// Whether its session has a carrier.
    pub connected: bool,
    /// Its sessions that have one.
    #[serde(default)]
    pub carriers: usize,
    /// How often another carrier has taken the session over.
    pub resumptions: u64,
    /// Its address as seen from the relay.
    pub remote: Option<String>,
    /// The session's name, while there is one.
    pub session: Option<String>,
    /// Smoothed round trip in microseconds; 0 while unknown.
    pub round_trip_us: u64,
    /// Its contact points.
    pub contacts: Vec<ContactStatus>,
    /// Open flows.
    pub flows: usize,
    /// Flows and bytes since the session began.
    pub traffic: Traffic,
    /// Datagrams, and their path.
    pub datagrams: DatagramReport,
    /// What it has moved in this month, where that is limited.
    #[serde(default)]
    pub volume: Option<VolumeStatus>,
}

/// Bytes of a month, streams and datagrams, both ways together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Those that have moved.
    pub moved: u64,
    /// Those that may move in all.
    pub max: u64,
}

/// A contact point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactStatus {
    /// The internal peer's name.
    pub peer: String,
    /// What it carries: `tcp` or `udp`.
    pub protocol: String,
    /// Its port; a private one has none, and is called by the peer's name.
    pub port: Option<u16>,
    /// How long it is kept without a session, in seconds; nothing while there is one.
    pub lease_s: Option<u64>,
}

impl Memory {
    /// The sum over pumps.
    pub fn of(reports: &[Report]) -> Self {
        let held = reports.iter().map(|report| report.memory_held).sum();
        Self { held, max: reports.iter().map(|report| report.memory_max).sum() }
    }
}

impl From<&crate::handoff::SessionReport> for Traffic {
    fn from(report: &crate::handoff::SessionReport) -> Self {
        Self {
            flows_opened: report.flows_opened,
            flows_failed: report.flows_failed,
            flows_forbidden: report.flows_forbidden,
            flows_over_quota: report.flows_over_quota,
            bytes_sent: report.bytes_sent,
            bytes_received: report.bytes_received,
            records_retained: report.records_retained,
            bytes_waiting: report.bytes_waiting,
        }
    }
}
