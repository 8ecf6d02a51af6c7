//! Events of the pumps on their way into a daemon's inbox.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::handoff::{Event, EventReceiver};

/// An eventfd is read as eight bytes.
const COUNTER: usize = 8;
/// How often the queue is looked at should its eventfd ever fail.
const FALLBACK: Duration = Duration::from_millis(100);

/// Puts every event of `receiver` into `inbox`, in order. When the inbox is full the pumps' queue
/// fills in its turn, and a pump keeps what does not fit.
///
/// # Errors
/// When the process has no descriptor left.
pub fn forward_events<I>(receiver: EventReceiver, inbox: mpsc::Sender<I>) -> io::Result<()>
where
    I: From<Event> + 'static,
{
    let wake = File::from(receiver.wake().as_fd().try_clone_to_owned()?);
    let wake = tokio_uring::fs::File::from_std(wake);
    super::spawn(async move {
        let mut counter = vec![0; COUNTER];
        loop {
            while let Some(event) = receiver.poll_event() {
                if inbox.send(I::from(event)).await.is_err() {
                    return;
                }
            }
            let (read, buffer) = wake.read_at(counter, 0).await;
            counter = buffer;
            if let Err(error) = read {
                tracing::error!(%error, "the pumps' eventfd cannot be read");
                tokio::time::sleep(FALLBACK).await;
            }
        }
    });
    Ok(())
}
