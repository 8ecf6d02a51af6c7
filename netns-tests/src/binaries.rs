//! The built daemons, and the lab's own helpers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::LabError;
use crate::paths::lock_file;

/// Where the daemons are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `adit`.
    pub adit: PathBuf,
    /// `adit-relay`.
    pub relay: PathBuf,
}

/// The daemons, built for release once per process; `ADIT_BIN_DIR` names a folder of others.
///
/// # Errors
/// When the build fails, or the folder does not hold them.
pub fn binaries() -> Result<Binaries, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = match env::var_os("ADIT_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => once(&BUILT, || build(&["-p", "adit", "-p", "adit-relay", "--bins"]))?,
    };
    Ok(Binaries {
        adit: existing(folder.join("adit"))?,
        relay: existing(folder.join("adit-relay"))?,
    })
}

/// The lab's own helper program `name` (`lab-peer`, `lab-probe`).
///
/// Cargo builds it for integration tests anyway; for everything else it is built here, unless
/// `ADIT_BIN_DIR` holds it.
///
/// # Errors
/// When the build fails.
pub fn helper(name: &str) -> Result<PathBuf, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let given = env::var_os("ADIT_BIN_DIR").map(|folder| PathBuf::from(folder).join(name));
    if let Some(given) = given.filter(|given| given.is_file()) {
        return Ok(given);
    }
    let own = env::current_exe().map_err(LabError::io("finding this program"))?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder).to_owned()
    } else if own.file_name().is_some_and(|own| own.to_string_lossy().starts_with("lab-")) {
        folder.to_owned()
    } else {
        let wanted = ["-p", "netns-tests", "--bins"];
        once(&BUILT, || build(&wanted))?
    };
    existing(folder.join(name))
}

fn existing(path: PathBuf) -> Result<PathBuf, LabError> {
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(LabError::io(format!("finding {}", path.display()))(source)),
    }
}

fn once(
    cell: &OnceLock<Result<PathBuf, String>>,
    build: impl FnOnce() -> Result<PathBuf, LabError>,
) -> Result<PathBuf, LabError> {
    let built = cell.get_or_init(|| build().map_err(|error| error.to_string()));
    built.clone().map_err(|text| LabError::Unexpected { what: "the build".to_owned(), text })
}

/// Runs `cargo build --release` in this workspace, and returns the folder of its programs.
fn build(arguments: &[&str]) -> Result<PathBuf, LabError> {
    let lock = lock_file("build.lock")?;
    lock.lock().map_err(LabError::io("waiting for another build"))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |folder| workspace.join(folder));
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet"])
        .args(arguments)
        .current_dir(workspace)
        .output()
        .map_err(LabError::io("running cargo"))?;
    if output.status.success() {
        return Ok(target.join("release"));
    }
    Err(LabError::Command {
        command: format!("cargo build --release {}", arguments.join(" ")),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
