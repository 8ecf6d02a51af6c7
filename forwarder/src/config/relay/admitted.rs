//! Who is let in, and what each may have: the tables `[[forwarder]]` and `[[external]]`, in the
//! relay's file and in the one of the keys that were enrolled.

use std::fmt::{self, Display};
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::{Dial, NamePattern};
use crate::config::file::{File, OneOrMany, Schema, Seen};
use crate::config::forwarder::checked_name;
use crate::config::{ConfigError, Net, PortRange, Ports, Problem, quota};
use crate::handoff::Quota;
use crate::key::PublicKey;

/// Keys that a relay lets in, both files together.
pub const ADMITTED_MAX: usize = 10_000;

/// The keys of `[[forwarder]]` …
pub(super) const FORWARDER_KEYS: &[&str] = &[
    "name",
    "key",
    "ports",
    "udp_ports",
    "names",
    "calls",
    "dials",
    "allow",
    "deny",
    "flows_max",
    "flows_per_s",
    "bytes_per_s",
    "bytes_per_month",
];
/// … and of `[[external]]`.
pub(super) const EXTERNAL_KEYS: &[&str] = &[
    "name",
    "key",
    "names",
    "calls",
    "allow",
    "deny",
    "flows_max",
    "flows_per_s",
    "bytes_per_s",
    "bytes_per_month",
];

const SCHEMA: Schema = Schema {
    top: &["forwarder", "external"],
    tables: &[("forwarder", FORWARDER_KEYS), ("external", EXTERNAL_KEYS)],
};

/// On which side of the relay a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// An internal contact point: `adit run`.
    Forwarder,
    /// An external peer with a key: `adit connect`.
    External,
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarder => "forwarder",
            Self::External => "external",
        })
    }
}

/// A key that the relay lets in, and what it may have. What is not listed is forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its name in logs, unique among all.
    pub name: String,
    /// Its key: who it is.
    pub key: PublicKey,
    /// Which side it is on.
    pub role: Role,
    /// Whether it was enrolled by an invitation, and not written into the relay's file.
    pub is_enrolled: bool,
    /// The ports that its contact points may have.
    pub ports: Ports,
    /// The same of UDP.
    pub udp_ports: Ports,
    /// The private names that its contact points may have.
    pub names: Vec<NamePattern>,
    /// The private names that it may call.
    pub calls: Vec<NamePattern>,
    /// What the relay dials for it.
    pub dials: Vec<Dial>,
    /// The sources that may use its contact points; all of them without a list …
    pub allow: Option<Vec<IpNet>>,
    /// … but for these.
    pub deny: Vec<IpNet>,
    /// How much it may use.
    pub quota: Quota,
    /// How many bytes it may move in a calendar month.
    pub bytes_per_month: Option<u64>,
}

impl Admitted {
    /// A key that may have nothing yet.
    pub fn new(name: String, key: PublicKey, role: Role) -> Self {
        Self {
            name,
            key,
            role,
            is_enrolled: false,
            ports: Ports::default(),
            udp_ports: Ports::default(),
            names: Vec::new(),
            calls: Vec::new(),
            dials: Vec::new(),
            allow: None,
            deny: Vec::new(),
            quota: Quota::default(),
            bytes_per_month: None,
        }
    }
}

/// As a table of a configuration file.
impl Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[{}]]\nname = \"{}\"\nkey = \"{}\"", self.role, self.name, self.key)?;
        let nets = |nets: &[IpNet]| nets.iter().copied().map(Net).collect::<Vec<_>>();
        list(f, "ports", self.ports.ranges())?;
        list(f, "udp_ports", self.udp_ports.ranges())?;
        list(f, "names", &self.names)?;
        list(f, "calls", &self.calls)?;
        list(f, "dials", &self.dials)?;
        match &self.allow {
            Some(allow) if allow.is_empty() => writeln!(f, "allow = []")?,
            Some(allow) => list(f, "allow", &nets(allow))?,
            None => {}
        }
        list(f, "deny", &nets(&self.deny))?;
        number(f, "flows_max", self.quota.flows_max)?;
        number(f, "flows_per_s", self.quota.flows_per_s)?;
        number(f, "bytes_per_s", self.quota.bytes_per_s)?;
        number(f, "bytes_per_month", self.bytes_per_month)
    }
}

/// None of the values has a character that TOML would want escaped.
fn list<T: Display>(f: &mut fmt::Formatter<'_>, key: &str, values: &[T]) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let values: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
    writeln!(f, "{key} = [{}]", values.join(", "))
}

