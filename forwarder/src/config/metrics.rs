//! `[metrics]`, which both files may have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::file::File;
use super::place::ListenAddress;
use super::{ConfigError, Problem, beside};

pub(super) const METRICS_KEYS: &[&str] = &["listen", "histogram_log", "histogram_interval_s"];

/// Seconds of an interval, unless the file says otherwise …
const INTERVAL_S: u64 = 10;
/// … and the most that it may say.
const INTERVAL_S_MAX: u64 = 86_400;

/// How what a daemon measures of itself leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where Prometheus asks, if it may.
    pub listen: Option<SocketAddr>,
    /// The interval log, if there is to be one.
    pub histogram_log: Option<PathBuf>,
    /// How long each of its intervals is.
    pub histogram_interval: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram_interval = Duration::from_secs(INTERVAL_S);
        Self { listen: None, histogram_log: None, histogram_interval }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    listen: Option<Spanned<String>>,
    histogram_log: Option<String>,
    histogram_interval_s: Option<Spanned<u64>>,
}

impl RawMetrics {
    pub(super) fn checked(&self, path: &Path, file: &File) -> Result<Metrics, ConfigError> {
        let listen = self.listen.as_ref().map(|raw| file.value::<ListenAddress>("listen", raw));
        let interval = match &self.histogram_interval_s {
            None => INTERVAL_S,
            Some(raw) if (1..=INTERVAL_S_MAX).contains(raw.get_ref()) => *raw.get_ref(),
            Some(raw) => {
                let reason = format!(
                    "{} is out of range: write 1 to {INTERVAL_S_MAX} seconds",
                    raw.get_ref()
                );
                let problem = Problem::Value { key: "histogram_interval_s", reason };
                return Err(file.error(raw.span(), problem));
            }
        };
        Ok(Metrics {
            listen: listen.transpose()?.map(|ListenAddress(address)| address),
            histogram_log: self.histogram_log.as_deref().map(|log| beside(path, log)),
            histogram_interval: Duration::from_secs(interval),
        })
    }
}
