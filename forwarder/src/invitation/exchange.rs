//! What is said when an invitation is used: one message each way, in JSON.

use std::fmt;

use adit_proto::frame::is_name;
use serde::{Deserialize, Serialize};

use super::{InvitationId, Secret};

/// The most that a grant's text may have, so that an answer fits into one message.
pub const GRANT_BYTES_MAX: usize = 4_096;
/// The most characters of a refusal that are shown.
const TEXT_CHARS_MAX: usize = 512;

/// What the one who joins sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which invitation.
    pub id: InvitationId,
    /// The proof that it is held.
    pub secret: Secret,
}

/// What the relay answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The key is let in from now on, with these rights.
    Joined(Grant),
    /// Why it is not.
    Refused(String),
}

/// Who somebody is to be at the relay, and what they may have there: the keys of a `[[forwarder]]`
/// or an `[[external]]`, as they stand in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The name at the relay.
    pub name: String,
    /// An external peer (`adit connect`), and no forwarder.
    #[serde(default)]
    pub external: bool,
    /// Public ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Private names that it may register.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Private names that it may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// Addresses that the relay dials for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dials: Vec<String>,
}

/// A message that is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end says something that this version does not understand: {0}")]
pub struct BadMessage(String);

impl Request {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    /// As it was received.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        // Not serde's own words: they would quote the secret into a log.
        serde_json::from_slice(bytes).map_err(|_malformed| BadMessage("no request to join".into()))
    }
}

impl Answer {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes(self)
    }

    /// As it was received: with texts that can be shown and written to a file.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
        match serde_json::from_slice(bytes) {
            Ok(Self::Joined(grant)) if !grant.is_printable() => {
                Err(BadMessage("a grant with strange characters".into()))
            }
            Ok(Self::Refused(text)) => {
                let is_shown = |c: &char| !c.is_control();
                Ok(Self::Refused(text.chars().filter(is_shown).take(TEXT_CHARS_MAX).collect()))
            }
            Ok(joined) => Ok(joined),
            Err(error) => Err(BadMessage(error.to_string())),
        }
    }
}

fn bytes(message: &impl Serialize) -> Vec<u8> {
    // Plain values into memory: nothing to fail with.
    serde_json::to_vec(message).unwrap_or_default()
}

impl Grant {
    /// The lists by the names that they have in the configuration.
    pub fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("ports", &self.ports),
            ("names", &self.names),
            ("calls", &self.calls),
            ("dials", &self.dials),
        ]
    }

    /// Whether it is short enough to be answered with.
    pub fn fits(&self) -> bool {
        bytes(self).len() <= GRANT_BYTES_MAX
    }

    fn is_printable(&self) -> bool {
        let mut items = self.lists().into_iter().flat_map(|(_, items)| items);
        is_name(&self.name) && items.all(|item| item.chars().all(|c| c.is_ascii_graphic()))
    }
}

/// `ports 2222, 8000-8100; names db`, or `nothing`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (list, items) in self.lists() {
            if !items.is_empty() {
                write!(f, "{separator}{list} {}", items.join(", "))?;
                separator = "; ";
            }
        }
        if separator.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}
