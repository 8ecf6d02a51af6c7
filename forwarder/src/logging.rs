//! Log lines for people or for programs, one event a line, on stderr.
//!
//! Deliberately absent: files, rotation, syslog. A service manager keeps stderr better.

use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;

/// The environment's say in the log level, for when no `--log-level` is given.
pub const VARIABLE: &str = "ADIT_LOG";
/// The same in the format.
pub const FORMAT_VARIABLE: &str = "ADIT_LOG_FORMAT";

/// Puts another filter in the present one's place.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// How the level is changed while the program runs; nothing where the command line or the environment
/// has said it, which counts for more than a file.
static REPLACE: OnceLock<Replace> = OnceLock::new();

/// Starts the log that a builder describes, and tells how its filter is replaced. Each format's
/// builder is a type of its own.
macro_rules! started {
    ($builder:expr) => {{
        let builder = $builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().map_err(|error| error.to_string())?;
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    }};
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no format of a log: use text or json")),
        }
    }
}

/// What is said by its option, or else by the environment, or else nowhere; and where.
fn said<'a>(
    option: (&'static str, Option<&'a str>),
    variable: &'static str,
    environment: Option<&'a str>,
) -> Option<(&'static str, &'a str)> {
    let by_environment = environment.filter(|text| !text.is_empty()).map(|text| (variable, text));
    option.1.map(|text| (option.0, text)).or(by_environment)
}

/// Starts logging as the options say, or as `ADIT_LOG` and `ADIT_LOG_FORMAT` do, or at `usual`, in text.
///
/// # Errors
/// When the level or the format is none; the text names it.
pub fn start(level: Option<&str>, format: Option<&str>, usual: &str) -> Result<(), String> {
    let from_environment = std::env::var(VARIABLE).ok();
    let level = said(("--log-level", level), VARIABLE, from_environment.as_deref());
    let is_fixed = level.is_some();
    let (source, level) = level.unwrap_or(("the default", usual));
    let filter = EnvFilter::try_new(level).map_err(|error| {
        format!("{source} is {level:?}, which is no log level ({error}): use error, warn, info, debug or trace")
    })?;
    let from_environment = std::env::var(FORMAT_VARIABLE).ok();
    let format = said(("--log-format", format), FORMAT_VARIABLE, from_environment.as_deref());
    let format = match format {
        Some((source, text)) => text.parse().map_err(|error| format!("{source}: {error}"))?,
        None => Format::default(),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let replace: Replace = match format {
        Format::Text => started!(lines),
        Format::Json => started!(lines.json().flatten_event(true).with_current_span(false)),
    };
    if !is_fixed {
        // Once in a process, as the line above.
        REPLACE.set(replace).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An option outdoes the environment, and an empty variable says nothing.
    #[test]
    fn options_outdo_the_environment() {
        let level = |option, environment| said(("--log-level", option), VARIABLE, environment);
        assert_eq!(level(Some("debug"), Some("warn")), Some(("--log-level", "debug")));
        assert_eq!(level(None, Some("warn")), Some((VARIABLE, "warn")));
        assert_eq!(level(None, Some("")), None);
        assert!("xml".parse::<Format>().unwrap_err().contains("use text or json"));
    }
}
