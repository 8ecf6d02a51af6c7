//! Listeners for the life of the daemon, which it has from the process before it, if there was one; and
//! whether anybody is accepted at the moment.
//!
//! They belong to the process as a whole, as its descriptors do: two parts of it cannot have one place.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::listener::{bind, bind_datagrams};
use crate::upgrade::{Packer, Parcel};

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenPlace {
    /// For connections.
    Tcp(SocketAddr),
    /// For datagrams.
    Udp(SocketAddr),
    /// In the file system.
    Unix(PathBuf),
}

#[derive(Debug)]
struct Kept {
    inherited: Vec<(ListenPlace, OwnedFd)>,
    own: Vec<(ListenPlace, OwnedFd)>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { inherited: Vec::new(), own: Vec::new() });
/// Whether callers are accepted.
static GATE: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(true));

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The listener at this place that the process before this one had, once.
pub fn inherited(place: &ListenPlace) -> Option<OwnedFd> {
    let mut kept = kept();
    let at = kept.inherited.iter().position(|(other, _)| other == place)?;
    Some(kept.inherited.swap_remove(at).1)
}

/// Keeps a listener for the process after this one.
///
/// # Errors
/// When the process has no descriptor left.
pub fn keep(place: ListenPlace, listener: &impl AsFd) -> io::Result<()> {
    let copy = listener.as_fd().try_clone_to_owned()?;
    kept().own.push((place, copy));
    Ok(())
}

/// Listens on `address` for the life of the daemon, as [`bind`] does.
///
/// # Errors
/// As of [`bind`].
pub fn bind_kept(address: SocketAddr, backlog: i32, is_only_v6: bool) -> io::Result<TcpListener> {
    let place = ListenPlace::Tcp(address);
    let listener = match inherited(&place) {
        Some(listener) => listener.into(),
        None => bind(address, backlog, is_only_v6)?,
    };
    keep(place, &listener)?;
    Ok(listener)
}

/// A UDP socket at `address` for the life of the daemon, as [`bind_datagrams`] makes it.
///
/// # Errors
/// As of [`bind_datagrams`].
pub fn bind_datagrams_kept(address: SocketAddr, is_only_v6: bool) -> io::Result<UdpSocket> {
    let place = ListenPlace::Udp(address);
    let socket = match inherited(&place) {
        Some(socket) => socket.into(),
        None => bind_datagrams(address, is_only_v6, false)?,
    };
    keep(place, &socket)?;
    Ok(socket)
}

/// All listeners that are kept, for the process after this one.
pub(crate) fn pack_kept() -> io::Result<Parcel> {
    let kept = kept();
    let mut packer = Packer::new()?;
    packer.put(&kept.own.len())?;
    for (place, listener) in &kept.own {
        packer.put(place)?;
        packer.put_socket(listener)?;
    }
    packer.finish()
}

/// Takes the listeners of the process before this one.
pub(crate) fn inherit(parcel: Parcel) -> io::Result<()> {
    let mut unpacker = parcel.unpack()?;
    let count: usize = unpacker.take()?;
    let mut kept = kept();
    for _ in 0..count {
        let place = unpacker.take()?;
        kept.inherited.push((place, unpacker.take_socket()?));
    }
    Ok(())
}

/// Closes the inherited listeners that nobody has asked for: nobody listens there any more.
pub fn forget_inherited() {
    kept().inherited.clear();
}

/// From now on callers wait.
pub fn pause_accepting() {
    GATE.send_replace(false);
}

/// From now on callers are accepted again.
pub fn resume_accepting() {
    GATE.send_replace(true);
}

/// Whether callers are accepted.
pub fn is_accepting() -> bool {
    *GATE.borrow()
}

/// The next caller, while callers are accepted. `accept` may be given up and begun again.
pub async fn accepting<T>(accept: impl AsyncFn() -> T) -> T {
    let mut gate = GATE.subscribe();
    loop {
        // The sender lives as long as the process.
        gate.wait_for(|is_open| *is_open).await.ok();
        tokio::select! {
            biased;
            _ = gate.wait_for(|is_open| !*is_open) => {}
            accepted = accept() => return accepted,
        }
    }
}
