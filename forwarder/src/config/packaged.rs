//! The files that the packages bring: comments alone, and true.

use std::path::Path;

use super::file::Schema;
use super::{ConfigError, ForwarderConfig, RelayConfig, forwarder, is_blank, relay};

const FORWARDER: &str = include_str!("../../dist/adit.toml");
const RELAY: &str = include_str!("../../../relay/dist/relay.toml");

/// The file once somebody has taken the comment sign off every key.
fn uncommented(text: &str) -> String {
    let is_key = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        line.starts_with('[')
            || key.is_some_and(|key| key.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()))
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn tells_every_key(text: &str, schema: &Schema) {
    let tables = schema.tables.iter().flat_map(|(table, keys)| [&[*table][..], *keys].concat());
    for key in schema.top.iter().copied().chain(tables) {
        let shapes = [format!("{key} = "), format!("[{key}]")];
        assert!(shapes.iter().any(|shape| text.contains(shape)), "it does not tell of {key}");
    }
}

fn loaded<T>(text: &str, load: impl Fn(&Path) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packaged.toml");
    std::fs::write(&path, text).unwrap();
    load(&path)
}

/// The forwarder's file says nothing, which is said of it with the cure; it tells of every key, and
/// what it tells is right.
#[test]
fn forwarders_file_says_nothing_and_tells_of_every_key() {
    assert!(is_blank(FORWARDER));
    let refused = loaded(FORWARDER, ForwarderConfig::load).unwrap_err().to_string();
    assert!(refused.contains("adit join"), "{refused}");
    tells_every_key(FORWARDER, &forwarder::SCHEMA);
    let config = loaded(&uncommented(FORWARDER), ForwarderConfig::load).unwrap();
    assert_eq!((config.peers.len(), config.tokens.len(), config.listeners.len()), (1, 1, 1));
}

/// The relay's, likewise.
#[test]
fn relays_file_says_nothing_and_tells_of_every_key() {
    assert!(is_blank(RELAY));
    let refused = loaded(RELAY, RelayConfig::load).unwrap_err().to_string();
    assert!(refused.contains("adit-relay keygen"), "{refused}");
    tells_every_key(RELAY, &relay::SCHEMA);
    // The state of a relay on this machine is none of ours.
    let text = uncommented(RELAY).replace("/var/lib/adit-relay", "state");
    let config = loaded(&text, RelayConfig::load).unwrap();
    assert_eq!(config.admitted.len(), 2);
}
