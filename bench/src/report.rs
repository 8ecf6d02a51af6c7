//! A report: the conditions, one table, and what has to be known to read it.
//!
//! One form serves both the terminal and a file: Markdown whose columns are aligned.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::cli::Shared;
use crate::error::BenchError;
use crate::output;
use crate::results::Results;

/// Rows under headings; the first column is text, the others are figures.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widths = cells.chain(self.headings.get(column)).map(|cell| cell.chars().count());
        widths.max().unwrap_or(0).max(3)
    }

    fn line(&self, cells: &[String], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (column, cell) in cells.iter().enumerate() {
            let width = self.width(column);
            match column {
                0 => write!(f, "| {cell:<width$} ")?,
                _ => write!(f, "| {cell:>width$} ")?,
            }
        }
        writeln!(f, "|")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(&self.headings, f)?;
        for column in 0..self.headings.len() {
            let dashes = "-".repeat(self.width(column));
            match column {
                0 => write!(f, "|-{dashes}-")?,
                _ => write!(f, "|-{dashes}:")?,
            }
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| self.line(row, f))
    }
}

/// A table with its conditions and notes.
#[derive(Debug)]
pub(crate) struct Report {
    /// What its files' names begin with.
    pub(crate) name: String,
    /// What was measured, in one line.
    pub(crate) title: String,
    /// What the figures hold under.
    pub(crate) conditions: Vec<(String, String)>,
    /// The figures.
    pub(crate) table: Table,
    /// What has to be known to read them.
    pub(crate) notes: Vec<String>,
    /// What the table is made of.
    pub(crate) results: Results,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(f, "{}", self.table)?;
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        writeln!(f, "\nConditions:\n")?;
        self.conditions.iter().try_for_each(|(what, value)| writeln!(f, "- {what}: {value}"))
    }
}

impl Report {
    /// Prints the report, and writes the files that were asked for.
    pub(crate) fn publish(&self, shared: &Shared) -> Result<(), BenchError> {
        if let Some(folder) = &shared.out {
            output::write(self, folder)?;
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let written = write!(text, "{self}");
        debug_assert!(written.is_ok());
        tell(&text, shared.markdown.as_deref())
    }
}

/// Prints a report's text, and appends it to `markdown` if there is such a file to be.
pub(crate) fn tell(text: &str, markdown: Option<&Path>) -> Result<(), BenchError> {
    println!("\n{text}");
    let Some(path) = markdown else { return Ok(()) };
    let doing = format!("appending to {}", path.display());
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| writeln!(file, "{text}")).map_err(BenchError::io(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wide characters such as the dash of a range count once, so that columns stay aligned.
    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(["way", "Gbit/s"]);
        table.row(["kernel".to_owned(), "40.0 (39–41)".to_owned()]);
        table.row(["adit".to_owned(), "9.0".to_owned()]);
        let lines: Vec<_> = table.to_string().lines().map(|line| line.chars().count()).collect();
        assert!(lines.iter().all(|length| *length == lines[0]), "{table}");
    }
}
