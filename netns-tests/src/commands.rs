//! The page that lists every command line (`docs/commands.md`): what the programs themselves say, section
//! by section. With `ADIT_WRITE_DOCS=1` a section that differs is written anew.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LabError;

/// The page.
const PAGE: &str = "commands.md";
/// Says that the page is to be written.
const WRITE: &str = "ADIT_WRITE_DOCS";
/// How wide the programs' help is asked to be.
const COLUMNS: &str = "100";

fn page() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    workspace.join("docs").join(PAGE)
}

/// What `program` says of `command` and of all below it, in their order.
fn helps(program: &Path, name: &str, command: &[String]) -> Result<String, LabError> {
    let output = Command::new(program)
        .args(command)
        .arg("-h")
        .env("COLUMNS", COLUMNS)
        .stdin(Stdio::null())
        .output()
        .map_err(LabError::io(format!("asking {}", program.display())))?;
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let title = [&[name.to_owned()], command].concat().join(" ");
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    let mut text = format!("### {title}\n\n```\n{}\n```\n\n", lines.join("\n").trim());
    let below = lines.iter().skip_while(|line| **line != "Commands:").skip(1);
    for line in below.take_while(|line| !line.is_empty()) {
        let is_command = line.starts_with("  ") && !line.starts_with("   ");
        let word = line.split_whitespace().next().filter(|word| is_command && *word != "help");
        if let Some(word) = word {
            let command = [command, &[word.to_owned()]].concat();
            text.push_str(&helps(program, name, &command)?);
        }
    }
    Ok(text)
}

/// Compares the section of `program` with what it says.
///
/// # Errors
/// When they differ, or the program cannot be asked.
pub fn check(program: &Path, name: &str) -> Result<(), LabError> {
    let path = page();
    let reading = format!("reading {}", path.display());
    let text = fs::read_to_string(&path).map_err(LabError::io(reading))?;
    let heading = format!("## {name}\n");
    let missing = || LabError::Unexpected {
        what: path.display().to_string(),
        text: format!("it has no section {name}"),
    };
    let start = text.find(&format!("\n{heading}")).ok_or_else(missing)? + 1;
    let end = text[start..].find("\n## ").map_or(text.len(), |at| start + at + 1);
    let wanted = format!("{heading}\n{}", helps(program, name, &[])?);
    if text[start..end].trim() == wanted.trim() {
        return Ok(());
    }
    if env::var_os(WRITE).is_some() {
        let rest = if end == text.len() { "" } else { "\n" };
        let written = format!("{}{}\n{rest}{}", &text[..start], wanted.trim(), &text[end..]);
        return fs::write(&path, written).map_err(LabError::io("writing the page"));
    }
    Err(LabError::Unexpected {
        what: format!("{}, section {name}", path.display()),
        text: format!(
            "{name} says something else by now: run this test once with {WRITE}=1.\n{wanted}"
        ),
    })
}

/// The long options that the section of a program has.
///
/// # Errors
/// When the page cannot be read.
pub fn options(name: &str) -> Result<BTreeSet<String>, LabError> {
    let text = fs::read_to_string(page()).map_err(LabError::io("reading the page"))?;
    let heading = format!("## {name}");
    let section = text.lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    Ok(section.flat_map(long_options).collect())
}

/// The long options in a text.
pub fn long_options(text: &str) -> Vec<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let words = text.split(|letter: char| !is_part(letter) && letter != '_');
    let options = words.filter_map(|word| {
        let name = word.strip_prefix("--")?;
        let is_name = name.starts_with(|letter: char| letter.is_ascii_lowercase());
        is_name.then(|| word.trim_end_matches('-').to_owned())
    });
    options.collect()
}
