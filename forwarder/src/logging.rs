//! Log lines for people, one event a line, on stderr.
//!
//! Deliberately absent: files, rotation, syslog. A service manager keeps stderr better.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// The environment's say in the log level, for when no `--log-level` is given.
pub const VARIABLE: &str = "ADIT_LOG";

/// Starts logging at `level`, or at what `ADIT_LOG` says, or at `info`.
///
/// # Errors
/// When the level is none that tracing knows; the text names it.
pub fn start(level: Option<&str>) -> Result<(), String> {
    start_at(level, "info")
}

/// The same, or at `usual`.
///
/// # Errors
/// As of [`start`].
pub fn start_at(level: Option<&str>, usual: &str) -> Result<(), String> {
    let from_environment = std::env::var(VARIABLE).ok();
    let (source, level) = match (level, &from_environment) {
        (Some(level), _) => ("--log-level", level),
        (None, Some(level)) if !level.is_empty() => (VARIABLE, level.as_str()),
        _ => ("the default", usual),
    };
    let filter = EnvFilter::try_new(level).map_err(|error| {
        format!("{source} is {level:?}, which is no log level ({error}): use error, warn, info, debug or trace")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| error.to_string())
}

/// A wait as it is said: milliseconds are enough.
pub(crate) fn rounded(wait: Duration) -> Duration {
    wait.saturating_sub(Duration::from_nanos((wait.subsec_nanos() % 1_000_000).into()))
}
