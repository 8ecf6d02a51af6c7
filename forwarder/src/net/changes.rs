//! Changes of the host's network on their way into a daemon's inbox.
//!
//! The kernel tells who listens to rtnetlink's groups; [`Known`] picks what matters, and a burst of
//! it (a link that goes down takes its addresses and routes with it) becomes one change.

mod known;
mod message;
mod netlink;

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use known::Known;

/// A burst has ended when so long nothing changed, …
const QUIET: Duration = Duration::from_millis(50);
/// … and is told of after so long in any case. Two are told of no closer than that.
const BURST_MAX: Duration = Duration::from_millis(200);

/// The host's addresses, its main routes or its links are others than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkChanged;

/// Puts one [`NetworkChanged`] into `inbox` for each burst of changes from now on: an address or a
/// route of the main table that comes or goes, a link that goes up or down. At most 5 a second.
///
/// # Errors
/// When the process has no descriptor left, or may not use netlink.
pub fn forward_network_changes<I>(inbox: &mpsc::Sender<I>) -> io::Result<()>
where
    I: From<NetworkChanged> + 'static,
{
    // The subscription first: what changes meanwhile is told of twice, not missed.
    let socket = File::from(netlink::subscribe()?);
    let known = present()?;
    let changed = Rc::new(Notify::new());
    super::spawn(watch(tokio_uring::fs::File::from_std(socket), known, Rc::clone(&changed)));
    super::spawn(tell(changed, inbox.clone()));
    Ok(())
}

async fn watch(socket: tokio_uring::fs::File, mut known: Known, changed: Rc<Notify>) {
    let mut buffer = vec![0; netlink::DATAGRAM_BYTES_MAX];
    loop {
        let (read, returned) = socket.read_at(buffer, 0).await;
        buffer = returned;
        let seen = match read {
            Ok(len) => Ok(known.handle_datagram(buffer.get(..len).unwrap_or_default())),
            // The kernel had more to say than fits its queue: anything may have happened.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                present().map(|present| known = present).map(|()| true)
            }
            Err(error) => Err(error),
        };
        match seen {
            Ok(true) => changed.notify_one(),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "changes of the network are not seen any more");
                return;
            }
        }
    }
}

async fn tell<I: From<NetworkChanged>>(changed: Rc<Notify>, inbox: mpsc::Sender<I>) {
    loop {
        changed.notified().await;
        let end = Instant::now() + BURST_MAX;
        let next = || timeout_at(end.min(Instant::now() + QUIET), changed.notified());
        while next().await.is_ok() && Instant::now() < end {}
        let told_at = Instant::now();
        if inbox.send(I::from(NetworkChanged)).await.is_err() {
            return;
        }
        sleep_until(told_at + BURST_MAX).await;
    }
}

/// What there is at the moment.
fn present() -> io::Result<Known> {
    let mut known = Known::default();
    netlink::list(|message| {
        known.handle(message);
    })?;
    Ok(known)
}
