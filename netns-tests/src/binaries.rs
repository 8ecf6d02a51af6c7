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

/// The program that runs without a workspace around it.
const PACKAGED: &str = "adit-lab";

/// The daemons, built for release once per process; `ADIT_BIN_DIR` names a folder of others.
///
/// `adit-lab` builds nothing while it finds them beside itself or on `PATH`: it may be packaged.
///
/// # Errors
/// When the build fails, or the folder does not hold them.
pub fn binaries() -> Result<Binaries, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = match env::var_os("ADIT_BIN_DIR").map(PathBuf::from) {
        Some(folder) => folder,
        None => match found(&["adit", "adit-relay"])? {
            Some(folder) => folder,
            None => once(&BUILT, || build(&["-p", "adit", "-p", "adit-relay", "--bins"]))?,
        },
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
    if let Some(folder) = found(&[name])? {
        return Ok(folder.join(name));
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

/// Where [`PACKAGED`], if this is it, finds all of `programs`: beside itself, or in a folder of `PATH`.
fn found(programs: &[&str]) -> Result<Option<PathBuf>, LabError> {
    let own = env::current_exe().map_err(LabError::io("finding this program"))?;
    if own.file_name().is_none_or(|name| name != PACKAGED) {
        return Ok(None);
    }
    let beside = own.parent().map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    let holds = |folder: &PathBuf| programs.iter().all(|program| folder.join(program).is_file());
    let folder = beside.into_iter().chain(env::split_paths(&path)).find(holds);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    if folder.is_none() && !workspace.is_dir() {
        return Err(LabError::MissingTools {
            missing: programs.join(" "),
            cure: format!(
                "put them beside {PACKAGED}, on PATH, or name their folder in ADIT_BIN_DIR"
            ),
        });
    }
    Ok(folder)
}

fn existing(path: PathBuf) -> Result<PathBuf, LabError> {
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(LabError::io(format!("finding {}", path.display()))(source)),
    }
}

/// Runs `build` once per process.
pub(crate) fn once(
    cell: &OnceLock<Result<PathBuf, String>>,
    build: impl FnOnce() -> Result<PathBuf, LabError>,
) -> Result<PathBuf, LabError> {
    let built = cell.get_or_init(|| build().map_err(|error| error.to_string()));
    built.clone().map_err(|text| LabError::Unexpected { what: "the build".to_owned(), text })
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |folder| workspace.join(folder))
}

/// Runs `cargo build --release` in this workspace, and returns the folder of its programs.
fn build(arguments: &[&str]) -> Result<PathBuf, LabError> {
    let lock = lock_file("build.lock")?;
    lock.lock().map_err(LabError::io("waiting for another build"))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet"])
        .args(arguments)
        .current_dir(workspace)
        .output()
        .map_err(LabError::io("running cargo"))?;
    if output.status.success() {
        return Ok(target().join("release"));
    }
    Err(LabError::Command {
        command: format!("cargo build --release {}", arguments.join(" ")),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
