//! Both daemons: another process is to take over.

use std::path::PathBuf;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::{Caller, Inbox, Json, Refusal};
use crate::upgrade::{UpgradeStep, Upgraded};

/// The body of `POST /v1/upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProgram {
    /// The program that is to take over; the daemon's own, as its file is now, when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
}

/// `POST /v1/upgrade`.
pub fn upgrade_routes<I: From<UpgradeStep> + Send + 'static>() -> Router<Inbox<I>> {
    Router::new().route("/v1/upgrade", post(upgrade::<I>))
}

async fn upgrade<I: From<UpgradeStep> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    caller: Caller,
    Json(asked): Json<NewProgram>,
) -> Result<Json<Upgraded>, Refusal> {
    caller.only_local()?;
    let ask = |reply| I::from(UpgradeStep::Asked(asked.program, Some(reply)));
    inbox.ask(ask).await.map(Json)
}
