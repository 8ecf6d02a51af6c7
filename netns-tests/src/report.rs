//! One table that a person reads: gateway × protocol × direction, and what it was seen on.
//!
//! It can say no better than what was found: a row that was asked for and not played is a failure, and
//! whatever is not a pass is told with its reason.

mod html;
mod machine;
mod markdown;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::LabError;
use crate::matrix::{Direction, Examined, Finding, Protocol, Row, Scenario, Verdict, scenarios};

pub use machine::Machine;

/// The table's columns.
const COLUMNS: [(Protocol, Direction); 4] = [
    (Protocol::Tcp, Direction::Inwards),
    (Protocol::Tcp, Direction::Outwards),
    (Protocol::Udp, Direction::Inwards),
    (Protocol::Udp, Direction::Outwards),
];

/// What a run has found.
#[derive(Debug, Clone)]
pub struct Report {
    machine: Machine,
    examined: Vec<Examined>,
    took: Duration,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Rows that passed.
    pub passed: usize,
    /// Rows that failed.
    pub failed: usize,
    /// Rows that this machine cannot build.
    pub skipped: usize,
}

impl Sums {
    /// Whether nothing failed, nothing was skipped unless that is allowed, and something passed: a run in
    /// which all was skipped shows nothing.
    #[must_use]
    pub fn is_good(self, allow_skip: bool) -> bool {
        self.failed == 0 && self.passed > 0 && (allow_skip || self.skipped == 0)
    }
}

impl Report {
    /// The report of a run that was asked for `rows` and took so long.
    #[must_use]
    pub fn new(machine: Machine, rows: &[Row], examined: &[Examined], took: Duration) -> Self {
        let of = |row: &Row| {
            examined.iter().find(|examined| examined.row == *row).cloned().unwrap_or_else(|| {
                let verdict = Verdict::Fail("it was not played".to_owned());
                let finding = Finding { verdict, evidence: String::new(), took: Duration::ZERO };
                Examined { row: *row, finding }
            })
        };
        Self { machine, examined: rows.iter().map(of).collect(), took }
    }

    /// How many passed, failed, and were skipped.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for examined in &self.examined {
            match examined.finding.verdict {
                Verdict::Pass => sums.passed += 1,
                Verdict::Fail(_) => sums.failed += 1,
                Verdict::Skip(_) => sums.skipped += 1,
            }
        }
        sums
    }

    /// Writes it to `path`, in the form that its name's end asks for.
    ///
    /// # Errors
    /// When the form is none of `html`, `md`, `json`, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LabError> {
        let text = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => self.html(),
            Some("md") => self.markdown(),
            Some("json") => format!("{:#}\n", self.json()),
            _ => {
                return Err(LabError::Claim(format!(
                    "{}: a report is written as .html, .md or .json",
                    path.display()
                )));
            }
        };
        std::fs::write(path, text).map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let sums = self.sums();
        let row = |Examined { row, finding }: &Examined| {
            let (verdict, reason) = match &finding.verdict {
                Verdict::Pass => ("pass", None),
                Verdict::Fail(reason) => ("fail", Some(reason)),
                Verdict::Skip(reason) => ("skip", Some(reason)),
            };
            json!({
                "gateway": row.gateway,
                "protocol": row.protocol.to_string(),
                "direction": row.direction.to_string(),
                "verdict": verdict,
                "reason": reason,
                "seen": finding.evidence,
                "seconds": finding.took.as_secs_f64(),
            })
        };
        json!({
            "machine": self.machine.json(),
            "passed": sums.passed,
            "failed": sums.failed,
            "skipped": sums.skipped,
            "seconds": self.took.as_secs_f64(),
            "rows": self.examined.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// For a terminal: the table, then what is not a pass.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.lines();
        let width = lines.iter().map(|line| line.scenario.gateway.len()).max().unwrap_or(0);
        let mut text = format!("{:width$}  tcp in  tcp out  udp in  udp out\n", "");
        for line in &lines {
            let mark = |cell: Option<&Examined>| match cell.map(|cell| &cell.finding.verdict) {
                None => "",
                Some(Verdict::Pass) => "pass",
                Some(Verdict::Fail(_)) => "FAIL",
                Some(Verdict::Skip(_)) => "skip",
            };
            let [a, b, c, d] = line.cells.map(mark);
            // Writing to a String cannot fail.
            let name = line.scenario.gateway;
            let written = writeln!(text, "{name:width$}  {a:6}  {b:7}  {c:6}  {d}");
            debug_assert!(written.is_ok());
        }
        for (number, row, reason) in self.reasons() {
            let written = writeln!(text, "\n{number}. {row}: {reason}");
            debug_assert!(written.is_ok());
        }
        text + "\n" + &self.summary() + "\n"
    }

    /// One sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let Sums { passed, failed, skipped } = self.sums();
        let seconds = self.took.as_secs();
        format!("{passed} passed, {failed} failed, {skipped} skipped, in {seconds} s.")
    }

    /// The table's lines, in its order; only those with rows.
    fn lines(&self) -> Vec<Line<'_>> {
        let lines = scenarios().iter().map(|scenario| {
            let cells = COLUMNS.map(|(protocol, direction)| {
                let row = Row { gateway: scenario.gateway, protocol, direction };
                self.examined.iter().find(|examined| examined.row == row)
            });
            Line { scenario, cells }
        });
        lines.filter(|line| line.cells.iter().any(Option::is_some)).collect()
    }

    /// Whatever is not a pass, numbered from one, with its reason.
    fn reasons(&self) -> impl Iterator<Item = (usize, Row, String)> {
        let told = self.examined.iter().filter_map(|Examined { row, finding }| {
            let (word, reason) = match &finding.verdict {
                Verdict::Pass => return None,
                Verdict::Fail(reason) => ("FAIL", reason),
                Verdict::Skip(reason) => ("skip", reason),
            };
            Some((*row, format!("{word}: {}", reason.trim())))
        });
        (1..).zip(told).map(|(number, (row, reason))| (number, row, reason))
    }

    /// The number under which a cell's reason stands.
    fn number_of(&self, row: Row) -> usize {
        self.reasons().find(|(_, other, _)| *other == row).map_or(0, |(number, ..)| number)
    }
}

