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

#[cfg(test)]
mod tests {
    use crate::config::ForwarderConfig;

    use super::*;

    const TOP: &str = "key = \"k\"\nrelay = \"relay.example.net:443\"\n\
                       relay_key = \"ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\"\n";

    fn load(table: &str) -> Result<Metrics, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit.toml");
        std::fs::write(&path, format!("{TOP}{table}")).unwrap();
        let config = ForwarderConfig::load(&path);
        let log = |log: PathBuf| log.strip_prefix(folder.path()).unwrap().to_owned();
        let config = config.map_err(|error| error.problem.to_string())?;
        let histogram_log = config.metrics.histogram_log.map(log);
        Ok(Metrics { histogram_log, ..config.metrics })
    }

    /// What is said is read, paths as seen from the file; what is not said is off; and what is wrong
    /// is named.
    #[test]
    fn metrics_are_read_and_checked() {
        assert_eq!(load("").unwrap(), Metrics::default());
        let all = "[metrics]\nlisten = \"127.0.0.1:9464\"\nhistogram_log = \"adit.hlog\"\n\
                   histogram_interval_s = 60\n";
        let expected = Metrics {
            listen: Some("127.0.0.1:9464".parse().unwrap()),
            histogram_log: Some("adit.hlog".into()),
            histogram_interval: Duration::from_secs(60),
        };
        assert_eq!(load(all).unwrap(), expected);
        let refused = [
            ("listen = \"9464\"", "no address to listen on"),
            ("histogram_interval_s = 0", "write 1 to 86400 seconds"),
            ("listn = \"127.0.0.1:1\"", "did you mean \"listen\"?"),
        ];
        for (line, said) in refused {
            let error = load(&format!("[metrics]\n{line}\n")).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
