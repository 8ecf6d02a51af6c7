//! The folder that a key and a configuration are put in: both or neither, and never over others, but for
//! a configuration that says nothing, as packages bring it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::config::is_blank;
use crate::key::{KeyError, PrivateKey};

/// The key's name in the folder.
pub const KEY_NAME: &str = "adit.key";
/// The configuration's name in the folder.
pub const CONFIG_NAME: &str = "adit.toml";

/// The key is its owner's alone; the configuration holds no secret but a proxy's login.
const KEY_MODE: u32 = 0o600;
const CONFIG_MODE: u32 = 0o644;
/// The longest configuration that is looked at for whether it says nothing; a package's has 4 KiB.
const BLANK_BYTES_MAX: u64 = 64 << 10;
/// How names begin that nobody reads.
const UNREAD: &str = ".adit-join-";

/// Why nothing can be put there.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// There is one already.
    #[error(
        "{0} exists already and is not overwritten: name another folder with --dir, or move it away"
    )]
    Exists(PathBuf),
    /// Somebody else is about to put both there.
    #[error(
        "another adit join is at work in {0}: wait for its end, or name another folder with --dir"
    )]
    Busy(PathBuf),
    /// The environment's fault.
    #[error("cannot write in {dir}: {source}; --dir names another folder")]
    Unwritable {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Our new key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Both files under names that nobody reads, until they get theirs. Dropped before that, it leaves
/// nothing behind.
#[derive(Debug)]
pub(super) struct Site {
    // In this order they are dropped: the files before the folders that were made for them.
    key: NamedTempFile,
    config: NamedTempFile,
    made: Made,
    /// Whether a configuration that says nothing is in our place.
    replaces_blank: bool,
    /// The folder, locked: what has a name that nobody reads is ours.
    _folder: File,
    dir: PathBuf,
}

impl Site {
    /// Makes sure that both files can be written in `dir`, by writing them: the key is whole. The
    /// configuration is its owner's alone if it `is_secret`.
    pub(super) fn prepare(
        dir: &Path,
        key: &PrivateKey,
        is_secret: bool,
    ) -> Result<Self, SiteError> {
        let unwritable = |source| SiteError::Unwritable { dir: dir.into(), source };
        let mut replaces_blank = false;
        for name in [KEY_NAME, CONFIG_NAME] {
            let path = dir.join(name);
            match fs::symlink_metadata(&path) {
                Ok(_) if name == CONFIG_NAME && says_nothing(&path) => replaces_blank = true,
                Ok(_) => return Err(SiteError::Exists(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unwritable(error)),
            }
        }
        let pem = key.pem()?;
        let made = Made::folders(dir).map_err(unwritable)?;
        let folder = File::open(dir).map_err(unwritable)?;
        match folder.try_lock() {
            Ok(()) => remove_stale(dir).map_err(unwritable)?,
            Err(TryLockError::WouldBlock) => return Err(SiteError::Busy(dir.into())),
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        let write = |mode, content: &[u8]| {
            let mut file = unnamed(dir, mode)?;
            file.write_all(content)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let key = write(KEY_MODE, pem.as_bytes()).map_err(unwritable)?;
        let mode = if is_secret { KEY_MODE } else { CONFIG_MODE };
        let config = write(mode, &[]).map_err(unwritable)?;
        Ok(Self { key, config, made, replaces_blank, _folder: folder, dir: dir.into() })
    }

    /// Puts both in place; returns where the configuration and the key are.
    pub(super) fn settle(mut self, config: &str) -> Result<(PathBuf, PathBuf), SiteError> {
        let dir = self.dir.clone();
        let unwritable = |source| SiteError::Unwritable { dir: dir.clone(), source };
        self.config.write_all(config.as_bytes()).map_err(unwritable)?;
        self.config.as_file().sync_all().map_err(unwritable)?;
        let (config_path, key_path) = (dir.join(CONFIG_NAME), dir.join(KEY_NAME));
        let settled = |error: tempfile::PersistError, path: &Path| match error.error.kind() {
            io::ErrorKind::AlreadyExists => SiteError::Exists(path.into()),
            _ => unwritable(error.error),
        };
        self.key.persist_noclobber(&key_path).map_err(|error| settled(error, &key_path))?;
        // Looked at again: somebody may have written into it since.
        let placed = if self.replaces_blank && says_nothing(&config_path) {
            self.config.persist(&config_path)
        } else {
            self.config.persist_noclobber(&config_path)
        };
        if let Err(error) = placed {
            // It opens nothing without the configuration, and would stand in the next one's way.
            fs::remove_file(&key_path).map_err(unwritable)?;
            return Err(settled(error, &config_path));
        }
        self.made.keep();
        // Both are in place; a folder that cannot be synced makes a power cut worse, no more.
        File::open(&dir).and_then(|dir| dir.sync_all()).ok();
        Ok((config_path, key_path))
    }
}

/// Whether `path` is a file, and no link to one, that holds comments alone.
fn says_nothing(path: &Path) -> bool {
    let short = |found: &fs::Metadata| found.is_file() && found.len() <= BLANK_BYTES_MAX;
    fs::symlink_metadata(path).is_ok_and(|found| short(&found))
        && fs::read_to_string(path).is_ok_and(|text| is_blank(&text))
}

fn unnamed(dir: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let permissions = Permissions::from_mode(mode);
    Builder::new().prefix(UNREAD).permissions(permissions).tempfile_in(dir)
}

/// Removes what somebody left there who was killed: a private key, perhaps.
fn remove_stale(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_unread = entry.file_name().as_encoded_bytes().starts_with(UNREAD.as_bytes());
        if is_unread && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Folders that were made for the files; dropping this removes those that are empty.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `dir` and what is missing above it.
    fn folders(dir: &Path) -> io::Result<Self> {
        let mut made = Self(Vec::new());
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = dir.ancestors().take_while(is_missing).collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder)?;
            made.0.push(folder.into());
        }
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Not empty any more: it is somebody else's by now.
            fs::remove_dir(folder).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    /// Whoever puts a file there in the meantime keeps it, and the other one of ours goes, too.
    #[test]
    fn either_both_files_are_put_in_place_or_none() {
        let key = PrivateKey::generate().unwrap();
        for name in [KEY_NAME, CONFIG_NAME] {
            let dir = tempfile::tempdir().unwrap();
            let site = Site::prepare(dir.path(), &key, false).unwrap();
            fs::write(dir.path().join(name), "mine").unwrap();
            let refused = site.settle("# ours").unwrap_err();
            assert!(matches!(&refused, SiteError::Exists(path) if path.ends_with(name)));
            assert_eq!(names(dir.path()), [name]);
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "mine");
        }
    }

    /// A configuration of comments alone, as a package brings it, gives way; one that somebody writes
    /// into before the relay has answered does not.
    #[test]
    fn only_a_configuration_that_says_nothing_gives_way() {
        let key = PrivateKey::generate().unwrap();
        for (meanwhile, gives_way) in [("# still\n\n", true), ("key = \"mine\"", false)] {
            let dir = tempfile::tempdir().unwrap();
            let config = dir.path().join(CONFIG_NAME);
            fs::write(&config, "# key = \"adit.key\"\n").unwrap();
            let site = Site::prepare(dir.path(), &key, false).unwrap();
            fs::write(&config, meanwhile).unwrap();
            assert_eq!(site.settle("# ours").is_ok(), gives_way);
            let expected = if gives_way { "# ours" } else { meanwhile };
            assert_eq!(fs::read_to_string(&config).unwrap(), expected);
            assert_eq!(dir.path().join(KEY_NAME).exists(), gives_way);
        }
    }

    /// What was left by somebody who was killed goes, a key among it; what belongs to somebody who is
    /// at work does not.
    #[test]
    fn what_a_killed_one_has_left_is_removed() {
        let key = PrivateKey::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in [".adit-join-a1b2c3", ".adit-joined", "mine"] {
            fs::write(dir.path().join(name), "left").unwrap();
        }
        let site = Site::prepare(dir.path(), &key, false).unwrap();
        let refused = Site::prepare(dir.path(), &key, false).unwrap_err();
        assert!(matches!(refused, SiteError::Busy(_)), "{refused}");
        site.settle("# ours").unwrap();
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, [".adit-joined", KEY_NAME, CONFIG_NAME, "mine"]);
    }

    /// Given up, it takes the folders along that it made, unless somebody uses them.
    #[test]
    fn what_is_given_up_leaves_no_folder() {
        let key = PrivateKey::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        drop(Site::prepare(&below, &key, false).unwrap());
        assert!(names(dir.path()).is_empty());
        let site = Site::prepare(&below, &key, false).unwrap();
        fs::write(dir.path().join("a/mine"), "").unwrap();
        drop(site);
        assert_eq!(names(&dir.path().join("a")), ["mine"]);
    }
}
