//! The state folder: what the relay itself writes. Each file is replaced as a whole or not at all,
//! and is the relay's alone.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use adit::config::{Admitted, ENROLLED_FILE};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const ENROLLED_HEAD: &str = "\
# Keys that were enrolled by invitation, written by adit-relay: `adit-relay revoke NAME` removes one.
# Limits may be added by hand (then `kill -HUP` the relay); comments are not kept.
";

/// A file of the state folder that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}; `state` in the configuration names another folder")]
pub(crate) struct Unwritable {
    path: PathBuf,
    source: io::Error,
}

/// Puts `content` in the place of the file `name` in `folder`, which is made if it is not there.
pub(crate) fn replace(folder: &Path, name: &str, content: &str) -> Result<(), Unwritable> {
    let path = folder.join(name);
    let replaced = try_replace(folder, &path, content);
    replaced.map_err(|source| Unwritable { path, source })
}

fn try_replace(folder: &Path, path: &Path, content: &str) -> io::Result<()> {
    if !folder.is_dir() {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        DirBuilder::new().mode(FOLDER_MODE).create(folder)?;
    }
    let permissions = Permissions::from_mode(FILE_MODE);
    let mut file =
        tempfile::Builder::new().prefix(".new-").permissions(permissions).tempfile_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The name is on disk only when its folder is.
    File::open(folder)?.sync_all()
}

/// Puts `enrolled` in the place of all enrolled keys.
pub(crate) fn replace_enrolled(folder: &Path, enrolled: &[Admitted]) -> Result<(), Unwritable> {
    let mut content = ENROLLED_HEAD.to_owned();
    for admitted in enrolled {
        // Into memory: nothing to fail with.
        write!(content, "\n{admitted}").ok();
    }
    replace(folder, ENROLLED_FILE, &content)
}

#[cfg(test)]
mod tests {
    use adit::config::Role;

    use super::*;

    /// A file that cannot be replaced stays as it was, and nothing else is left behind.
    #[test]
    fn files_are_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("lib/state");
        replace(&folder, "a.toml", "one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("a.toml"))), (FOLDER_MODE, FILE_MODE));
        replace(&folder, "a.toml", "two").unwrap();
        assert_eq!(fs::read_to_string(folder.join("a.toml")).unwrap(), "two");

        fs::create_dir(folder.join("b.toml")).unwrap();
        let error = replace(&folder, "b.toml", "three").unwrap_err().to_string();
        assert!(error.contains("b.toml") && error.contains("`state`"), "{error}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "a.toml and b.toml");
        let file = folder.join("a.toml");
        assert!(replace(&file, "c.toml", "").is_err(), "a file is no folder");
        assert_eq!(fs::read_to_string(file).unwrap(), "two");
    }

    /// What is written as enrolled is what the configuration reads.
    #[test]
    fn enrolled_keys_are_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let enrolled =
            [("office", Role::Forwarder), ("laptop", Role::External)].map(|(name, role)| {
                let key = adit::key::PrivateKey::generate().unwrap().public();
                Admitted { is_enrolled: true, ..Admitted::new(name.into(), key, role) }
            });
        replace_enrolled(dir.path(), &enrolled).unwrap();
        let read = adit::config::enrolled(&dir.path().join(ENROLLED_FILE)).unwrap();
        assert_eq!(read, enrolled);
        replace_enrolled(dir.path(), &[]).unwrap();
        assert!(adit::config::enrolled(&dir.path().join(ENROLLED_FILE)).unwrap().is_empty());
    }
}
