//! How much is logged, where neither the command line nor the environment says it.

use std::fmt;
use std::str::FromStr;

/// A level of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What ends something that was wanted.
    Error,
    /// And what may.
    Warn,
    /// And what an operator wants to have read afterwards.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no log level: write error, warn, info, debug or trace")
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::ForwarderConfig;

    use super::*;

    const TOP: &str = "key = \"k\"\nrelay = \"relay.example.net:443\"\n\
                       relay_key = \"ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\"\n";

    fn load(line: &str) -> Result<ForwarderConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adit.toml");
        std::fs::write(&path, format!("{TOP}{line}\n")).unwrap();
        ForwarderConfig::load(&path).map_err(|error| error.problem.to_string())
    }

    /// A level is one of five words, and a slip is not taken for the name of a part of the program; a user
    /// is a name.
    #[test]
    fn levels_and_users_are_read_and_checked() {
        let none = load("").unwrap();
        assert_eq!((none.log_level, none.user), (None, None));
        for level in LogLevel::ALL {
            let read = load(&format!("log_level = \"{level}\"")).unwrap();
            assert_eq!(read.log_level, Some(level));
        }
        assert!(load("log_level = \"inof\"").unwrap_err().contains("write error, warn, info"));
        assert_eq!(load("user = \"adit\"").unwrap().user.as_deref(), Some("adit"));
        for user in ["", "a:b", "a/b"] {
            let error = load(&format!("user = \"{user}\"")).unwrap_err();
            assert!(error.contains("such as adit"), "{error}");
        }
    }
}
