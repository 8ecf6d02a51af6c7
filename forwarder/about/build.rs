//! Finds the commit that is being built.

use std::env;
use std::path::Path;
use std::process::Command;

/// As many digits of the commit as are shown.
const DIGITS: &str = "--short=10";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ADIT_COMMIT");
    let profile = env::var("PROFILE").unwrap_or_default();
    let what = match commit(&profile) {
        Some(commit) => format!("{commit}, {profile}"),
        None if profile == "debug" => profile,
        None => format!("commit unknown, {profile}"),
    };
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=ADIT_VERSION={version} ({what})");
}

/// The commit that `ADIT_COMMIT` names, for those who build without git; or the one that git has
/// checked out. A debug build asks nobody: each commit would mean another build of all that depends on
/// this.
fn commit(profile: &str) -> Option<String> {
    if let Some(named) = env::var("ADIT_COMMIT").ok().filter(|name| !name.is_empty()) {
        return Some(named);
    }
    if profile == "debug" {
        return None;
    }
    // HEAD changes with the branch, its log with each commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        // What is named here and is not there would have this run each time.
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", DIGITS, "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
