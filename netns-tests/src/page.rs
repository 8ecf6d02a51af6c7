//! Pages of `docs`, whose fenced blocks are run as they stand.
//!
//! The word after the language says where a block runs: "```sh gateway" on the gateway.

use std::fs;
use std::path::Path;

use crate::LabError;

/// A fenced block of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The language: `sh` for commands, `toml` for a file.
    pub language: String,
    /// What the page says after the language: the host, and perhaps more.
    pub place: String,
    /// The line of the page that opens the block.
    pub line: usize,
    /// What stands in it.
    pub text: String,
}

/// The blocks of `docs/NAME` that say where they belong, in their order.
///
/// # Errors
/// When the page cannot be read, or a block does not end.
pub fn blocks(name: &str) -> Result<Vec<Block>, LabError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let path = workspace.join("docs").join(name);
    let doing = format!("reading {}", path.display());
    let text = fs::read_to_string(&path).map_err(LabError::io(doing))?;
    parse(&text).map_err(|line| LabError::Unexpected {
        what: format!("{}, line {line}", path.display()),
        text: "this fenced block does not end".to_owned(),
    })
}

/// The only block of `docs/NAME` that belongs to `place`.
///
/// # Errors
/// When there is none, or more than one.
pub fn block(name: &str, place: &str) -> Result<Block, LabError> {
    let mut found: Vec<_> =
        blocks(name)?.into_iter().filter(|block| block.place == place).collect();
    found.pop().filter(|_| found.is_empty()).ok_or_else(|| LabError::Unexpected {
        what: format!("docs/{name}"),
        text: format!("it has {} blocks for '{place}'", found.len()),
    })
}

/// The blocks with a place; or the line of the one that does not end.
fn parse(page: &str) -> Result<Vec<Block>, usize> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, opening)) = lines.next() {
        let Some(info) = opening.strip_prefix("```") else { continue };
        let mut text = String::new();
        loop {
            match lines.next() {
                None => return Err(line),
                Some((_, "```")) => break,
                Some((_, inner)) => {
                    text.push_str(inner);
                    text.push('\n');
                }
            }
        }
        if let Some((language, place)) = info.split_once(' ') {
            let (language, place) = (language.to_owned(), place.to_owned());
            blocks.push(Block { language, place, line, text });
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// Blocks that say where they belong are found, with their line; others are not.
    #[test]
    fn blocks_with_a_place_are_found() {
        let page = "a\n```sh relay\nls\n\nid\n```\n```toml\nx = 1\n```\n```sh client quick\n```\n";
        let blocks = parse(page).expect("whole blocks");
        let found: Vec<_> = blocks.iter().map(|b| (b.line, &*b.place, &*b.text)).collect();
        assert_eq!(found, [(2, "relay", "ls\n\nid\n"), (10, "client quick", "")]);
    }

    /// A block without an end is reported where it begins.
    #[test]
    fn endless_block_is_an_error() {
        assert_eq!(parse("\n```sh relay\nls\n"), Err(2));
    }
}
