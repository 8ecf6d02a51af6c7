//! Signals on their way into a daemon's inbox.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What the daemon is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM` or `SIGINT`: finish what runs, then end; the second time, end at once.
    Terminate,
    /// `SIGHUP`: read the configuration again.
    Reload,
    /// `SIGUSR2`: let the program's file, which may be a newer one by now, take over.
    Upgrade,
}

impl Signal {
    /// The signal, as the kernel names it.
    pub(crate) fn kind(self) -> nix::sys::signal::Signal {
        match self {
            Self::Terminate => nix::sys::signal::Signal::SIGTERM,
            Self::Reload => nix::sys::signal::Signal::SIGHUP,
            Self::Upgrade => nix::sys::signal::Signal::SIGUSR2,
        }
    }
}

/// Puts signals into `inbox` from now on, instead of letting them kill the process.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn forward_signals<I>(inbox: &mpsc::Sender<I>) -> io::Result<()>
where
    I: From<Signal> + 'static,
{
    let kinds = [
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::interrupt(), Signal::Terminate),
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::user_defined2(), Signal::Upgrade),
    ];
    for (kind, meaning) in kinds {
        let mut arrivals = signal(kind)?;
        let inbox = inbox.clone();
        super::spawn(async move {
            while arrivals.recv().await.is_some() {
                if inbox.send(I::from(meaning)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Waits until the program is told to end (`SIGTERM` or `SIGINT`), instead of letting that kill it.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn interrupted() -> io::Result<()> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
