//! What can be asked for by HTTP.

use std::collections::BTreeSet;

use super::{code, pages, read};

const FILES: [&str; 7] = [
    "forwarder/src/api.rs",
    "forwarder/src/api/condition.rs",
    "forwarder/src/api/histograms.rs",
    "forwarder/src/api/peers.rs",
    "forwarder/src/api/reload.rs",
    "forwarder/src/api/upgrade.rs",
    "relay/src/api.rs",
];

/// The paths in a text; a name in one is written in capitals on a page.
fn paths(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "/_{}".contains(letter);
    let words = text.split(|letter: char| !is_part(letter));
    let is_path = |word: &&str| {
        word.starts_with("/v1/") || ["/metrics", "/healthz", "/readyz"].contains(word)
    };
    words.filter(is_path).map(|path| path.replace("{name}", "NAME")).collect()
}

/// Every route is on a page, and every path on a page is a route.
#[test]
fn routes_are_on_pages_as_they_are() {
    let is_literal = |line: &&str| line.contains("(\"/") && !line.trim_start().starts_with("//");
    let routes: BTreeSet<_> = FILES
        .iter()
        .flat_map(|file| read(file).lines().filter(is_literal).flat_map(paths).collect::<Vec<_>>())
        .collect();
    assert!(routes.len() > 8, "{routes:?}");
    let mut shown = BTreeSet::new();
    for (_, page) in pages() {
        for code in code(&page) {
            let code = code.split("//adit").map(|part| {
                part.split_once("/v1").map_or(part.to_owned(), |(_, rest)| format!(" /v1{rest}"))
            });
            shown.extend(code.flat_map(|part| paths(&part)));
        }
    }
    assert_eq!(shown, routes);
}
