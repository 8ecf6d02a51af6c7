//! The relay's part of the local API: invitations, and who may come.

use adit::api::{self, Caller, Inbox, Json, Refusal, StatusCode};
use adit::invitation::{Grant, UnixTime};
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};

use crate::daemon::{Enrol, Input};

/// Whom to invite.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invite {
    /// Who it will be, and what it may have.
    pub(crate) grant: Grant,
    /// Where the relay is reached; the configuration's `address` without it.
    #[serde(default)]
    pub(crate) relay: Vec<String>,
    /// How long the invitation is good for.
    pub(crate) expires_s: u64,
}

/// An invitation that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// The line for `adit join`.
    pub(crate) line: String,
    /// Until when it is good.
    pub(crate) expires_at: UnixTime,
}

/// Everybody who may come, or is invited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Everybody {
    pub(crate) admitted: Vec<Known>,
    pub(crate) invited: Vec<Expected>,
}

/// Somebody who may come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// `forwarder` or `external`.
    pub(crate) role: String,
    pub(crate) key: String,
    /// Whether an invitation let it in, or the relay's file does.
    pub(crate) is_enrolled: bool,
    /// The file that names it.
    pub(crate) file: String,
    pub(crate) is_connected: bool,
    /// Where it comes from, while there is a session.
    pub(crate) remote: Option<String>,
}

/// Somebody whose invitation is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Expected {
    pub(crate) grant: Grant,
    pub(crate) expires_at: UnixTime,
}

/// What a revocation has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The key that was let in, and is no more.
    pub(crate) key: Option<String>,
    /// Whether an open invitation was withdrawn.
    pub(crate) was_invited: bool,
}

/// What the relay answers.
pub(crate) fn routes() -> Router<Inbox<Input>> {
    api::routes()
        .merge(api::histogram_routes())
        .merge(api::reload_routes())
        .merge(api::upgrade_routes())
        .route("/v1/invitations", post(invite))
        .route("/v1/forwarders", get(everybody))
        .route("/v1/forwarders/{name}", delete(revoke))
}

async fn invite(
    State(inbox): State<Inbox<Input>>,
    caller: Caller,
    Json(asked): Json<Invite>,
) -> Result<(StatusCode, Json<Invited>), Refusal> {
    caller.only_local()?;
    let invited = inbox.ask(|reply| Input::Enrol(Enrol::Invite(asked, reply))).await?;
    Ok((StatusCode::CREATED, Json(invited)))
}

async fn everybody(
    State(inbox): State<Inbox<Input>>,
    caller: Caller,
) -> Result<Json<Everybody>, Refusal> {
    caller.only_local()?;
    inbox.ask(|reply| Input::Enrol(Enrol::Everybody(reply))).await.map(Json)
}

async fn revoke(
    State(inbox): State<Inbox<Input>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Revoked>, Refusal> {
    caller.only_local()?;
    inbox.ask(|reply| Input::Enrol(Enrol::Revoke(name, reply))).await.map(Json)
}
