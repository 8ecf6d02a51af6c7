//! What the fuzz targets begin with is what its names say, so that it goes on being worth something.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use adit_proto::frame::Frames;
use adit_proto::id::{SessionId, Side, Time};
use adit_proto::limits::GRACE;
use adit_proto::record::Opener;
use adit_proto::session::{Session, parse_greeting};

/// All seeds together, in bytes.
const ALL_MAX: usize = 200 * 1024;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.into_iter().map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// Whether a relay's session that is up takes it.
fn is_taken(content: &[u8]) -> bool {
    let mut forwarder: Session<Box<[u8]>> =
        Session::new(Side::Forwarder, SessionId::NONE, GRACE, Time(0));
    let mut relay: Session<Box<[u8]>> =
        Session::new(Side::Relay, SessionId([1; 16]), GRACE, Time(0));
    relay.handle_hello(&forwarder.hello(), Time(0)).unwrap();
    relay.handle_record(content, Time(1), &mut Vec::new()).is_ok()
}

/// Frames are read to the last byte, and those that are called bad are refused.
#[test]
fn frames_are_good_or_bad_as_their_names_say() {
    for (name, content) in seeds("frames") {
        let is_read = Frames::new(&content).all(|frame| frame.is_ok());
        let is_bad = name.starts_with("bad-");
        assert!(is_read || is_bad, "{name}");
        assert!(!is_bad || !is_taken(&content), "{name} is taken");
    }
}

/// So are greetings, of either side; of several only the first counts.
#[test]
fn greetings_are_good_or_bad_as_their_names_say() {
    for (name, content) in seeds("greetings").into_iter().filter(|(name, _)| name != "two-carriers")
    {
        let is_read = [Side::Forwarder, Side::Relay]
            .into_iter()
            .filter_map(|from| parse_greeting(&content, from).ok())
            .any(|hello| hello.epoch < u64::MAX);
        assert_eq!(is_read, !name.starts_with("bad-"), "{name}");
    }
}

/// And records, as far as their headers go.
#[test]
fn records_are_good_or_bad_as_their_names_say() {
    for (name, bytes) in seeds("records") {
        assert_eq!(Opener::record_len(&bytes).is_err(), name.starts_with("bad-"), "{name}");
    }
}

/// They are small, since everybody who clones has them.
#[test]
fn seeds_are_small() {
    let targets = ["frames", "greetings", "packets", "records"];
    let all = targets.iter().flat_map(|target| seeds(target));
    assert!(all.map(|(_, bytes)| bytes.len()).sum::<usize>() <= ALL_MAX);
}
