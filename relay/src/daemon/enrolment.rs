//! Invitations, those who use them, and those who are let in no more.

use std::error::Error;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use adit::api::{Refusal, Reply, StatusCode};
use adit::config::{
    self, ADMITTED_MAX, Admitted, ConfigError, ENROLLED_FILE, PLACES_MAX, Place, Places,
    RelayConfig,
};
use adit::exit::Failed;
use adit::invitation::{Answer, Grant, Invitation, Request, UnixTime};
use adit::key::PublicKey;
use tokio::sync::oneshot;

use super::{Daemon, Session};
use crate::api::{Everybody, Expected, Invite, Invited, Known, Revoked};
use crate::grant::{self, BadGrant};
use crate::invitations::{Denied, LIFETIME_S_MAX, LIFETIME_S_MIN, NotMade, Verdict};
use crate::refused::Cause;
use crate::state::{self, Unwritable};

/// What has to do with who is let in.
#[derive(Debug)]
pub(crate) enum Enrol {
    Join(Joining),
    Invite(Invite, Reply<Invited>),
    Everybody(Reply<Everybody>),
    Revoke(String, Reply<Revoked>),
}

/// Somebody who has proved that it holds `key`, and wants to be let in with it.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) key: PublicKey,
    pub(crate) remote: SocketAddr,
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// Why somebody with a good invitation is not let in.
#[derive(Debug, thiserror::Error)]
enum NotJoined {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("it is ending: try again in a moment")]
    Ending,
    #[error(
        "somebody else has the name {0} there by now: ask its operator for an invitation with another"
    )]
    NameTaken(String),
    #[error("this key is let in already, as {0}")]
    KeyTaken(String),
    #[error("it lets in {ADMITTED_MAX} keys already: its operator has to revoke some")]
    Full,
    #[error("what the invitation grants is no longer understood there ({0}): ask for a new one")]
    Grant(#[from] BadGrant),
    // Which file, and why, is for the relay's operator: the log has it.
    #[error("it cannot keep the key: its operator finds the reason in its log; try again then")]
    Unreadable(#[from] ConfigError),
    #[error("it cannot keep the key: its operator finds the reason in its log; try again then")]
    Unwritable(#[from] Unwritable),
}

impl Daemon {
    /// Puts those who are enrolled now in the place of those of another state folder, which is not
    /// this process's; whom the file itself names is as it says there.
    pub(super) fn keep_enrolled(&self, config: &mut RelayConfig) {
        config.admitted.retain(|admitted| !admitted.is_enrolled);
        let in_file = config.admitted.clone();
        let is_same =
            |one: &Admitted, other: &Admitted| one.name == other.name || one.key == other.key;
        let is_kept = |enrolled: &&Admitted| {
            enrolled.is_enrolled && !in_file.iter().any(|admitted| is_same(admitted, enrolled))
        };
        config.admitted.extend(self.config.admitted.iter().filter(is_kept).cloned());
    }

    pub(super) fn handle_enrol(
        &mut self,
        enrol: Enrol,
        now: UnixTime,
        at: Instant,
    ) -> Result<(), Failed> {
        match enrol {
            Enrol::Join(joining) => self.handle_join(joining, now, at),
            Enrol::Invite(asked, reply) => reply.send(self.handle_invite(&asked, now)),
            Enrol::Everybody(reply) => reply.send(Ok(self.everybody(now))),
            Enrol::Revoke(name, reply) => return self.handle_revoke(&name, reply, now),
        }
        Ok(())
    }

    /// Lets a key in, or says why not.
    fn handle_join(&mut self, joining: Joining, now: UnixTime, at: Instant) {
        let Joining { key, remote, request, reply } = joining;
        if reply.is_closed() {
            // Too late to be told: it will ask again.
            return;
        }
        let answer = match self.try_join(key, &request, now) {
            Ok(grant) => {
                tracing::info!(name = %grant.name, %key, %remote, "joined: {grant}");
                Answer::Joined(grant)
            }
            Err(error) => {
                if let NotJoined::Unreadable(_) | NotJoined::Unwritable(_) = &error {
                    let source = error.source().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(%remote, "nobody can join: {source}");
                }
                self.refusals.borrow_mut().count(Cause::Invitation, remote, &error, at);
                Answer::Refused(error.to_string())
            }
        };
        // Gone before it was told: the same key gets the same answer once more.
        reply.send(answer).ok();
    }

    fn try_join(
        &mut self,
        key: PublicKey,
        request: &Request,
        now: UnixTime,
    ) -> Result<Grant, NotJoined> {
        if self.ending.is_some() {
            return Err(NotJoined::Ending);
        }
        let grant = match self.invitations.judge(request, &key, now)? {
            Verdict::Again(grant) if self.policies.contains_key(&key) => return Ok(grant),
            // Revoked since.
            Verdict::Again(_) => return Err(Denied::Unknown.into()),
            Verdict::Admit(grant) => grant,
        };
        if let Some(other) = self.config.admitted.iter().find(|other| other.key == key) {
            if other.is_enrolled && other.name == grant.name {
                // The relay died after it had let the key in, and before it had noted that.
                self.mark_used(request, key, &grant, now);
                return Ok(grant);
            }
            return Err(NotJoined::KeyTaken(other.name.clone()));
        }
        if self.admitted_as(&grant.name).is_some() {
            return Err(NotJoined::NameTaken(grant.name));
        }
        if self.config.admitted.len() >= ADMITTED_MAX {
            return Err(NotJoined::Full);
        }
        let admitted = grant::admitted(&grant, key)?;
        // As it is on disk: limits may have been added by hand and not been reloaded.
        let mut enrolled = self.enrolled()?;
        if enrolled.iter().any(|other| other.name == grant.name) {
            return Err(NotJoined::NameTaken(grant.name));
        }
        enrolled.push(admitted.clone());
        // The key first: should the relay die between the two, the name is taken.
        state::replace_enrolled(&self.config.state, &enrolled)?;
        self.config.admitted.push(admitted);
        self.admit();
        self.mark_used(request, key, &grant, now);
        Ok(grant)
    }

    fn mark_used(&mut self, request: &Request, key: PublicKey, grant: &Grant, now: UnixTime) {
        if let Err(error) = self.invitations.mark_used(request.id, key, now) {
            tracing::error!("an invitation of {} was used: {error}", grant.name);
        }
    }

    fn admitted_as(&self, name: &str) -> Option<&Admitted> {
        self.config.admitted.iter().find(|admitted| admitted.name == name)
    }

    fn enrolled(&self) -> Result<Vec<Admitted>, ConfigError> {
        config::enrolled(&self.config.state.join(ENROLLED_FILE))
    }

    /// Makes an invitation.
    fn handle_invite(&mut self, asked: &Invite, now: UnixTime) -> Result<Invited, Refusal> {
        let wrong = |text: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text);
        if !(LIFETIME_S_MIN..=LIFETIME_S_MAX).contains(&asked.expires_s) {
            let text = format!("an invitation is good for {LIFETIME_S_MIN} s to 30 days");
            return Err(wrong(text));
        }
        let grant = grant::checked(&asked.grant).map_err(|error| wrong(error.to_string()))?;
        let relay = self.places(&asked.relay).map_err(wrong)?;
        if let Some(admitted) = self.admitted_as(&grant.name) {
            let (name, cure) = (&grant.name, self.cure(admitted));
            let text = format!("{name} is let in already: choose another name, or {cure} first");
            return Err(Refusal::new(StatusCode::CONFLICT, text));
        }
        let name = grant.name.clone();
        let made = self.invitations.invite(grant, asked.expires_s, now);
        let (request, expires_at) = made.map_err(|error| {
            let status = match error {
                NotMade::TooMany | NotMade::IsOpen { .. } => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Refusal::new(status, error)
        })?;
        tracing::info!(%name, %expires_at, "invited");
        let relay_key = self.key;
        let invitation = Invitation { relay, relay_key, request, issued_at: now, expires_at };
        Ok(Invited { line: invitation.line(), expires_at })
    }

    fn places(&self, asked: &[String]) -> Result<Places, String> {
        if asked.len() > PLACES_MAX {
            return Err(format!("more than {PLACES_MAX} places for one relay"));
        }
        let places = asked.iter().map(|place| place.parse::<Place>());
        let places = places.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        if !places.is_empty() {
            return Ok(places.into());
        }
        let Some(configured) = &self.config.address else {
            let file = self.file.display();
            return Err(format!(
                "where is this relay reached from outside? Say --relay relay.example.net:443, or \
                 write address = \"relay.example.net:443\" at the top of {file} and `kill -HUP` the relay"
            ));
        };
        Ok(configured.clone())
    }

    /// How somebody who is let in is not any more.
    fn cure(&self, admitted: &Admitted) -> String {
        let Admitted { name, role, .. } = admitted;
        if admitted.is_enrolled {
            return format!("`adit-relay revoke {name}`");
        }
        format!("remove its [[{role}]] from {} and `kill -HUP` the relay", self.file.display())
    }

    /// Ends what `name` has: its enrolled key, its session, its open invitation.
    fn handle_revoke(
        &mut self,
        name: &str,
        reply: Reply<Revoked>,
        now: UnixTime,
    ) -> Result<(), Failed> {
        let revoked = self.try_revoke(name, now);
        if let Ok(Revoked { key, was_invited }) = &revoked {
            tracing::info!(%name, key = key.as_deref(), was_invited, "revoked");
        }
        reply.send(revoked);
        self.revoke()?;
        self.close_removed()
    }

    fn try_revoke(&mut self, name: &str, now: UnixTime) -> Result<Revoked, Refusal> {
        let failed = |error: &dyn Display| {
            let text = format!("nobody is revoked: {error}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        };
        let withdrawn = self.invitations.withdraw(name, now);
        let was_invited = withdrawn.map_err(|error| failed(&error))?;
        let Some(admitted) = self.admitted_as(name) else {
            if was_invited {
                return Ok(Revoked { key: None, was_invited });
            }
            let text =
                format!("nobody is let in as {name}, and no invitation of that name is open");
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        };
        if !admitted.is_enrolled {
            let text = format!("{name} was not enrolled: {}", self.cure(admitted));
            return Err(Refusal::new(StatusCode::CONFLICT, text));
        }
        let key = admitted.key;
        let mut enrolled = self.enrolled().map_err(|error| failed(&error))?;
        enrolled.retain(|other| other.key != key);
        let written = state::replace_enrolled(&self.config.state, &enrolled);
        written.map_err(|error| failed(&error))?;
        self.config.admitted.retain(|other| other.key != key);
        self.admit();
        Ok(Revoked { key: Some(key.to_string()), was_invited })
    }

    /// Who may come.
    fn everybody(&self, now: UnixTime) -> Everybody {
        let expected = |open: crate::invitations::Open<'_>| Expected {
            grant: open.grant.clone(),
            expires_at: open.expires_at,
        };
        let shown = self.sessions_shown();
        let known =
            |admitted| self.known(admitted, shown.get(&admitted.key).map(|(_, state)| *state));
        Everybody {
            admitted: self.config.admitted.iter().map(known).collect(),
            invited: self.invitations.open(now).map(expected).collect(),
        }
    }

    fn known(&self, admitted: &Admitted, session: Option<&Session>) -> Known {
        let enrolled = self.config.state.join(ENROLLED_FILE);
        let file = if admitted.is_enrolled { &enrolled } else { &self.file };
        Known {
            name: admitted.name.clone(),
            role: admitted.role.to_string(),
            key: admitted.key.to_string(),
            is_enrolled: admitted.is_enrolled,
            file: file.display().to_string(),
            is_connected: session.is_some_and(|session| session.is_carried),
            remote: session.map(|session| session.remote.to_string()),
        }
    }
}
