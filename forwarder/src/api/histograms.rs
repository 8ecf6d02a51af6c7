//! Both daemons' histograms, and what Prometheus asks for.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::sync::mpsc;

use super::condition::open_condition_routes;
use super::{Caller, Inbox, Json, Refusal, serve_lan};
use crate::histogram::{self, Filter, Histograms, TimesRequest};
use crate::status::Ask;

/// `GET /v1/histograms` and `POST /v1/histograms/reset`.
pub fn histogram_routes<I: From<TimesRequest> + Send + 'static>() -> Router<Inbox<I>> {
    Router::new()
        .route("/v1/histograms", get(histograms::<I>))
        .route("/v1/histograms/reset", post(reset::<I>))
}

/// Answers Prometheus, and those who ask whether the daemon is well and ready, on `address` from now on.
///
/// # Errors
/// When that address cannot be listened on.
pub fn serve_metrics<I: From<TimesRequest> + From<Ask> + Send + 'static>(
    address: SocketAddr,
    inbox: mpsc::Sender<I>,
) -> io::Result<()> {
    let routes = Router::new().route("/metrics", get(metrics::<I>));
    serve_lan(address, inbox, routes.merge(open_condition_routes()))
}

async fn histograms<I: From<TimesRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    caller: Caller,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Histograms>, Refusal> {
    caller.only_local()?;
    let Query(filter) = filter.map_err(|bad| Refusal::new(bad.status(), bad.body_text()))?;
    inbox.ask(|reply| I::from(TimesRequest::Show(filter, reply))).await.map(Json)
}

async fn reset<I: From<TimesRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    caller: Caller,
) -> Result<StatusCode, Refusal> {
    caller.only_local()?;
    inbox.ask(|reply| I::from(TimesRequest::Reset(reply))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn metrics<I: From<TimesRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
) -> Result<impl IntoResponse, Refusal> {
    let text = inbox.ask(|reply| I::from(TimesRequest::Metrics(reply))).await?;
    Ok(([(CONTENT_TYPE, histogram::CONTENT_TYPE)], text))
}
