//! Command lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use netns_tests::{binaries, commands};

use super::{Outcome, code, pages};

const PROGRAMS: [&str; 4] = ["adit", "adit-relay", "adit-lab", "adit-bench"];

/// The page of commands has what each program says of itself, word for word. (`adit-bench` has a test of its own.)
#[test]
fn commands_are_listed_as_they_are() -> Outcome {
    let binaries = binaries()?;
    commands::check(&binaries.adit, "adit")?;
    commands::check(&binaries.relay, "adit-relay")?;
    commands::check(Path::new(env!("CARGO_BIN_EXE_adit-lab")), "adit-lab")
}

/// Every option that a page shows is one of the program that it is shown with, or of one of ours where it
/// stands alone.
#[test]
fn options_on_pages_exist() -> Outcome {
    let mut options_by_program = BTreeMap::new();
    for program in PROGRAMS {
        let options = commands::options(program)?;
        assert!(options.contains("--help"), "{program} has a section");
        options_by_program.insert(program, options);
    }
    let pages = pages();
    let others = pages.iter().filter(|(path, _)| path != "docs/commands.md");
    let mut strangers = Vec::new();
    for (path, page) in others {
        for code in code(page) {
            strangers.extend(
                strange(&code, &options_by_program)
                    .map(|option| format!("{path}: {option} in {code}")),
            );
        }
    }
    assert!(strangers.is_empty(), "{strangers:#?}");
    // The control: what is not there is found.
    assert!(strange("adit run --fast", &options_by_program).is_some());
    assert!(strange("--fast", &options_by_program).is_some());
    assert!(strange("adit token x --ports 1", &options_by_program).is_some(), "the relay's");
    assert!(strange("curl --fast; adit run", &options_by_program).is_none(), "somebody else's");
    Ok(())
}

/// An option that its program does not have.
fn strange(code: &str, options_by_program: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_./,".contains(letter);
    let mut words = code.split(|letter: char| !is_part(letter)).filter(|word| !word.is_empty());
    let mut program = None;
    if words.clone().next().is_some_and(|word| word.starts_with("--")) {
        let is_known =
            |option: &String| options_by_program.values().any(|all| all.contains(option));
        return commands::long_options(code).into_iter().find(|option| !is_known(option));
    }
    words.find_map(|word| {
        let name = word.rsplit('/').next().unwrap_or(word);
        if let Some(options) = options_by_program.get(name) {
            program = Some(options);
            return None;
        }
        let options = program?;
        commands::long_options(word).into_iter().find(|option| !options.contains(option))
    })
}
