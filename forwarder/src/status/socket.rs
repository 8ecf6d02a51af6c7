//! The unix socket that a daemon answers on. It has a thread of its own with plain blocking calls:
//! one asker at a time, each with a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use tokio::sync::{mpsc, oneshot};

/// Only the daemon's own user may ask.
const MODE: u32 = 0o600;
/// How long one asker may keep the others waiting.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a pause after a failed accept is, so that a lack of descriptors does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A question for the daemon's status; the answer is JSON.
#[derive(Debug)]
pub struct Ask(pub oneshot::Sender<String>);

/// Why a daemon has no socket, or does not answer on it.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another daemon answers on {0}: stop it, or give this one another `socket`")]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error(
        "cannot make the status socket {path}: {source}; `socket` in the configuration names another place"
    )]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no daemon answers on {path} ({source}): is it running, and is this its socket?")]
    Unreachable {
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
        // Gone already: just as well.
        fs::remove_file(&self.0).ok();
    }
}

/// Answers on `path` from now on: each question goes to `inbox`. A socket that nobody answers on
/// is replaced.
///
/// # Errors
/// When another daemon answers there, or the socket cannot be made.
pub fn serve<I>(path: &Path, inbox: mpsc::Sender<I>) -> Result<SocketFile, SocketError>
where
    I: From<Ask> + Send + 'static,
{
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.into()));
    }
    let unusable = |source| SocketError::Unusable { path: path.into(), source };
    let listener = listen(path).map_err(unusable)?;
    let file = SocketFile(path.into());
    let body = move || answer_all(&listener, &inbox);
    thread::Builder::new().name("status".into()).spawn(body).map_err(unusable)?;
    Ok(file)
}

/// The socket gets its name last, when it has its mode, and so takes a stale one's place at once.
fn listen(path: &Path) -> io::Result<UnixListener> {
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
    fs::rename(&unnamed, path)?;
    Ok(listener)
}

fn answer_all<I: From<Ask>>(listener: &UnixListener, inbox: &mpsc::Sender<I>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the status socket cannot accept");
                thread::sleep(ACCEPT_BACKOFF);
                continue;
            }
        };
        let (sender, receiver) = oneshot::channel();
        if inbox.blocking_send(I::from(Ask(sender))).is_err() {
            return;
        }
        // No answer means that the daemon is ending; the asker sees the end of the stream.
        let Ok(answer) = receiver.blocking_recv() else { continue };
        if let Err(error) = write(stream, &answer) {
            tracing::debug!(%error, "whoever asked for the status has gone");
        }
    }
}

fn write(mut stream: UnixStream, answer: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(answer.as_bytes())?;
    stream.write_all(b"\n")
}

/// Asks the daemon on `path`; the answer is JSON.
///
/// # Errors
/// When nobody answers there.
pub fn ask(path: &Path) -> Result<String, SocketError> {
    let unreachable = |source| SocketError::Unreachable { path: path.into(), source };
    let mut answer = String::new();
    let read = UnixStream::connect(path).and_then(|mut stream| {
        stream.set_read_timeout(Some(2 * ANSWER_MAX))?;
        stream.read_to_string(&mut answer)
    });
    match read.map_err(unreachable)? {
        0 => Err(unreachable(io::Error::new(ErrorKind::UnexpectedEof, "it is ending"))),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(path: &Path) -> Result<SocketFile, SocketError> {
        let (inbox, mut asks) = mpsc::channel::<Ask>(1);
        let file = serve(path, inbox)?;
        thread::spawn(move || {
            while let Some(Ask(sender)) = asks.blocking_recv() {
                sender.send("{}".to_owned()).ok();
            }
        });
        Ok(file)
    }

    /// A daemon that runs keeps its socket.
    #[test]
    fn a_socket_that_answers_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/adit.sock");
        let _file = answering(&path).unwrap();
        assert!(matches!(answering(&path), Err(SocketError::Taken(_))));
        assert_eq!(ask(&path).unwrap(), "{}\n");
    }

    /// A daemon that was killed leaves its socket behind, and the next one starts all the same.
    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adit.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path), Err(SocketError::Unreachable { .. })));
        let file = answering(&path).unwrap();
        assert_eq!(ask(&path).unwrap(), "{}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(file);
        assert!(!path.exists());
    }
}
