//! Points in time that two hosts can speak about.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The last second of the year 9999: what comes later has no text.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Seconds since 1970. Shown as `2026-01-31T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct UnixTime(u64);

impl UnixTime {
    /// So many seconds after 1970 began; the year 9999 is the last.
    pub const fn new(seconds: u64) -> Self {
        Self(if seconds < SECONDS_MAX { seconds } else { SECONDS_MAX })
    }

    /// What this host's clock says.
    pub fn now() -> Self {
        // A clock before 1970 is as wrong as one that stands there.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::new(since.as_secs())
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// So many seconds later.
    pub fn plus(self, seconds: u64) -> Self {
        Self::new(self.0.saturating_add(seconds))
    }
}

impl From<u64> for UnixTime {
    fn from(seconds: u64) -> Self {
        Self::new(seconds)
    }
}

impl From<UnixTime> for u64 {
    fn from(time: UnixTime) -> Self {
        time.0
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_secs(self.0);
        write!(f, "{}", humantime::format_rfc3339_seconds(time))
    }
}
