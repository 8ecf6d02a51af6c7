//! What a pump counts for each contact point, and which limits it counts by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What strikes: a part of a [`Quota`](super::Quota), or a month's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Flows at once.
    FlowsMax,
    /// New flows in a second.
    FlowsPerS,
    /// Bytes in a second.
    BytesPerS,
    /// Bytes in a month.
    BytesPerMonth,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::FlowsMax, Self::FlowsPerS, Self::BytesPerS, Self::BytesPerMonth];

    /// Its name, that of the setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::FlowsMax => "flows_max",
            Self::FlowsPerS => "flows_per_s",
            Self::BytesPerS => "bytes_per_s",
            Self::BytesPerMonth => "bytes_per_month",
        }
    }
}

/// A contact point's counters at one moment. They are those of its name, and outlive sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactReport {
    /// Whom the session is with.
    pub session: String,
    /// The contact point's peer.
    pub contact: String,
    /// Flows that were opened.
    pub flows: u64,
    /// Payload bytes from a socket of this end into the tunnel.
    pub bytes_to_tunnel: u64,
    /// Payload bytes from the tunnel for a socket of this end.
    pub bytes_from_tunnel: u64,
    /// How often each limit has struck: flows turned away or reset, waits of a stream, messages
    /// dropped.
    pub limited: BTreeMap<String, u64>,
}

impl ContactReport {
    /// All pumps' together, by name: what several have of the same one is added up.
    pub fn merged<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        let mut merged: BTreeMap<(&str, &str), Self> = BTreeMap::new();
        for report in all {
            let known = merged.entry((&report.session, &report.contact)).or_insert_with(|| Self {
                session: report.session.clone(),
                contact: report.contact.clone(),
                ..Self::default()
            });
            known.flows += report.flows;
            known.bytes_to_tunnel += report.bytes_to_tunnel;
            known.bytes_from_tunnel += report.bytes_from_tunnel;
            for (limit, count) in &report.limited {
                *known.limited.entry(limit.clone()).or_default() += count;
            }
        }
        merged.into_values().collect()
    }
}
