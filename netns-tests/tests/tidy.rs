//! The rules of the tree that the compiler does not check.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Who may not name whom, by file or folder.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    ("forwarder/proto/src/frame", &["crate::session", "crate::flow", "crate::schedule"]),
    ("forwarder/proto/src/record", &["crate::session", "crate::flow", "crate::schedule"]),
    ("forwarder/ring/src", &["adit_proto"]),
    ("forwarder/src/collector.rs", &["distributor", "tokio", "config", "gateway"]),
    ("forwarder/src/distributor.rs", &["collector", "tokio", "config", "gateway"]),
    (
        "forwarder/src/pump",
        &["tokio", "clap", "crate::config", "crate::gateway", "crate::registrar"],
    ),
    ("relay/src", &["adit_ring", "io_uring"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.extend(path.extension().is_some_and(|e| e == "rs").then(|| path.to_owned()));
    } else if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
    }
}

fn sources_below(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join(path), &mut found);
    assert!(!found.is_empty(), "no sources below {path}: has it moved?");
    found
}

/// The imports of one module reach only where the architecture lets them.
#[test]
fn imports_point_one_way() {
    for (module, forbidden) in FORBIDDEN {
        for file in sources_below(module) {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| line.trim_start().starts_with("use ")) {
                let offender = forbidden.iter().find(|name| line.contains(**name));
                assert!(offender.is_none(), "{}: {line}", file.display());
            }
        }
    }
}

/// `unsafe` stands in the ring alone; every other crate forbids it.
#[test]
fn unsafe_code_stands_in_the_ring_alone() {
    let crates = [
        "forwarder/about/src",
        "forwarder/proto/src",
        "forwarder/src",
        "relay/src",
        "bench/src",
        "netns-tests/src",
    ];
    for krate in crates {
        let roots = ["lib.rs", "main.rs"].map(|name| root().join(krate).join(name));
        let root = roots.iter().find(|path| path.is_file()).unwrap();
        let text = fs::read_to_string(root).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid it", root.display());
    }
}

/// A file that grows past 500 lines holds a noun that wants its own.
#[test]
fn no_file_outgrows_its_noun() {
    for folder in ["forwarder", "relay/src", "bench/src", "netns-tests/src"] {
        for file in sources_below(folder) {
            if file.components().any(|part| part.as_os_str() == "target") {
                continue;
            }
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 500, "{} has {lines} lines", file.display());
        }
    }
}
