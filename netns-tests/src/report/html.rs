//! The report as one page without anything beside it.

use super::{Line, Report};
use crate::draw::escaped;
use crate::matrix::{Examined, Verdict};

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>adit-lab</title><style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; } td, th { border: 1px solid #bbb; padding: .25em .6em; }
th { text-align: left; background: #eee; } .pass { background: #d6f0d6; }
.fail { background: #f6c4c0; font-weight: bold; } .skip { background: #eee8c8; }
dt { float: left; clear: left; width: 8em; color: #555; } dd { margin-left: 8em; }
pre { white-space: pre-wrap; margin: 0; }
</style></head><body>
<h1>Gateways, ways out, faults and lines</h1>
";

impl Report {
    /// For a browser.
    #[must_use]
    pub fn html(&self) -> String {
        let mut html = HEAD.to_owned();
        html += "<dl>";
        for (what, value) in self.machine.facts() {
            html += &format!("<dt>{}</dt><dd>{}</dd>\n", escaped(what), escaped(&value));
        }
        html += &format!("</dl><p><b>{}</b></p>\n<table>\n", escaped(&self.summary()));
        let mut group = None;
        for line in self.lines() {
            if group.replace(line.scenario.group) != Some(line.scenario.group) {
                html += &format!(
                    "<tr><th>{}</th><th>TCP in</th><th>TCP out</th><th>UDP in</th><th>UDP out</th>\
                     <th></th></tr>\n",
                    line.scenario.group.title()
                );
            }
            html += &self.html_line(&line);
        }
        html += "</table>\n<ol>\n";
        for (_, row, reason) in self.reasons() {
            html +=
                &format!("<li>{}<pre>{}</pre></li>\n", escaped(&row.to_string()), escaped(&reason));
        }
        html + "</ol></body></html>\n"
    }

    fn html_line(&self, line: &Line<'_>) -> String {
        let cell = |examined: Option<&Examined>| {
            let Some(Examined { row, finding }) = examined else { return "<td></td>".to_owned() };
            let title = escaped(&finding.evidence);
            let number = || self.number_of(*row);
            match finding.verdict {
                Verdict::Pass => format!("<td class=\"pass\" title=\"{title}\">pass</td>"),
                Verdict::Fail(_) => format!("<td class=\"fail\">FAIL ({})</td>", number()),
                Verdict::Skip(_) => format!("<td class=\"skip\">skip ({})</td>", number()),
            }
        };
        let (name, cells) = (escaped(line.scenario.gateway), line.cells.map(cell).concat());
        format!("<tr><td>{name}</td>{cells}<td>{}</td></tr>\n", escaped(&line.seen()))
    }
}
