//! Times as a pump has measured them: copies, which nothing changes any more.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What a histogram has times of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// A contact point's bytes in this daemon: from their receipt to the end of the send that passes
    /// them on.
    Inside,
    /// Of that, the wait for their turn on the carrier.
    Queue,
    /// From a probe of the other end to its answer.
    RoundTrip,
    /// From the loss of a carrier, or the suspicion of one, until the other end is heard again.
    Stall,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Inside, Self::Queue, Self::RoundTrip, Self::Stall];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Queue => "queue",
            Self::RoundTrip => "round_trip",
            Self::Stall => "stall",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no measure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that is measured: write inside, queue, round_trip or stall")]
pub struct BadMeasure(String);

impl FromStr for Measure {
    type Err = BadMeasure;

    fn from_str(text: &str) -> Result<Self, BadMeasure> {
        let found = Self::ALL.into_iter().find(|measure| measure.name() == text);
        found.ok_or_else(|| BadMeasure(text.to_owned()))
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From a socket of this end into the tunnel.
    ToTunnel,
    /// From the tunnel to a socket of this end.
    FromTunnel,
}

impl Way {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ToTunnel => "to_tunnel",
            Self::FromTunnel => "from_tunnel",
        }
    }
}

/// A text that names no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way: write to_tunnel or from_tunnel")]
pub struct BadWay(String);

impl FromStr for Way {
    type Err = BadWay;

    fn from_str(text: &str) -> Result<Self, BadWay> {
        let found = [Self::ToTunnel, Self::FromTunnel].into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| BadWay(text.to_owned()))
    }
}

/// What the times of sessions are asked for by, in place of a contact point.
pub const TUNNEL: &str = "tunnel";

/// Which histograms are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Times of what; of everything without it.
    pub name: Option<Measure>,
    /// The contact point's peer, or `tunnel` for the sessions'; all without it.
    pub contact: Option<String>,
}

impl Filter {
    /// Whether a histogram is asked for.
    pub fn selects(&self, name: Measure, contact: Option<&str>) -> bool {
        self.name.is_none_or(|wanted| wanted == name)
            && self.contact.as_deref().is_none_or(|wanted| contact.unwrap_or(TUNNEL) == wanted)
    }
}

/// Whose times a histogram has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimesOf {
    /// Times of what.
    pub measure: Measure,
    /// Whom the session is with.
    pub session: Arc<str>,
    /// The contact point's peer; nothing where the times are the session's.
    pub contact: Option<Arc<str>>,
    /// Which way; nothing where the times are the session's.
    pub way: Option<Way>,
}

/// One histogram at one moment, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Times {
    /// Whose.
    pub of: TimesOf,
    /// Since the start, or the last reset.
    pub histogram: Histogram<u64>,
}