fn number<T: Display>(f: &mut fmt::Formatter<'_>, key: &str, value: Option<T>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(f, "{key} = {value}"))
}

/// The keys of a file of enrolled keys, which need not be there.
///
/// # Errors
/// With the file, the line, and what is wrong there.
pub fn enrolled(path: &Path) -> Result<Vec<Admitted>, ConfigError> {
    let mut known = Known::default();
    known.read_enrolled(path)?;
    Ok(known.admitted)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnrolled {
    #[serde(default)]
    forwarder: Vec<RawAdmitted>,
    #[serde(default)]
    external: Vec<RawAdmitted>,
}

/// Either table: which keys are valid in which one, the schema says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmitted {
    name: Spanned<String>,
    key: Spanned<String>,
    ports: Option<Spanned<OneOrMany>>,
    udp_ports: Option<Spanned<OneOrMany>>,
    names: Option<Spanned<OneOrMany>>,
    calls: Option<Spanned<OneOrMany>>,
    dials: Option<Spanned<OneOrMany>>,
    allow: Option<Spanned<OneOrMany>>,
    deny: Option<Spanned<OneOrMany>>,
    flows_max: Option<Spanned<usize>>,
    flows_per_s: Option<Spanned<u32>>,
    bytes_per_s: Option<Spanned<u64>>,
    bytes_per_month: Option<Spanned<u64>>,
}

/// The keys of one file after the other: names and keys are unique over all of them.
#[derive(Default)]
pub(super) struct Known {
    pub(super) admitted: Vec<Admitted>,
    names: Seen<String>,
    keys: Seen<PublicKey>,
}

impl Known {
    pub(super) fn read_enrolled(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file = match File::read(path) {
            Err(error) if error.is_missing() => return Ok(()),
            read => read?,
        };
        let raw: RawEnrolled = file.parse(&SCHEMA)?;
        let first = self.admitted.len();
        self.add(&file, Role::Forwarder, &raw.forwarder)?;
        self.add(&file, Role::External, &raw.external)?;
        self.admitted.iter_mut().skip(first).for_each(|admitted| admitted.is_enrolled = true);
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        file: &File,
        role: Role,
        raw: &[RawAdmitted],
    ) -> Result<(), ConfigError> {
        for raw in raw {
            let name = checked_name(file, &raw.name)?;
            let unique = ("name", "give each key a name of its own");
            file.unique(&mut self.names, unique, &name, raw.name.span())?;
            let key: PublicKey = file.value("key", &raw.key)?;
            let unique = ("key", "each forwarder and external peer needs a key of its own");
            file.unique(&mut self.keys, unique, &key, raw.key.span())?;
            if self.admitted.len() >= ADMITTED_MAX {
                let reason = format!("more than {ADMITTED_MAX} keys: start another relay");
                return Err(file.error(raw.key.span(), Problem::Value { key: "key", reason }));
            }
            self.admitted.push(raw.checked(file, Admitted::new(name, key, role))?);
        }
        Ok(())
    }
}

impl RawAdmitted {
    fn checked(&self, file: &File, admitted: Admitted) -> Result<Admitted, ConfigError> {
        let nets = |key, raw: &Option<Spanned<OneOrMany>>| -> Result<Vec<IpNet>, ConfigError> {
            Ok(file.list::<Net>(key, raw.as_ref())?.into_iter().map(|net| net.0).collect())
        };
        let allow = nets("allow", &self.allow)?;
        let ports = file.list::<PortRange>("ports", self.ports.as_ref())?;
        let udp_ports = file.list::<PortRange>("udp_ports", self.udp_ports.as_ref())?;
        Ok(Admitted {
            udp_ports: udp_ports.into_iter().collect(),
            ports: ports.into_iter().collect(),
            names: file.list("names", self.names.as_ref())?,
            calls: file.list("calls", self.calls.as_ref())?,
            dials: file.list("dials", self.dials.as_ref())?,
            allow: self.allow.as_ref().map(|_| allow),
            deny: nets("deny", &self.deny)?,
            quota: quota::in_file(
                file,
                self.flows_max.as_ref(),
                self.flows_per_s.as_ref(),
                self.bytes_per_s.as_ref(),
            )?,
            bytes_per_month: quota::volume_in_file(file, self.bytes_per_month.as_ref())?,
            ..admitted
        })
    }
}
