//! The invitations that the relay has given out: of each, what it grants, until when, and the
//! digest of its secret. Whoever reads the file can use none of them.
//!
//! ```text
//!   invite ──▶ open ──▶ used (by one key) ──┐
//!               ├─────▶ expired ────────────┴──▶ forgotten, a day after it would have expired
//!               └─────▶ withdrawn: forgotten at once
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use adit::invitation::{Grant, InvitationId, NoRandomness, Request, SecretDigest, UnixTime};
use adit::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::state::{self, Unwritable};

/// The file in the state folder.
const FILE: &str = "invitations.json";
/// Invitations that are kept, spent ones included.
pub(crate) const INVITATIONS_MAX: usize = 1_024;
/// The shortest time that an invitation may be good for, in seconds …
pub(crate) const LIFETIME_S_MIN: u64 = 60;
/// … and the longest: 30 days.
pub(crate) const LIFETIME_S_MAX: u64 = 30 * 24 * 3_600;
/// How long a spent one is remembered, in seconds, so that its holder can be told what became of it.
const REMEMBERED_S: u64 = 24 * 3_600;

/// All invitations, oldest first.
#[derive(Debug)]
pub(crate) struct Invitations {
    folder: PathBuf,
    kept: Vec<Kept>,
}

/// One invitation, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: InvitationId,
    secret_sha256: SecretDigest,
    grant: Grant,
    issued_at: UnixTime,
    expires_at: UnixTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Use>,
}

/// Which key an invitation let in, and when.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Use {
    by: PublicKey,
    at: UnixTime,
}

/// An invitation that can still be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a> {
    pub(crate) grant: &'a Grant,
    pub(crate) expires_at: UnixTime,
}

/// A request that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The key is to be let in.
    Admit(Grant),
    /// This key was let in already, and may not have heard it.
    Again(Grant),
}

/// A request that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No such invitation, or not its secret: to the outside these are the same.
    #[error(
        "it does not know this invitation: it may have been withdrawn, or the line is one of \
         another relay's; ask its operator for a new one"
    )]
    Unknown,
    #[error(
        "the invitation was used at {0} by another key: ask for a new one, and if that was not you, \
         have the relay's operator revoke whom it let in"
    )]
    Used(UnixTime),
    #[error(
        "the invitation expired at {expires_at}, and the relay's clock says {now}: ask for a new one"
    )]
    Expired { expires_at: UnixTime, now: UnixTime },
}

/// An invitation that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    #[error("{INVITATIONS_MAX} invitations are open: `adit-relay revoke NAME` withdraws one")]
    TooMany,
    #[error(
        "an invitation for {name} is open until {expires_at}: withdraw it first, with \
         `adit-relay revoke {name}`"
    )]
    IsOpen { name: String, expires_at: UnixTime },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
}

/// A file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; mend it, or move it away: the invitations in it are void then")]
pub(crate) struct Unreadable {
    path: PathBuf,
    reason: String,
}

impl Kept {
    fn is_open(&self, now: UnixTime) -> bool {
        self.used.is_none() && now < self.expires_at
    }
}

impl Invitations {
    /// Those in the state folder; none if there is no such file.
    pub(crate) fn load(folder: &Path) -> Result<Self, Unreadable> {
        let path = folder.join(FILE);
        let unreadable = |reason: String| Unreadable { path: path.clone(), reason };
        let kept = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(json) => serde_json::from_slice(&json).map_err(|e| unreadable(e.to_string()))?,
        };
        Ok(Self { folder: folder.into(), kept })
    }

    /// Makes an invitation that is good for so many seconds; returns what it is used with, and
    /// until when.
    pub(crate) fn invite(
        &mut self,
        grant: Grant,
        lifetime_s: u64,
        now: UnixTime,
    ) -> Result<(Request, UnixTime), NotMade> {
        let is_rival = |open: &Open<'_>| open.grant.name == grant.name;
        if let Some(open) = self.open(now).find(is_rival) {
            return Err(NotMade::IsOpen { name: grant.name, expires_at: open.expires_at });
        }
        let request = Request::generate()?;
        let expires_at = now.plus(lifetime_s);
        let mut kept = self.kept.clone();
        kept.retain(|kept| now < kept.expires_at.plus(REMEMBERED_S));
        if kept.len() >= INVITATIONS_MAX {
            let spent = kept.iter().position(|kept| !kept.is_open(now)).ok_or(NotMade::TooMany)?;
            kept.remove(spent);
        }
        kept.push(Kept {
            id: request.id,
            secret_sha256: request.secret.digest(),
            grant,
            issued_at: now,
            expires_at,
            used: None,
        });
        self.keep(kept)?;
        Ok((request, expires_at))
    }

    /// Whether the holder of `key` may be let in. Changes nothing.
    pub(crate) fn judge(
        &self,
        request: &Request,
        key: &PublicKey,
        now: UnixTime,
    ) -> Result<Verdict, Denied> {
        let found = self.kept.iter().find(|kept| kept.id == request.id);
        // One comparison, whether there is such an invitation or not.
        let expected = found.map_or(SecretDigest::NONE, |kept| kept.secret_sha256);
        let is_held = request.secret.digest() == expected;
        let kept = found.filter(|_| is_held).ok_or(Denied::Unknown)?;
        match kept.used {
            Some(used) if used.by == *key => Ok(Verdict::Again(kept.grant.clone())),
            Some(used) => Err(Denied::Used(used.at)),
            None if now >= kept.expires_at => {
                Err(Denied::Expired { expires_at: kept.expires_at, now })
            }
            None => Ok(Verdict::Admit(kept.grant.clone())),
        }
    }

    /// Notes that an invitation has let `key` in. In memory it is used from now on, even if it
    /// cannot be written.
    pub(crate) fn mark_used(
        &mut self,
        id: InvitationId,
        by: PublicKey,
        at: UnixTime,
    ) -> Result<(), Unwritable> {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.id == id) {
            kept.used = Some(Use { by, at });
        }
        self.save(&self.kept)
    }

    /// Withdraws the open invitations of `name`; says whether there were any.
    pub(crate) fn withdraw(&mut self, name: &str, now: UnixTime) -> Result<bool, Unwritable> {
        let mut kept = self.kept.clone();
        kept.retain(|kept| kept.grant.name != name || !kept.is_open(now));
        let has_any = kept.len() < self.kept.len();
        if has_any {
            self.keep(kept)?;
        }
        Ok(has_any)
    }

    /// Those that can still be used.
    pub(crate) fn open(&self, now: UnixTime) -> impl Iterator<Item = Open<'_>> {
        let open = self.kept.iter().filter(move |kept| kept.is_open(now));
        open.map(|kept| Open { grant: &kept.grant, expires_at: kept.expires_at })
    }

    fn keep(&mut self, kept: Vec<Kept>) -> Result<(), Unwritable> {
        self.save(&kept)?;
        self.kept = kept;
        Ok(())
    }

    fn save(&self, kept: &[Kept]) -> Result<(), Unwritable> {
        let json = serde_json::to_string_pretty(kept);
        let json = json.expect("invariant: plain values, into memory");
        state::replace(&self.folder, FILE, &json)
    }
}

#[cfg(test)]
mod tests;
