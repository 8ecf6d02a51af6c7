//! The relay's file.

mod admitted;
mod dial;
mod pattern;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use adit_proto::limits::{GRACE, GRACE_MAX, GRACE_MIN};
use serde::Deserialize;
use toml::Spanned;

pub use admitted::{ADMITTED_MAX, Admitted, Role, enrolled};
pub use dial::{BadDial, Dial, DialTo};
pub use pattern::{BadPattern, NamePattern};

use super::audit::{AUDIT_KEYS, RawAudit};
use super::file::{File, OneOrMany, Schema};
use super::forwarder::{places, user};
use super::metrics::{METRICS_KEYS, Metrics, RawMetrics};
use super::place::ListenAddress;
use super::{
    ConfigError, ENROLLED_FILE, LogLevel, Places, Problem, RELAY_SOCKET, RELAY_STATE, Reloaded,
    beside,
};
use admitted::{EXTERNAL_KEYS, FORWARDER_KEYS, Known, RawAdmitted};

pub(super) static SCHEMA: Schema = Schema {
    top: &[
        "key",
        "listen",
        "address",
        "contact_address",
        "socket",
        "state",
        "user",
        "log_level",
        "datagram_path",
        "session",
        "forwarder",
        "external",
        "metrics",
        "audit",
    ],
    tables: &[
        ("session", &["grace_s"]),
        ("forwarder", FORWARDER_KEYS),
        ("external", EXTERNAL_KEYS),
        ("metrics", METRICS_KEYS),
        ("audit", AUDIT_KEYS),
    ],
};

/// What to do about a file of comments.
const HOW_TO_FILL: &str =
    "write at least key and listen, and make the key with `adit-relay keygen`";

/// What the relay is told by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Where its private key lies.
    pub key: PathBuf,
    /// Where forwarders dial.
    pub listen: Vec<SocketAddr>,
    /// Where forwarders reach it from outside, for invitations.
    pub address: Option<Places>,
    /// Where public contact points listen; every address of both families without it.
    pub contact_address: Option<IpAddr>,
    /// Where `adit-relay status` asks.
    pub socket: PathBuf,
    /// The folder where enrolled keys and open invitations are kept.
    pub state: PathBuf,
    /// Who it becomes when it is started as root.
    pub user: Option<String>,
    /// How much it logs, unless its command line or its environment say so.
    pub log_level: Option<LogLevel>,
    /// How long a session waits for its forwarder to come back.
    pub grace: Duration,
    /// Whether sessions are offered a datagram path over UDP.
    pub datagram_path: bool,
    /// How what it measures leaves it.
    pub metrics: Metrics,
    /// Where what happens to registrations and keys is written down, if it is.
    pub audit: Option<PathBuf>,
    /// Who is let in and may do what: those of the file, and then those that were enrolled.
    pub admitted: Vec<Admitted>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    key: Spanned<String>,
    listen: Spanned<OneOrMany>,
    address: Option<Spanned<OneOrMany>>,
    contact_address: Option<Spanned<String>>,
    socket: Option<String>,
    state: Option<String>,
    user: Option<Spanned<String>>,
    log_level: Option<Spanned<String>>,
    datagram_path: Option<bool>,
    #[serde(default)]
    session: RawSession,
    #[serde(default)]
    forwarder: Vec<RawAdmitted>,
    #[serde(default)]
    external: Vec<RawAdmitted>,
    #[serde(default)]
    metrics: RawMetrics,
    audit: Option<RawAudit>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSession {
    grace_s: Option<Spanned<u64>>,
}

