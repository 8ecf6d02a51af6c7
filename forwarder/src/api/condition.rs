//! Whether a daemon is well, and whether it is ready: what a supervisor, a load balancer or an
//! orchestrator asks every few seconds.
//!
//! *Well* means that its loop and every thread of its data plane answer; who is not wants to be restarted.
//! *Ready* means that it does what it is there for; who is not wants to be waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::Mutex;

use super::{Caller, Inbox, Refusal};
use crate::status::{Ask, Condition};

/// How long a daemon may take to say how it is; a thread of its data plane may take half of that.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How old an answer may be: however often it is asked, the daemon is not.
const AGE_MAX: Duration = Duration::from_secs(1);

/// What a daemon said of itself, and when.
type Told = Arc<Mutex<Option<(Instant, Result<Condition, Refusal>)>>>;

/// What the two routes need: the daemon, and what it said last.
struct Asked<I> {
    inbox: Inbox<I>,
    told: Told,
}

/// `{"ok": true}`, for whoever reads the body.
#[derive(Debug, Serialize)]
struct Fine {
    ok: bool,
}

/// `/healthz` and `/readyz`, for whoever reaches the address: 200, or 503 and why.
pub(super) fn open_condition_routes<I: From<Ask> + Send + 'static>() -> Router<Inbox<I>> {
    routes_at("/healthz", "/readyz", false)
}

/// The same on the daemon's own socket.
pub(super) fn condition_routes<I: From<Ask> + Send + 'static>() -> Router<Inbox<I>> {
    routes_at("/v1/health", "/v1/ready", true)
}

fn routes_at<I: From<Ask> + Send + 'static>(
    well: &'static str,
    ready: &'static str,
    is_local_only: bool,
) -> Router<Inbox<I>> {
    let told = Told::default();
    let answer = |is_ready: bool| {
        let told = Arc::clone(&told);
        move |State(inbox): State<Inbox<I>>, caller: Caller| async move {
            if is_local_only {
                caller.only_local()?;
            }
            Asked { inbox, told }.answer(is_ready).await
        }
    };
    Router::new().route(well, get(answer(false))).route(ready, get(answer(true)))
}

impl<I: From<Ask>> Asked<I> {
    async fn answer(self, is_ready: bool) -> Result<Json<Fine>, Refusal> {
        let condition = self.condition().await?;
        let unready = if is_ready { condition.unready } else { Vec::new() };
        let reasons: Vec<_> = condition.unwell.into_iter().chain(unready).collect();
        if reasons.is_empty() {
            return Ok(Json(Fine { ok: true }));
        }
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reasons.join("; ")))
    }

    /// What the daemon says, or has said a moment ago. All who ask meanwhile wait for the one answer.
    async fn condition(&self) -> Result<Condition, Refusal> {
        let mut told = self.told.lock().await;
        if let Some((_, told)) = told.as_ref().filter(|(at, _)| at.elapsed() < AGE_MAX) {
            return told.clone();
        }
        let asked = self.inbox.ask(|reply| I::from(Ask::Condition(reply)));
        let answer = tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_elapsed| {
            let seconds = ANSWER_MAX.as_secs();
            let text = format!("the daemon's loop has not answered in {seconds} s");
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
        });
        *told = Some((Instant::now(), answer.clone()));
        answer
    }
}
