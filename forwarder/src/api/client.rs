//! The other end of the socket, for the command lines: one request, one answer, plain blocking
//! calls.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;

use super::ErrorBody;

/// How long the daemon may take in all: longer than anything that it waits for itself.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The most that an answer may have, in bytes: a relay with all of its contact points in use.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// Why the daemon has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no daemon answers on {path} ({source}): is it running, and is this its socket? After a change \
         of `socket` in its file, name the old one (--socket)"
    )]
    Unreachable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon says no, and why.
    #[error("{text}")]
    Refused {
        /// For programs.
        status: StatusCode,
        /// In the daemon's words.
        text: String,
    },
    /// What answers on the socket is no daemon of ours, or it ended half-way.
    #[error("what came from {path} is no answer: {reason}; is this the daemon's socket?")]
    Broken {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Asks the daemon on one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon whose socket is `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// Asks for what is at `path`.
    ///
    /// # Errors
    /// When nobody answers, or the daemon refuses.
    pub fn get(&self, path: &str) -> Result<String, ClientError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// Posts `body` to `path`.
    ///
    /// # Errors
    /// When nobody answers, or the daemon refuses.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<String, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.ask(Method::POST, path, body.into())
    }

    /// Asks to remove what is at `path`.
    ///
    /// # Errors
    /// When nobody answers, or the daemon refuses.
    pub fn delete(&self, path: &str) -> Result<String, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new())
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), reason: reason.to_string() }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable { path: self.socket.clone(), source }
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<String, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "adit")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.unreachable(error))?;
        runtime.block_on(async {
            let answered = tokio::time::timeout(ANSWER_MAX, self.answer(request));
            answered.await.unwrap_or_else(|_elapsed| {
                let silence = format!("no answer in {} s", ANSWER_MAX.as_secs());
                Err(self.unreachable(io::Error::new(io::ErrorKind::TimedOut, silence)))
            })
        })
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<String, ClientError> {
        let connected = UnixStream::connect(&self.socket).await;
        let stream = TokioIo::new(connected.map_err(|error| self.unreachable(error))?);
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        // It ends with the runtime at the latest; its errors are the request's, too.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let text = self.text(response.into_body()).await?;
        if status.is_success() {
            return Ok(text);
        }
        // A refusal that does not come from a handler of ours is shown as it is.
        let error = serde_json::from_str(&text).map(|ErrorBody { error }| error);
        Err(ClientError::Refused { status, text: error.unwrap_or(text) })
    }

    async fn text(&self, body: Incoming) -> Result<String, ClientError> {
        let body = Limited::new(body, BODY_MAX).collect().await;
        let bytes = body.map_err(|error| self.broken(error))?.to_bytes();
        String::from_utf8(bytes.into()).map_err(|error| self.broken(error))
    }
}
