//! Who a daemon is: one that is started as root becomes another user, and keeps of all capabilities
//! the one that binds ports below 1024, which a relay does as long as it runs.
//!
//! Capabilities are a thread's own, so this comes before the first thread is started. What only root may
//! read (the key) is read before, what only root may make (the folders of the socket and of the state)
//! is made here.
//!
//! Deliberately absent: a way back.

use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{AccessFlags, Uid, User, access, initgroups, setresgid, setresuid};

/// What is kept.
const KEPT: Capability = Capability::CAP_NET_BIND_SERVICE;

/// What is in the folders is for the user alone.
const FOLDER_MODE: u32 = 0o700;
/// The folders above stay root's, as on any host.
const PARENT_MODE: u32 = 0o755;

/// Why a daemon does not become who it should be.
#[derive(Debug, thiserror::Error)]
pub enum NotDropped {
    /// There is no such user.
    #[error(
        "user = {0:?}: this host has no such user; make it (useradd --system {0}), or leave `user` out"
    )]
    Unknown(String),
    /// Only root can become somebody else.
    #[error("user = {user:?} wants a start as root or as {user}: this runs with the user id {uid}")]
    NotRoot {
        /// Who was wanted.
        user: String,
        /// Who it is.
        uid: u32,
    },
    /// Threads that exist already would stay as they are.
    #[error("the user is changed too late: there are {0} threads already")]
    Threads(usize),
    /// A folder cannot be made for the user.
    #[error("cannot make {path} for the user {user}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// For whom.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// A folder that is there already is not the user's to write in.
    #[error(
        "{user} may not write in {path}: name a folder of its own in the file, or, if this one is the \
         daemon's alone, chown -R {user} {path}"
    )]
    NotWritable {
        /// Which.
        path: PathBuf,
        /// For whom.
        user: String,
    },
    /// The kernel says no.
    #[error("cannot become {user}: {action}: {source}")]
    Refused {
        /// Who was wanted.
        user: String,
        /// At which step.
        action: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user has no way to read its own configuration again.
    #[error("{user} may not read {path}, which a reload reads again: chown {user} {path}")]
    NotReadable {
        /// The configuration.
        path: PathBuf,
        /// Who it would be.
        user: String,
    },
}

/// Becomes `user` for good, if there is one, with the folders in which it writes; `file` is its
/// configuration.
///
/// # Errors
/// When it cannot be done as a whole. The process is then to end: some of it may have been.
pub fn drop_to(user: Option<&str>, file: &Path, folders: &[&Path]) -> Result<(), NotDropped> {
    let Some(name) = user else {
        if Uid::effective().is_root() {
            tracing::info!("this runs as root: `user` in {} gives that up", file.display());
        }
        return Ok(());
    };
    let user = find(name)?;
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(NotDropped::Threads(threads));
    }
    let uid = Uid::effective();
    if uid.is_root() {
        folders.iter().try_for_each(|folder| make(folder, &user))?;
        become_user(&user)?;
    } else if uid != user.uid {
        return Err(NotDropped::NotRoot { user: user.name, uid: uid.as_raw() });
    }
    let refused =
        |(action, source)| NotDropped::Refused { user: user.name.clone(), action, source };
    keep_one_capability().map_err(refused)?;
    let name = || user.name.clone();
    if access(file, AccessFlags::R_OK).is_err() {
        return Err(NotDropped::NotReadable { path: file.into(), user: name() });
    }
    for folder in folders {
        match access(*folder, AccessFlags::W_OK | AccessFlags::X_OK) {
            // It is made when it is needed.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(_) => return Err(NotDropped::NotWritable { path: folder.into(), user: name() }),
        }
    }
    tracing::info!(user = %user.name, "root is given up for good");
    Ok(())
}

/// Whether a daemon that is started as root could become `user`.
///
/// # Errors
/// When there is no such user.
pub fn check(user: &str) -> Result<(), NotDropped> {
    find(user).map(drop)
}

fn find(name: &str) -> Result<User, NotDropped> {
    let found = User::from_name(name).map_err(|error| NotDropped::Refused {
        user: name.to_owned(),
        action: "look it up",
        source: error.into(),
    })?;
    found.ok_or_else(|| NotDropped::Unknown(name.to_owned()))
}

/// A folder that is there stays whose it is.
fn make(folder: &Path, user: &User) -> Result<(), NotDropped> {
    if folder.as_os_str().is_empty() || folder.exists() {
        return Ok(());
    }
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let mut parents = DirBuilder::new();
    parents.recursive(true).mode(PARENT_MODE);
    let made = folder.parent().map_or(Ok(()), |parent| parents.create(parent));
    let made = made.and_then(|()| DirBuilder::new().mode(FOLDER_MODE).create(folder));
    let made = made.and_then(|()| chown(folder, Some(uid), Some(gid)));
    let name = || user.name.clone();
    made.map_err(|source| NotDropped::Folder { path: folder.into(), user: name(), source })
}

type Step<T> = Result<T, (&'static str, Box<dyn std::error::Error + Send + Sync>)>;

fn kernel<T>(action: &'static str, done: Result<T, Errno>) -> Step<T> {
    done.map_err(|error| (action, error.into()))
}

fn capability<T>(action: &'static str, done: Result<T, CapsError>) -> Step<T> {
    done.map_err(|error| (action, error.into()))
}

/// Takes the user's ids and groups; capabilities stay, to be given up next.
fn become_user(user: &User) -> Result<(), NotDropped> {
    let steps = || {
        let name = CString::new(user.name.as_str());
        let name = name.map_err(|error| ("take its name", error.into()))?;
        let bounding = capability("read the bounding set", caps::read(None, CapSet::Bounding))?;
        // While this is root: later nobody may.
        bounding.into_iter().filter(|capability| *capability != KEPT).try_for_each(|dropped| {
            capability("drop capabilities", caps::drop(None, CapSet::Bounding, dropped))
        })?;
        kernel("keep capabilities", prctl::set_keepcaps(true))?;
        kernel("take its groups", initgroups(&name, user.gid))?;
        kernel("take its group", setresgid(user.gid, user.gid, user.gid))?;
        kernel("take its id", setresuid(user.uid, user.uid, user.uid))?;
        kernel("keep no more capabilities", prctl::set_keepcaps(false))
    };
    let refused =
        |(action, source)| NotDropped::Refused { user: user.name.clone(), action, source };
    steps().map_err(refused)
}

/// Gives up all capabilities but one, and whatever a program that is started from here could bring. That
/// one is passed on to a successor (ambient), which binds the same ports.
fn keep_one_capability() -> Step<()> {
    let held = capability("read capabilities", caps::read(None, CapSet::Permitted))?;
    let kept: CapsHashSet = held.into_iter().filter(|capability| *capability == KEPT).collect();
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        // A service manager that has seen to it may have forbidden the call as well.
        if capability("read capabilities", caps::read(None, set))? != kept {
            capability("give up capabilities", caps::set(None, set, &kept))?;
        }
    }
    kernel("give up set-user-id programs", prctl::set_no_new_privs())
}
