//! Each threat of `docs/security.md` names the tests that show its answer, and they exist.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The table's heading.
const HEADING: &str = "| threat | answer | where | shown by |";
/// More threats than these are in the table, or it has not been found.
const THREATS_MIN: usize = 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows of the table: the threat, and what stands in its last cell.
fn threats(page: &str) -> Vec<(String, String)> {
    let rows = page.lines().skip_while(|line| *line != HEADING).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| {
        let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "four cells: {row}");
        (cells[0].to_owned(), cells[3].to_owned())
    });
    cells.collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Why `FILE::NAME` is no test; nothing when it is one.
fn flaw(named: &str) -> Option<String> {
    let Some((file, name)) = named.split_once("::") else {
        return Some(format!("{named} is no FILE::NAME"));
    };
    let Ok(source) = fs::read_to_string(root().join(file)) else {
        return Some(format!("there is no {file}"));
    };
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_named = |line: &str| {
        let rest = line.trim_start_matches("async ").strip_prefix("fn ");
        rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(|line| is_named(line)) else {
        return Some(format!("{file} has no {name}"));
    };
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
    let (is_test, is_ignored) = attributes.fold((false, false), |(test, ignored), line| {
        (test || is_test(line), ignored || line.starts_with("#[ignore"))
    });
    (!is_test || is_ignored).then(|| format!("{named} is not run as a test"))
}

/// No threat is without a test, and no test that is named is gone.
#[test]
fn every_threat_has_a_test_that_exists() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let threats = threats(&page);
    assert!(threats.len() > THREATS_MIN, "{} threats: has the table moved?", threats.len());
    let mut flaws = Vec::new();
    for (threat, cell) in &threats {
        if quoted(cell).next().is_none() {
            flaws.push(format!("{threat}: no test"));
        }
        flaws.extend(quoted(cell).filter_map(flaw).map(|flaw| format!("{threat}: {flaw}")));
    }
    assert!(flaws.is_empty(), "docs/security.md:\n{}", flaws.join("\n"));
}

/// The control: what is no test is found out.
#[test]
fn what_is_no_test_is_found_out() {
    let own = "netns-tests/tests/security_docs.rs";
    assert_eq!(flaw(&format!("{own}::what_is_no_test_is_found_out")), None);
    for bad in ["nothing.rs::a", "no separator", &format!("{own}::root"), &format!("{own}::what")] {
        assert!(flaw(bad).is_some(), "{bad}");
    }
}
