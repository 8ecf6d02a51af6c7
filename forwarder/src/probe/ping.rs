//! The datagrams of a probe: a token that the two ends know, and a number. What answers one is as long
//! as what asked.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use crate::invitation::{NoRandomness, random};

/// The length of a token.
pub const TOKEN_LEN: usize = 16;
/// The length of a datagram: a token and a number.
pub const PING_LEN: usize = TOKEN_LEN + 2;

/// What shows that a datagram belongs to a probe. Compared in constant time; nothing shows it.
#[derive(Clone, Copy, Eq, Serialize, Deserialize)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// Without randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(random()?))
    }

    /// Whether `bytes` begin with it.
    pub fn is_before(&self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|found| *self == Self(*found))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A number that nobody foresees.
///
/// # Errors
/// Without randomness.
pub fn random_number() -> Result<u32, NoRandomness> {
    random().map(u32::from_be_bytes)
}

/// A datagram of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Whose it is.
    pub token: Token,
    /// Which of its datagrams.
    pub number: u16,
}

/// Why bytes are no datagram of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPing {
    /// Too long, or too short.
    #[error("a datagram of {0} bytes: a probe's has {PING_LEN}")]
    Length(usize),
    /// Of somebody else.
    #[error("a datagram with another token")]
    Token,
}

/// Set in the number of a datagram that was sent because that was asked for: it answers none.
const ASKED: u16 = 0x8000;

impl Ping {
    /// As the relay sends it when it is asked to, so that it is not taken for a late answer.
    #[must_use]
    pub fn asked(self) -> Self {
        Self { number: self.number | ASKED, ..self }
    }

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; PING_LEN] {
        let mut bytes = [0; PING_LEN];
        let parts = self.token.0.into_iter().chain(self.number.to_be_bytes());
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it is sent to the socket of the datagram paths: behind an id, as a path's packets are.
    pub fn to_path_bytes(self, id: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &self.to_bytes()].concat()
    }

    /// As it was received by somebody whose token is `token`.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_bytes(bytes: &[u8], token: Token) -> Result<Self, BadPing> {
        let &[ref found @ .., high, low] = bytes else { return Err(BadPing::Length(bytes.len())) };
        let Ok(found) = <[u8; TOKEN_LEN]>::try_from(found) else {
            return Err(BadPing::Length(bytes.len()));
        };
        if Token(found) != token {
            return Err(BadPing::Token);
        }
        Ok(Self { token, number: u16::from_be_bytes([high, low]) })
    }
}
