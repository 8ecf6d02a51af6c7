//! `POST /v1/reload`, which both daemons answer: the configuration is read again.

use axum::Router;
use axum::extract::State;
use axum::routing::post;

use super::{Caller, Inbox, Json, Refusal, Reply};
use crate::config::Reloaded;

/// Somebody waits for what a reload changes, or why it changes nothing.
#[derive(Debug)]
pub struct ReloadRequest(pub Reply<Reloaded>);

/// What a daemon with a configuration answers: `POST /v1/reload`.
pub fn reload_routes<I: From<ReloadRequest> + Send + 'static>() -> Router<Inbox<I>> {
    Router::new().route("/v1/reload", post(reload::<I>))
}

async fn reload<I: From<ReloadRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    caller: Caller,
) -> Result<Json<Reloaded>, Refusal> {
    caller.only_local()?;
    inbox.ask(|reply| I::from(ReloadRequest(reply))).await.map(Json)
}
