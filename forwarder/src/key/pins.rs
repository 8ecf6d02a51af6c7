//! The keys that a relay may have: one, and the next one while the relay's key is being changed.

use std::fmt;

use super::PublicKey;

/// How many keys may be pinned at once: the present one and its successor.
pub const PINS_MAX: usize = 2;

/// The pinned keys of one relay. There is always one, and never more than [`PINS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    first: PublicKey,
    next: Option<PublicKey>,
}

impl Pins {
    /// The present key and its successor.
    pub fn pair(first: PublicKey, next: PublicKey) -> Self {
        Self { first, next: Some(next) }
    }

    /// The key that was named first.
    pub fn first(&self) -> PublicKey {
        self.first
    }

    /// Whether `key` is one of them.
    pub fn contain(&self, key: &PublicKey) -> bool {
        // Both are compared, whichever it is.
        (self.first == *key) | (self.next == Some(*key))
    }
}

impl From<PublicKey> for Pins {
    fn from(first: PublicKey) -> Self {
        Self { first, next: None }
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        match self.next {
            Some(next) => write!(f, " or {next}"),
            None => Ok(()),
        }
    }
}
