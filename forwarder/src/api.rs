//! The local API of both daemons: HTTP and JSON, over a unix socket that is the daemon's user's
//! alone, and at the forwarder also on an address of the LAN.
//!
//! The server runs in a thread of its own. It decides nothing: a request becomes an input of the
//! daemon's loop ([`Inbox::ask`]), whose [`Reply`] is the answer. What is refused is answered with
//! `{"error": "..."}` and a fitting status code.
//!
//! ```text
//!  adit register ──▶ unix socket ─┐                    ┌─ Inbox ──▶ the daemon's loop
//!                                 ├─▶ thread "api" ────┤                  │
//!  internal peer ──▶ LAN address ─┘                    └───── Reply ◀─────┘
//! ```
//!
//! Deliberately absent: TLS. The socket does not leave the host; on the LAN a token is good for little,
//! and a network where it can be overheard needs a tunnel of its own.
//!
//! The order of calls in a daemon: [`routes`] with its own merged in, [`serve`].

#[cfg(test)]
mod tests;

mod asker;
mod client;
mod condition;
mod histograms;
mod inbox;
mod peers;
mod refusal;
mod reload;
mod server;
mod socket;
mod upgrade;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

pub use asker::{Access, Asker, hash};
pub use axum::http::StatusCode;
pub use client::{Client, ClientError};
pub use histograms::{histogram_routes, serve_metrics};
pub use inbox::{Inbox, Reply};
pub use peers::{NewPeer, PeersRequest, Renewal, peers_routes};
pub use refusal::{ErrorBody, Json, Refusal};
pub use reload::{ReloadRequest, reload_routes};
pub use server::{Caller, serve, serve_lan};
pub use socket::{SocketError, SocketFile};
pub use upgrade::{NewProgram, upgrade_routes};

use crate::status::Ask;

/// What both daemons answer: `GET /v1/status`, and whether they are well and ready.
pub fn routes<I: From<Ask> + Send + 'static>() -> Router<Inbox<I>> {
    let conditions = condition::condition_routes();
    Router::new().route("/v1/status", get(status::<I>)).merge(conditions)
}

async fn status<I: From<Ask> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    caller: Caller,
) -> Result<impl IntoResponse, Refusal> {
    caller.only_local()?;
    let json = inbox.ask(|reply| I::from(Ask::Status(reply))).await?;
    Ok(([(CONTENT_TYPE, "application/json")], json))
}