/// A line of the table.
#[derive(Debug)]
struct Line<'a> {
    scenario: &'static Scenario,
    cells: [Option<&'a Examined>; 4],
}

impl Line<'_> {
    /// What was seen, where there is one cell to say it of, or all saw the same kind of thing.
    fn seen(&self) -> String {
        let mut cells = self.cells.iter().flatten();
        match (cells.next(), cells.next()) {
            (Some(only), None) => only.finding.evidence.clone(),
            _ => self.scenario.about.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::rows;

    fn examined(row: Row, verdict: Verdict) -> Examined {
        let evidence = "100 flows".to_owned();
        Examined { row, finding: Finding { verdict, evidence, took: Duration::from_secs(1) } }
    }

    fn machine() -> Machine {
        Machine {
            version: "adit 0".to_owned(),
            kernel: "Linux 6".to_owned(),
            iptables: "iptables v1".to_owned(),
            date: "2000-01-01T00:00:00Z".to_owned(),
            processors: 2,
            rights: "as root".to_owned(),
            rules: None,
        }
    }

    fn report(verdicts: &[Verdict]) -> Report {
        let rows = rows();
        let found: Vec<_> = rows
            .iter()
            .zip(verdicts)
            .map(|(row, verdict)| examined(*row, verdict.clone()))
            .collect();
        let asked = &rows[..verdicts.len()];
        Report::new(machine(), asked, &found, Duration::from_secs(3))
    }

    /// A failure and a skip stand in every form with their reasons, and not as a pass.
    #[test]
    fn what_is_not_a_pass_is_told_in_every_form() {
        let broken = Verdict::Fail("a <byte> is | wrong".to_owned());
        let report = report(&[Verdict::Pass, broken, Verdict::Skip("no SNPT".to_owned())]);
        assert_eq!(report.sums(), Sums { passed: 1, failed: 1, skipped: 1 });
        assert!(!report.sums().is_good(true));
        let (text, markdown, html) = (report.text(), report.markdown(), report.html());
        for form in [&text, &markdown, &html] {
            assert!(form.contains("FAIL") && form.contains("no SNPT"), "{form}");
            assert!(form.contains("1 passed, 1 failed, 1 skipped"), "{form}");
        }
        assert!(text.contains("a <byte> is | wrong"));
        assert!(markdown.contains("a \\<byte\\> is \\| wrong"), "{markdown}");
        assert!(html.contains("a &lt;byte&gt; is | wrong"), "{html}");
        let json = report.json();
        assert_eq!(json["rows"][1]["verdict"], "fail");
        assert_eq!(json["rows"][1]["reason"], "a <byte> is | wrong");
        assert_eq!(json["rows"][2]["verdict"], "skip");
    }

    /// A row that was asked for and has no finding has failed.
    #[test]
    fn a_row_without_a_finding_fails() {
        let rows = rows();
        let found = [examined(rows[0], Verdict::Pass)];
        let report = Report::new(machine(), &rows[..2], &found, Duration::ZERO);
        assert_eq!(report.sums(), Sums { passed: 1, failed: 1, skipped: 0 });
        assert!(report.text().contains("it was not played"));
    }

    /// A run in which nothing passed is not good.
    #[test]
    fn skipping_everything_is_no_success() {
        assert!(!report(&[Verdict::Skip("no".to_owned())]).sums().is_good(true));
        assert!(!report(&[]).sums().is_good(true));
        let some = report(&[Verdict::Pass, Verdict::Skip("no".to_owned())]).sums();
        assert!(some.is_good(true) && !some.is_good(false));
    }

    /// The form is the one that the file's name asks for.
    #[test]
    fn a_report_is_written_in_three_forms_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let report = report(&[Verdict::Pass]);
        for (name, begin) in [("a.html", "<!doctype"), ("a.md", "#"), ("a.json", "{")] {
            let path = folder.path().join(name);
            report.write(&path).unwrap();
            assert!(std::fs::read_to_string(path).unwrap().starts_with(begin));
        }
        assert!(report.write(&folder.path().join("a.pdf")).is_err());
    }
}
