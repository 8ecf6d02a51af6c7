//! What the programs say, where a page quotes it.

use std::collections::BTreeSet;

use adit::exit;

use super::{code, pages, rows, sources};

/// The texts of a source, as they are printed: what is filled in stands in braces.
fn literals(source: &str) -> Vec<String> {
    let (mut found, mut letters) = (Vec::new(), source.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '/' if letters.peek() == Some(&'/') => _ = letters.find(|letter| *letter == '\n'),
            // A single quotation mark as a character is none that begins a text.
            '\'' if letters.peek() == Some(&'"') => _ = letters.nth(1),
            '"' => {
                let mut text = String::new();
                while let Some(letter) = letters.next() {
                    match letter {
                        '"' => break,
                        '\\' => match letters.next() {
                            Some('\n') => {
                                while letters.next_if(|next| next.is_whitespace()).is_some() {}
                            }
                            Some('n') => text.push(' '),
                            Some(other) => text.push(other),
                            None => {}
                        },
                        letter => text.push(letter),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
    }
    found
}

/// A word, or what may stand for several.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Said(String),
    Any,
}

fn said(text: &str) -> Vec<Word> {
    let words = text.split_whitespace().map(|word| {
        if word.contains(['{', '}', '…']) {
            return Word::Any;
        }
        Word::Said(word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_owned())
    });
    words.filter(|word| *word != Word::Said(String::new())).collect()
}

/// How many words of a program a page may leave out in one place.
const LEFT_OUT_MAX: usize = 6;

/// Whether `quoted` is what `text` begins with. What is filled in stands for `spare` words of it at most.
fn begins(text: &[Word], quoted: &[Word], spare: usize) -> bool {
    match (text, quoted) {
        (_, []) => true,
        (_, [Word::Any, rest @ ..]) => {
            let mut counts = 0..=LEFT_OUT_MAX.min(text.len());
            counts.any(|count| begins(&text[count..], rest, spare))
        }
        ([Word::Any, rest @ ..], _) => {
            let mut counts = 0..=spare.min(quoted.len());
            counts.any(|count| begins(rest, &quoted[count..], spare - count))
        }
        ([one, text @ ..], [other, quoted @ ..]) => one == other && begins(text, quoted, spare),
        ([], _) => false,
    }
}

fn is_said(literals: &[Vec<Word>], quoted: &str) -> bool {
    let quoted = said(quoted);
    let spare = quoted.len() / 4;
    literals.iter().any(|text| (0..text.len()).any(|start| begins(&text[start..], &quoted, spare)))
}

/// What a page promises to be said: first cells of tables of what is said, and lines of logs.
fn quoted(page: &str) -> Vec<String> {
    let mut quoted = Vec::new();
    for table in page.split("| it says |").skip(1) {
        let table: Vec<_> =
            table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
        quoted.extend(
            rows(&table.join("\n")).into_iter().map(|row| row[0].trim_matches('`').to_owned()),
        );
    }
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```text") && line.ends_with(" log") {
            quoted.extend(lines.by_ref().take_while(|line| *line != "```").map(str::to_owned));
        }
    }
    quoted
}

/// Every log line and every error that a page quotes is one of the programs', as far as it is not filled in;
/// every field of such a line is one of theirs.
#[test]
fn what_pages_quote_is_said() {
    let source = sources("forwarder/src") + &sources("relay/src");
    let texts: Vec<_> = literals(&source).iter().map(|text| said(text)).collect();
    let mut count = 0;
    for (path, page) in pages() {
        for line in quoted(&page) {
            let (fields, words): (Vec<&str>, Vec<&str>) = line.split(' ').partition(|word| {
                word.split_once('=').is_some_and(|(name, _)| name.chars().all(char::is_lowercase))
            });
            assert!(is_said(&texts, &words.join(" ")), "{path}: nobody says '{line}'");
            for field in fields.iter().filter_map(|field| field.split('=').next()) {
                let is_there = [format!("%{field}"), format!("{field} = ")];
                assert!(is_there.iter().any(|text| source.contains(text)), "{path}: {field}");
            }
            count += 1;
        }
    }
    assert!(count > 10, "the quotations were found: {count}");
    for control in
        ["the relay does not like this key", "it wants a password and a user", "tunnel down again"]
    {
        assert!(!is_said(&texts, control), "the control: {control}");
    }
}

/// Exit codes and variables that pages name exist; flows are told of as the page shows it.
#[test]
fn codes_and_variables_exist() {
    let programs = [
        "forwarder/src",
        "relay/src",
        "netns-tests/src",
        "bench/src",
        "netns-tests/tests",
        "forwarder/tests",
        "forwarder/proto/tests",
        "forwarder/tests",
    ];
    let source: String = programs.map(sources).concat();
    let (mut codes, mut variables) = (BTreeSet::new(), BTreeSet::new());
    for (_, page) in pages() {
        let after = page.split("exit code ").skip(1);
        codes.extend(after.filter_map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u8>().ok()
        }));
        for code in code(&page) {
            let words =
                code.split(|c: char| !c.is_ascii_uppercase() && c != '_').map(str::to_owned);
            variables.extend(words.filter(|word| word.starts_with("ADIT_")));
        }
    }
    assert!(codes.len() > 1 && variables.len() > 3, "{codes:?} {variables:?}");
    for code in codes {
        assert!(exit::HELP.contains(&format!("\n  {code:>2}  ")), "exit code {code}");
    }
    for variable in variables {
        assert!(source.contains(&format!("\"{variable}")), "{variable}");
    }
    let operations = super::read("docs/operations.md");
    for field in
        ["flow opened", "flow ended", "to_tunnel", "from_tunnel", "lasted_ms", "is_reset", "untold"]
    {
        assert!(
            operations.contains(field) && sources("forwarder/src/pump").contains(field),
            "{field}"
        );
    }
}
