//! Invitations: one line of text by which a relay's operator lets somebody in. It says where the
//! relay is, who it is, until when it may be used, and the secret that it can be used once with.
//!
//! ```text
//!   adit1:   base64url(  body: where, who, which, secret, when  |  8 bytes of SHA-256 of the rest  )
//! ```
//!
//! The relay keeps the secret's digest alone. Whoever sends the secret ([`Request`]) is let in from
//! then on with the key that it has shown, and gets told as what ([`Answer`]).
//!
//! Deliberately absent: clocks and sockets. `adit join` uses the line, the relay makes it.

mod exchange;
mod time;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::config::{PLACES_MAX, Place, Places};
use crate::key::{PUBLIC_KEY_LEN, PublicKey};

pub use exchange::{Answer, BadMessage, GRANT_BYTES_MAX, Grant, Request};
pub use time::UnixTime;

/// What a line begins with; the number is its version.
const PREFIX: &str = "adit1:";
/// The longest line: [`PLACES_MAX`] places with the longest host names have 3 KiB.
pub const LINE_BYTES_MAX: usize = 4_096;
/// How far in the future an invitation may have been issued by this host's clock, in seconds.
pub const SKEW_S_MAX: u64 = 300;

const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
const DIGEST_LEN: usize = 32;
const CHECKSUM_LEN: usize = 8;

/// Everything that the line says.
#[derive(Debug)]
pub struct Invitation {
    /// Where the relay is reached.
    pub relay: Places,
    /// Who it is.
    pub relay_key: PublicKey,
    /// What it is used with.
    pub request: Request,
    /// When it was made, by the relay's clock.
    pub issued_at: UnixTime,
    /// From when on it is no good.
    pub expires_at: UnixTime,
}

/// Names an invitation; no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InvitationId(#[serde(with = "hex::serde")] [u8; ID_LEN]);

/// What an invitation is used with. Nothing shows it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(#[serde(with = "hex::serde")] [u8; SECRET_LEN]);

/// What the relay keeps of a [`Secret`]. Compared in constant time.
#[derive(Clone, Copy, Debug, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretDigest(#[serde(with = "hex::serde")] [u8; DIGEST_LEN]);

/// Why a text is no invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// It begins with something else.
    #[error("this is no invitation: it should begin with {PREFIX}; copy all of the line again")]
    NoInvitation,
    /// A character is wrong, missing or too much.
    #[error("the line is damaged: copy it again, from {PREFIX} to its last character")]
    Damaged,
}

/// An invitation that cannot be used at this time, by this host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untimely {
    /// It is too late.
    #[error(
        "the invitation expired at {expires_at}, and this host's clock says {now}: ask the relay's \
         operator for a new one, or set this host's clock if that is what is wrong"
    )]
    Expired {
        /// When it expired.
        expires_at: UnixTime,
        /// What the clock says.
        now: UnixTime,
    },
    /// It has not been made yet.
    #[error(
        "the invitation was made at {issued_at}, and this host's clock says {now}, which is before \
         that: look at this host's clock, then at the relay's, and set the one that is wrong"
    )]
    NotYet {
        /// When it was made, by the relay's clock.
        issued_at: UnixTime,
        /// What the clock says.
        now: UnixTime,
    },
}

/// The line's body, in postcard's encoding.
#[derive(Serialize, Deserialize)]
struct Body {
    relay: Vec<String>,
    relay_key: [u8; PUBLIC_KEY_LEN],
    id: [u8; ID_LEN],
    secret: [u8; SECRET_LEN],
    issued_at: u64,
    expires_at: u64,
}

impl Invitation {
    /// Whether it can be used at `now`.
    ///
    /// # Errors
    /// With both times, and the clock to look at.
    pub fn check(&self, now: UnixTime) -> Result<(), Untimely> {
        let (issued_at, expires_at) = (self.issued_at, self.expires_at);
        if now.plus(SKEW_S_MAX) < issued_at {
            return Err(Untimely::NotYet { issued_at, now });
        }
        if now >= expires_at {
            return Err(Untimely::Expired { expires_at, now });
        }
        Ok(())
    }

    /// The line.
    pub fn line(&self) -> String {
        let body = Body {
            relay: self.relay.iter().map(ToString::to_string).collect(),
            relay_key: *self.relay_key.as_bytes(),
            id: self.request.id.0,
            secret: self.request.secret.0,
            issued_at: self.issued_at.seconds(),
            expires_at: self.expires_at.seconds(),
        };
        // Encoding plain values into memory has nothing to fail with.
        let mut bytes = postcard::to_allocvec(&body).unwrap_or_default();
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = digest(&SHA256, &[PREFIX.as_bytes(), body].concat());
    let mut checksum = [0; CHECKSUM_LEN];
    checksum.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    checksum
}

impl FromStr for Invitation {
    type Err = BadLine;

    fn from_str(line: &str) -> Result<Self, BadLine> {
        let text = line.trim().strip_prefix(PREFIX).ok_or(BadLine::NoInvitation)?;
        read(text).ok_or(BadLine::Damaged)
    }
}

fn read(text: &str) -> Option<Invitation> {
    if text.len() > LINE_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, found) = bytes.split_last_chunk::<CHECKSUM_LEN>()?;
    if checksum(body) != *found {
        return None;
    }
    let (body, rest) = postcard::take_from_bytes::<Body>(body).ok()?;
    let places = body.relay.iter().map(|place| place.parse().ok());
    let relay = places.collect::<Option<Vec<Place>>>()?;
    if !rest.is_empty() || relay.is_empty() || relay.len() > PLACES_MAX {
        return None;
    }
    Some(Invitation {
        relay: relay.into(),
        relay_key: body.relay_key.into(),
        request: Request { id: InvitationId(body.id), secret: Secret(body.secret) },
        issued_at: UnixTime::new(body.issued_at),
        expires_at: UnixTime::new(body.expires_at),
    })
}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

pub(crate) fn random<const LEN: usize>() -> Result<[u8; LEN], NoRandomness> {
    let mut bytes = [0; LEN];
    match rand::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_unspecified) => Err(NoRandomness),
    }
}

impl Request {
    /// The request of a new invitation: an id that no other has, and a new secret.
    ///
    /// # Errors
    /// Without randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self { id: InvitationId(random()?), secret: Secret(random()?) })
    }
}

impl Secret {
    /// What may be kept of it.
    pub fn digest(&self) -> SecretDigest {
        let mut kept = [0; DIGEST_LEN];
        // Both are 32 bytes: SHA-256 says so.
        kept.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        SecretDigest(kept)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl SecretDigest {
    /// A digest that no secret is known for: what an unknown invitation is compared with, so that
    /// it takes as long as a known one.
    pub const NONE: Self = Self([0; DIGEST_LEN]);
}

impl PartialEq for SecretDigest {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

#[cfg(test)]
mod tests;
