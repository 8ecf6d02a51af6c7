//! The form in which one process passes things on to the next has a number, and a change of it another.
//!
//! What is read here are the definitions of what is passed on, and of all that they name. Deliberately
//! absent: types that say themselves how they are written, such as keys.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The number, and what it stands for.
const KNOWN: (&str, &str) = ("2", "19c4bf59c2ee70f7");
/// What is passed on, by name, wherever it is defined.
const PASSED: [&str; 8] = [
    "Word",
    "ListenPlace",
    "Left",
    "PeerLeft",
    "LeaseLeft",
    "TunnelLeft",
    "FlowLeft",
    "SessionSnapshot",
];
/// What a pump passes on beside those: `Vec<(PublicKey, (SessionId, Time))>`, who was superseded.
const BESIDE: [&str; 2] = ["SessionId", "Time"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names, and all other characters one by one, without comments and spaces.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut is_name = false;
        for char in line.split("//").next().unwrap_or_default().chars() {
            let goes_on = is_name && (char.is_alphanumeric() || char == '_');
            is_name = char.is_alphanumeric() || char == '_';
            match words.last_mut() {
                Some(last) if goes_on => last.push(char),
                _ if char.is_whitespace() => {}
                _ => words.push(char.to_string()),
            }
        }
    }
    words
}

/// How many of the words belong to the item that they begin with.
fn len_of_item(words: &[String]) -> usize {
    let mut depth = 0_usize;
    for (at, word) in words.iter().enumerate() {
        match word.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (word == ";" || word == "}") {
            return at + 1;
        }
    }
    words.len()
}

/// What can be written and read, and other names for it, by name: there may be several of one name.
fn definitions() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    let mut files = Vec::new();
    for folder in ["forwarder/src", "forwarder/proto/src", "relay/src"] {
        sources(&root().join(folder), &mut files);
    }
    for file in files {
        let words = words(&fs::read_to_string(file).unwrap());
        let mut derived = &words[..0];
        for at in 1..words.len() {
            let rest = &words[at..];
            let is_one_of = |names: &[&str]| names.contains(&rest[0].as_str());
            if is_one_of(&["derive"]) {
                let end = rest.iter().position(|word| word == "]").unwrap();
                derived = &rest[..end];
            }
            let has = |name: &str| derived.iter().any(|word| word == name);
            let is_passable =
                is_one_of(&["struct", "enum"]) && has("Serialize") && has("Deserialize");
            let is_alias = is_one_of(&["type"]) && ["pub", ")"].contains(&words[at - 1].as_str());
            if is_passable || is_alias {
                let item = rest[..len_of_item(rest)].join(" ");
                found.entry(rest[1].clone()).or_default().insert(item);
            }
            if is_one_of(&["struct", "enum"]) {
                derived = &words[..0];
            }
        }
    }
    found
}

/// Whoever changes what is passed on counts the number up: an older process has to hear that this one
/// cannot take over from it, and must not be misread.
#[test]
fn another_form_has_another_number() {
    let definitions = definitions();
    let mut waiting: Vec<String> = PASSED.into_iter().chain(BESIDE).map(str::to_owned).collect();
    for name in &waiting {
        assert!(definitions.contains_key(name), "where is {name} defined by now?");
    }
    let mut named = BTreeSet::new();
    let mut form = String::new();
    while let Some(name) = waiting.pop() {
        if !named.insert(name.clone()) {
            continue;
        }
        for item in definitions.get(&name).into_iter().flatten() {
            waiting.extend(item.split(' ').map(str::to_owned));
        }
    }
    for item in named.iter().filter_map(|name| definitions.get(name)).flatten() {
        writeln!(form, "{item}").unwrap();
    }
    assert!(form.contains("struct FlowSnapshot {") && form.contains("struct Window {"), "{form}");
    let source = fs::read_to_string(root().join("forwarder/src/upgrade.rs")).unwrap();
    let number = source.split("const FORM: u32 = ").nth(1).unwrap();
    let number = number.split(';').next().unwrap();
    let sum = Sha256::digest(form.as_bytes());
    let sum: String =
        sum.iter().take(8).fold(String::new(), |sum, byte| sum + &format!("{byte:02x}"));
    assert_eq!(
        (number, sum.as_str()),
        KNOWN,
        "what is passed on has another form: count FORM up, and write both down here.\n{form}"
    );
}
