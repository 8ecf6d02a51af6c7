//! The way from a request to the daemon's loop, and back.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use super::Refusal;

/// How long the daemon may take to answer. What it waits for has bounds of its own, all of them
/// shorter.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The daemon's inbox, as the API's routes see it.
#[derive(Debug)]
pub struct Inbox<I>(mpsc::Sender<I>);

impl<I> Clone for Inbox<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> From<mpsc::Sender<I>> for Inbox<I> {
    fn from(sender: mpsc::Sender<I>) -> Self {
        Self(sender)
    }
}

impl<I> Inbox<I> {
    /// Puts a question to the daemon, and waits for its answer.
    ///
    /// # Errors
    /// When the daemon refuses, is ending, or does not answer in time.
    pub async fn ask<T>(&self, input: impl FnOnce(Reply<T>) -> I) -> Result<T, Refusal> {
        let (reply, answer) = Reply::new();
        let asked = async {
            self.0.send(input(reply)).await.map_err(|_closed| ending())?;
            answer.await.unwrap_or_else(|_dropped| Err(ending()))
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_elapsed| {
            let seconds = ANSWER_MAX.as_secs();
            let text = format!("the daemon has not answered in {seconds} s: it is overloaded");
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
        })
    }
}

fn ending() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending")
}

/// Where the daemon's loop puts its answer.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<Result<T, Refusal>>);

impl<T> Reply<T> {
    /// A reply, and where it arrives.
    pub fn new() -> (Self, oneshot::Receiver<Result<T, Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. Whoever asked may have gone; then nothing happens.
    pub fn send(self, answer: Result<T, Refusal>) {
        self.0.send(answer).ok();
    }
}
