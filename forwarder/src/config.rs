//! The configuration files of both daemons: TOML, read whole, checked whole, and refused with the
//! file and the line where something is wrong.
//!
//! Deliberately absent: defaults for what only the owner can know (keys, addresses), environment
//! variables (but for the proxy, which a system has for all its programs), includes. Paths are relative
//! to the file that names them.

mod audit;
mod file;
mod forwarder;
mod gateway;
mod log_level;
mod metrics;
mod name;
mod net;
mod outward;
#[cfg(test)]
mod packaged;
mod peer;
mod place;
mod ports;
mod quota;
mod relay;
mod reloaded;
mod token;

use std::fmt;
use std::path::{Path, PathBuf};

pub use forwarder::ForwarderConfig;
pub(crate) use gateway::ProxyKind;
pub use gateway::{BadProxy, Bind, Family, GatewayConfig, Proxy, ProxyChoice, ProxyText};
pub use log_level::LogLevel;
pub use metrics::Metrics;
pub use name::{BadName, name};
pub use net::{BadNet, Net};
pub use outward::{BadDestination, LISTENERS_MAX, Outward, To};
pub use peer::{Address, BadPeer, Peer, health};
pub use place::{BadPlace, Contact, PLACES_MAX, Place, Places};
pub use ports::{BadPorts, PortRange, Ports};
pub use quota::{BadQuota, quota};
pub use relay::{
    ADMITTED_MAX, Admitted, BadDial, BadPattern, Dial, DialTo, NamePattern, RelayConfig, Role,
    enrolled,
};
pub use reloaded::Reloaded;
pub use token::{BadSha256, Contacts, Sha256, Token};

/// Where `adit join` puts a configuration.
pub const FORWARDER_FOLDER: &str = "/etc/adit";
/// Where `adit` looks for its configuration.
pub const FORWARDER_FILE: &str = "/etc/adit/adit.toml";
/// Where `adit-relay` looks for its configuration.
pub const RELAY_FILE: &str = "/etc/adit/relay.toml";
/// The forwarder's status socket unless its file says otherwise.
pub const FORWARDER_SOCKET: &str = "/run/adit/adit.sock";
/// The relay's status socket unless its file says otherwise. Not beside the forwarder's: each daemon's
/// folder belongs to its own user.
pub const RELAY_SOCKET: &str = "/run/adit-relay/relay.sock";

/// Where the relay keeps the keys that were enrolled, unless its file says otherwise …
pub const RELAY_STATE: &str = "/var/lib/adit-relay";
/// … and the file there that has them.
pub const ENROLLED_FILE: &str = "enrolled.toml";

/// Why a configuration is refused: `adit.toml:7: what is wrong`.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, where there is one.
    pub line: Option<usize>,
    /// What is wrong there.
    pub problem: Problem,
}

impl ConfigError {
    /// Whether nothing has been configured: the file is there and says nothing.
    pub fn is_blank(&self) -> bool {
        matches!(self.problem, Problem::Blank(_))
    }

    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(&self.problem, Problem::Unreadable(why) if why.kind() == std::io::ErrorKind::NotFound)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Whether a configuration says nothing: packages come with one whose lines are all comments.
pub fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

/// What can be wrong in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is there, and nobody has written into it.
    #[error("says nothing yet, all its lines are comments: {0}")]
    Blank(&'static str),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// Not TOML, or a value of the wrong type, or one that is missing.
    #[error("{0}")]
    Syntax(String),
    /// A key that nobody reads: most likely a slip of the pen, never to be ignored.
    #[error("unknown key {key:?}: {}", hint(.nearest.as_deref(), .valid))]
    UnknownKey {
        /// The key.
        key: String,
        /// The valid key that resembles it.
        nearest: Option<String>,
        /// All keys that are valid in that place.
        valid: &'static [&'static str],
    },
    /// What must be unique is there twice.
    #[error("{what} {value:?} is used already in {first}: {cure}")]
    Duplicate {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: String,
        /// The line of its first use, with the file if that is another one.
        first: String,
        /// What to do.
        cure: &'static str,
    },
    /// A value that is not what it should be.
    #[error("{key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with its value, and what it should be.
        reason: String,
    },
}

fn hint(nearest: Option<&str>, valid: &[&str]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("valid here: {}", valid.join(", ")),
    }
}

/// `path` as seen from the directory of `file`.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}