impl RelayConfig {
    /// Every key that the file may have, with its table; those at the top have none.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SCHEMA.keys()
    }

    /// Reads and checks `path`, and the enrolled keys of its state folder.
    ///
    /// # Errors
    /// With the file, the line, and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = File::read(path)?;
        file.refuse_blank(HOW_TO_FILL)?;
        let raw: Raw = file.parse(&SCHEMA)?;
        let contact_address = match &raw.contact_address {
            Some(address) => Some(file.value::<Ip>("contact_address", address)?.0),
            None => None,
        };
        let address = raw.address.as_ref().map(|raw| places(&file, "address", raw)).transpose()?;
        let state = beside(path, raw.state.as_deref().unwrap_or(RELAY_STATE));
        let mut known = Known::default();
        known.add(&file, Role::Forwarder, &raw.forwarder)?;
        known.add(&file, Role::External, &raw.external)?;
        known.read_enrolled(&state.join(ENROLLED_FILE))?;
        Ok(Self {
            key: beside(path, raw.key.get_ref()),
            listen: listen(&file, &raw.listen)?,
            address,
            contact_address,
            socket: beside(path, raw.socket.as_deref().unwrap_or(RELAY_SOCKET)),
            user: user(&file, raw.user.as_ref())?,
            log_level: file.optional("log_level", raw.log_level.as_ref())?,
            datagram_path: raw.datagram_path.unwrap_or(true),
            metrics: raw.metrics.checked(path, &file)?,
            audit: raw.audit.map(|audit| audit.checked(path)),
            grace: grace(&file, raw.session.grace_s.as_ref())?,
            state,
            admitted: known.admitted,
        })
    }

    /// Takes what a reload of `path` may change from `new`, and leaves the rest as it was.
    pub fn reload(&mut self, path: &Path, new: Self) -> Reloaded {
        // Each by its name, so that none is forgotten.
        let Self {
            key,
            listen,
            address,
            contact_address,
            socket,
            state,
            user,
            log_level,
            grace,
            datagram_path,
            metrics,
            audit,
            admitted,
        } = new;
        let mut reloaded = Reloaded::new(path);
        reloaded.compare(&self.admitted, &admitted, |admitted| &admitted.name);
        let in_force =
            [("address", self.address != address), ("log_level", self.log_level != log_level)];
        let at_restart = [
            ("key", self.key != key),
            ("listen", self.listen != listen),
            ("contact_address", self.contact_address != contact_address),
            ("socket", self.socket != socket),
            ("state", self.state != state),
            ("user", self.user != user),
            ("datagram_path", self.datagram_path != datagram_path),
            ("[session]", self.grace != grace),
            ("[metrics]", self.metrics != metrics),
            ("[audit]", self.audit != audit),
        ];
        reloaded.settings(&in_force, &at_restart);
        (self.admitted, self.address) = (admitted, address);
        self.log_level = log_level;
        reloaded
    }
}

fn grace(file: &File, raw: Option<&Spanned<u64>>) -> Result<Duration, ConfigError> {
    let Some(raw) = raw else { return Ok(GRACE) };
    let grace = Duration::from_secs(*raw.get_ref());
    if (GRACE_MIN..=GRACE_MAX).contains(&grace) {
        return Ok(grace);
    }
    let (min, max) = (GRACE_MIN.as_secs(), GRACE_MAX.as_secs());
    let reason = format!("{} is out of range: write {min} to {max} seconds", raw.get_ref());
    Err(file.error(raw.span(), Problem::Value { key: "grace_s", reason }))
}

fn listen(file: &File, raw: &Spanned<OneOrMany>) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut seen = BTreeMap::new();
    let mut addresses = Vec::new();
    for address in raw.get_ref().values::<ListenAddress>(file, "listen", raw.span())? {
        let ListenAddress(at) = *address.get_ref();
        file.unique(&mut seen, ("address", "name it once"), &at, address.span())?;
        addresses.push(at);
    }
    if addresses.is_empty() {
        let reason = "the list is empty: name at least one address".to_owned();
        return Err(file.error(raw.span(), Problem::Value { key: "listen", reason }));
    }
    Ok(addresses)
}

/// An address without a port.
struct Ip(IpAddr);

impl FromStr for Ip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_no_ip: std::net::AddrParseError| {
            format!("{text:?} is no address: write it without a port, such as 203.0.113.20 or ::")
        })
    }
}
