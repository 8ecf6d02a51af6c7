//! Where the lab keeps what it shares between processes of one user.

use std::fs;
use std::path::PathBuf;

use crate::LabError;

/// A directory for lock files; one per user, so that root and others do not meet.
pub(crate) fn shared() -> Result<PathBuf, LabError> {
    let path = std::env::temp_dir().join(format!("adit-lab-{}", nix::unistd::geteuid()));
    fs::create_dir_all(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
    Ok(path)
}

/// Opens (and makes) the lock file `name`.
pub(crate) fn lock_file(name: &str) -> Result<fs::File, LabError> {
    let path = shared()?.join(name);
    fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LabError::io(format!("opening {}", path.display())))
}
