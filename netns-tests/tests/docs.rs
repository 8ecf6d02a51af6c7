//! The pages and the programs say the same: every metric, option, configuration key, route, cause, log line
//! and error on a page exists, and every metric, option, key, route and cause that exists is on a page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use netns_tests::LabError;

#[path = "docs/alerts.rs"]
mod alerts;
#[path = "docs/commands.rs"]
mod commands;
#[path = "docs/configuration.rs"]
mod configuration;
#[path = "docs/metrics.rs"]
mod metrics;
#[path = "docs/routes.rs"]
mod routes;
#[path = "docs/words.rs"]
mod words;

type Outcome = Result<(), LabError>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page for users, by its path.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(workspace().join("docs")).expect("a folder");
    let names = docs.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| format!("docs/{}", name.to_string_lossy()));
    let pages = names.filter(|name| name.ends_with(".md")).chain(["README.md".to_owned()]);
    let pages: BTreeSet<_> = pages.collect();
    pages.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// What a page shows as code: the lines of its blocks, and the spans of its sentences. A line that goes
/// on in the next one is one with it.
fn code(page: &str) -> Vec<String> {
    let (mut found, mut is_fenced) = (Vec::new(), false);
    for line in page.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced || line.starts_with("    ") {
            found.push(line.trim().to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The cells of the rows of a table whose first cell is code.
fn rows(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The code in a text.
fn spans(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All sources of `folder`, without its tests.
fn sources(folder: &str) -> String {
    let (mut text, mut folders) = (String::new(), vec![workspace().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.extend((name != "tests").then_some(path));
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let source = fs::read_to_string(&path).expect("a source");
                text.push_str(source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(""));
            }
        }
    }
    text
}
