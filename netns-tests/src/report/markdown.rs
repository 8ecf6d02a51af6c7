//! The report as a page of the documentation.

use super::{Line, Report};
use crate::matrix::{Examined, Verdict};

/// What a reader might take for shown, and is not.
const NOT_COVERED: &str = "Not covered: silences of minutes (the idle rows forget after 7 s or 3 s, and \
    last a minute or less), MTU black holes under UDP or on the way out alone, names blocked in TLS, \
    443-only firewalls that refuse with port, host or network unreachable, firewalls of IPv6 but the \
    stateful one, IPv4 and IPv6 side by side, port shadowing (it has a suite of its own), and lines that \
    compare datagrams at more than one rate of loss.";

impl Report {
    /// For readers of files.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut lines = vec![
            "# Gateways, ways out, faults and lines".to_owned(),
            String::new(),
            "Each row is a lab of network namespaces: a gateway whose behaviour is probed first, plain \
             traffic that must pass or be stopped there, then Adit. `adit-lab run --report FILE` makes \
             this page on your own machine."
                .to_owned(),
            String::new(),
            NOT_COVERED.to_owned(),
            String::new(),
        ];
        for (what, value) in self.machine.facts() {
            lines.push(format!("- {what}: {}", escaped(&value)));
        }
        lines.extend([String::new(), format!("**{}**", self.summary()), String::new()]);
        lines.push("| | TCP in | TCP out | UDP in | UDP out | |".to_owned());
        lines.push("|---|---|---|---|---|---|".to_owned());
        let mut group = None;
        for line in self.lines() {
            if group.replace(line.scenario.group) != Some(line.scenario.group) {
                lines.push(format!("| **{}** | | | | | |", line.scenario.group.title()));
            }
            lines.push(self.markdown_line(&line));
        }
        let mut reasons = self.reasons().peekable();
        if reasons.peek().is_some() {
            lines.extend([String::new(), "What did not pass:".to_owned(), String::new()]);
        }
        for (number, row, reason) in reasons {
            lines.push(format!("{number}. `{row}`: {}", escaped(&reason)));
        }
        lines.join("\n") + "\n"
    }

    fn markdown_line(&self, line: &Line<'_>) -> String {
        let cell = |examined: Option<&Examined>| {
            let Some(Examined { row, finding }) = examined else { return String::new() };
            match finding.verdict {
                Verdict::Pass => "pass".to_owned(),
                Verdict::Fail(_) => format!("**FAIL** ({})", self.number_of(*row)),
                Verdict::Skip(_) => format!("skip ({})", self.number_of(*row)),
            }
        };
        let cells = line.cells.map(cell).join(" | ");
        format!("| {} | {cells} | {} |", line.scenario.gateway, escaped(&line.seen()))
    }
}

/// Text that stays in its cell.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            '\n' => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
