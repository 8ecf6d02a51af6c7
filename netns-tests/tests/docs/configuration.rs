//! Configuration files.

use std::collections::BTreeSet;
use std::fs;

use adit::config::{ConfigError, ForwarderConfig, RelayConfig};
use adit::key::PrivateKey;
use netns_tests::LabError;

use super::{pages, read};

/// The blocks of TOML of a page, with what stands there in place of a key or a digest made one.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```toml") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(filled(&block.join("\n")));
        }
    }
    blocks
}

fn filled(block: &str) -> String {
    let mut text = block.replace("\"e1b1…08fd\"", &format!("\"{}\"", "e1".repeat(32)));
    while let Some(at) = text.find("\"ed25519:…\"") {
        let key = PrivateKey::generate().expect("a key").public();
        text.replace_range(at..at + "\"ed25519:…\"".len(), &format!("\"{key}\""));
    }
    text
}

/// What a file has to say before anything else, where a block leaves that out.
fn tops() -> [String; 2] {
    [
        "key = \"k\"\nrelay = \"relay.example.net:443\"\nrelay_key = \"ed25519:…\"\n",
        "key = \"k\"\nlisten = \"0.0.0.0:443\"\nstate = \"state\"\n",
    ]
    .map(filled)
}

fn load(text: &str, is_relay: bool) -> Result<(), ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checked.toml");
    fs::write(&path, text).expect("a file");
    if is_relay {
        RelayConfig::load(&path).map(|_| ())
    } else {
        ForwarderConfig::load(&path).map(|_| ())
    }
}

/// Every block of TOML on every page is a configuration of one of the daemons, whole or in part.
#[test]
fn every_block_is_a_configuration() {
    let [forwarder, relay] = tops();
    let mut count = 0;
    for (path, page) in pages() {
        for block in blocks(&page) {
            let texts = [
                (block.clone(), false),
                (format!("{forwarder}{block}"), false),
                (block.clone(), true),
                (format!("{relay}{block}"), true),
            ];
            let tried =
                texts.map(|(text, is_relay)| load(&text, is_relay).map_err(|e| e.to_string()));
            assert!(tried.iter().any(Result::is_ok), "{path}: {tried:#?}\n{block}");
            count += 1;
        }
    }
    assert!(count > 10, "the blocks were found: {count}");
    // The control: a key that nobody reads.
    assert!(load(&format!("{forwarder}speed = 1\n"), false).is_err());
}

/// What the pages have the daemons write lies where their units let them write.
#[test]
fn files_are_where_the_units_let_them_be() {
    let folder = |unit: &str| {
        let unit = read(unit);
        let folder = unit.lines().find_map(|line| line.strip_prefix("LogsDirectory="));
        format!("/var/log/{}/", folder.expect("a folder for logs"))
    };
    let folders = ["forwarder/dist/adit.service", "relay/dist/adit-relay.service"].map(folder);
    let files = |block: &str| -> Vec<String> {
        let is_file =
            |line: &&str| line.starts_with("file = ") || line.starts_with("histogram_log");
        let lines = block.lines().filter(is_file).filter_map(|line| line.split('"').nth(1));
        lines.map(str::to_owned).collect()
    };
    for (block, folder) in blocks(&read("docs/configuration.md")).iter().zip(&folders) {
        let files = files(block);
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(files.iter().all(|file| file.starts_with(folder)), "{files:?} and {folder}");
    }
    for (path, page) in pages() {
        for file in blocks(&page).iter().flat_map(|block| files(block)) {
            assert!(folders.iter().any(|folder| file.starts_with(folder)), "{path}: {file}");
        }
    }
}

/// The keys that stand in a file, each with its table.
fn keys(block: &str) -> BTreeSet<(String, String)> {
    let table: toml::Table = block.parse().expect("TOML");
    let mut keys = BTreeSet::new();
    for (name, value) in &table {
        let entries: Vec<&toml::Table> = match value {
            toml::Value::Table(entry) => vec![entry],
            toml::Value::Array(entries) => {
                entries.iter().filter_map(toml::Value::as_table).collect()
            }
            _ => Vec::new(),
        };
        if entries.is_empty() {
            keys.insert((String::new(), name.clone()));
        }
        let all = entries.into_iter().flat_map(|entry| entry.keys());
        keys.extend(all.map(|key| (name.clone(), key.clone())));
    }
    keys
}

/// The page of configurations has every key there is, in its table, and no other.
#[test]
fn every_key_is_on_the_page() -> Result<(), LabError> {
    let page = read("docs/configuration.md");
    let [forwarder, relay] = <[String; 2]>::try_from(blocks(&page)).expect("two files");
    let owned = |(table, key): (&str, &str)| (table.to_owned(), key.to_owned());
    let known: [BTreeSet<_>; 2] =
        [ForwarderConfig::keys().map(owned).collect(), RelayConfig::keys().map(owned).collect()];
    for (block, known) in [&forwarder, &relay].into_iter().zip(&known) {
        let on_page = keys(block);
        let unlisted: Vec<_> = known.difference(&on_page).collect();
        assert!(unlisted.is_empty(), "not on the page: {unlisted:?}");
        let unknown: Vec<_> = on_page.difference(known).collect();
        assert!(unknown.is_empty(), "only on the page: {unknown:?}");
    }
    assert!(load(&forwarder, false).is_ok() && load(&relay, true).is_ok());
    Ok(())
}
