//! Log lines for people, one event a line, on stderr.
//!
//! Deliberately absent: files, rotation, syslog. A service manager keeps stderr better.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;

/// The environment's say in the log level, for when no `--log-level` is given.
pub const VARIABLE: &str = "ADIT_LOG";

/// Puts another filter in the present one's place.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// How the level is changed while the program runs; nothing where the command line or the environment
/// has said it, which counts for more than a file.
static REPLACE: OnceLock<Replace> = OnceLock::new();

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
    let (source, level, is_fixed) = match (level, &from_environment) {
        (Some(level), _) => ("--log-level", level, true),
        (None, Some(level)) if !level.is_empty() => (VARIABLE, level.as_str(), true),
        _ => ("the default", usual, false),
    };
    let filter = EnvFilter::try_new(level).map_err(|error| {
        format!("{source} is {level:?}, which is no log level ({error}): use error, warn, info, debug or trace")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.try_init().map_err(|error| error.to_string())?;
    if !is_fixed {
        let replace = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        // Once in a process, as the line above.
        REPLACE.set(Box::new(replace)).ok();
    }
    Ok(())
}

/// Logs at what a file says from now on, or at `info` where it says nothing; unless the command line or
/// the environment has said it.
pub fn follow(level: Option<LogLevel>) {
    let Some(replace) = REPLACE.get() else { return };
    if let Err(error) = replace(EnvFilter::new(level.unwrap_or_default().as_str())) {
        tracing::warn!("the log level stays as it is: {error}");
    }
}

/// A wait as it is said: milliseconds are enough.
pub(crate) fn rounded(wait: Duration) -> Duration {
    wait.saturating_sub(Duration::from_nanos((wait.subsec_nanos() % 1_000_000).into()))
}
