//! The programs as their users get them: Debian packages, container images, and a bare Debian to
//! install on.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binaries::{once, target};
use crate::paths::lock_file;
use crate::{LabError, binaries, preflight};

/// The oldest Debian that the packages are for.
const SUITE: &str = "bookworm";

/// The folder with the packages `adit`, `adit-relay` and `adit-lab`, built once per process.
///
/// # Errors
/// When a tool is missing, or the build fails.
pub fn packages() -> Result<PathBuf, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || {
        preflight::ensure_packing()?;
        let lock = lock_file("packages.lock")?;
        lock.lock().map_err(LabError::io("waiting for another build of the packages"))?;
        succeed(Command::new(recipe("packages")).arg("--fast").env("CARGO", env!("CARGO")))?;
        Ok(target().join("debian"))
    })
}

/// Makes an image of `program` at `out`, a folder, and returns it.
///
/// # Errors
/// When a tool is missing, or the image cannot be made.
pub fn image(program: &str, out: PathBuf) -> Result<PathBuf, LabError> {
    preflight::ensure_packing()?;
    let binaries = binaries()?;
    let folder = binaries.adit.parent().unwrap_or(Path::new("."));
    succeed(Command::new(recipe("image")).arg(program).arg(&out).env("ADIT_BIN_DIR", folder))?;
    Ok(out)
}

/// The root of a Debian 12 with nothing but what each Debian has, and curl. It is made once, and kept among
/// what cargo has built; nobody is to write there.
///
/// # Errors
/// When it cannot be made: without root, or without a Debian mirror.
pub fn bare_debian() -> Result<PathBuf, LabError> {
    preflight::ensure_packing()?;
    let lock = lock_file("debian.lock")?;
    lock.lock().map_err(LabError::io("waiting for another bare Debian"))?;
    let root = target().join("roots").join(SUITE);
    if root.is_dir() {
        return Ok(root);
    }
    let unfinished = root.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(LabError::io("removing half a Debian"))?;
    }
    fs::create_dir_all(&unfinished).map_err(LabError::io("making a folder for Debian"))?;
    let mut command = Command::new("mmdebstrap");
    // With the one program that the pages use and that is not everywhere.
    command.args(["--quiet", "--variant=minbase", "--mode=root", "--include=curl", SUITE]);
    command.arg(&unfinished);
    succeed(command.env("PATH", preflight::search_path()))?;
    fs::rename(&unfinished, &root).map_err(LabError::io("keeping the Debian"))?;
    Ok(root)
}

/// A script of `forwarder/dist`.
fn recipe(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    workspace.join("forwarder/dist").join(name)
}

fn succeed(command: &mut Command) -> Result<(), LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(LabError::io(format!("running {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(LabError::Command {
        command: name,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&said).into_owned(),
    })
}
