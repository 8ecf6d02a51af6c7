//! The unix socket in the file system: who may have it, and who may ask on it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::net::{self, ListenPlace};

/// Only the daemon's own user may ask.
const MODE: u32 = 0o600;

/// Why a daemon has no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another daemon answers on {0}: stop it, or give this one another `socket`")]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error(
        "cannot make the socket {path}: {source}; `socket` in the configuration names another place"
    )]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket in the file system; dropping it removes it.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It is another process's as long as that one has not been taken over from.
        if net::is_accepting() {
            // Gone already: just as well.
            fs::remove_file(&self.0).ok();
        }
    }
}

/// Listens on `path`, in place of a socket that nobody answers on.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let unusable = |source| SocketError::Unusable { path: path.into(), source };
    let place = ListenPlace::Unix(path.into());
    let listener = match net::inherited(&place) {
        Some(listener) => listener.into(),
        None if UnixStream::connect(path).is_ok() => return Err(SocketError::Taken(path.into())),
        None => bind(path).map_err(unusable)?,
    };
    net::keep(place, &listener).map_err(unusable)?;
    Ok((listener, SocketFile(path.into())))
}

/// The socket gets its name last, when it has its mode, and so takes a stale one's place at once.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let mut unnamed = path.as_os_str().to_owned();
    unnamed.push(format!(".{}", std::process::id()));
    let unnamed = PathBuf::from(unnamed);
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed)?;
    fs::set_permissions(&unnamed, fs::Permissions::from_mode(MODE))?;
    listener.set_nonblocking(true)?;
    fs::rename(&unnamed, path)?;
    Ok(listener)
}
