//! The same picture for a browser.

use std::fmt::Write as _;

use super::{Layer, Placed, escaped, layers};
use crate::Topology;

const WIDTH: usize = 760;
const LINE: usize = 24;
const MARGIN: usize = 20;
const GAP: usize = 22;

/// The topology as SVG.
#[must_use]
pub fn svg(topology: Topology) -> String {
    let mut body = String::new();
    let mut top = MARGIN;
    for layer in layers(&topology.draw("picture")) {
        let (title, lines, colour) = match layer {
            Layer::Segment { name, hosts } => {
                let line =
                    |Placed { name, address, role }: &Placed| format!("{name}  {address}  {role}");
                (name, hosts.iter().map(line).collect::<Vec<_>>(), "#eef4fb")
            }
            Layer::Gateway { name, outside, inside, rules } => {
                let addresses = format!("{outside} outside, {inside} inside");
                (name, vec![addresses, rules], "#fbe9e0")
            }
        };
        if top > MARGIN {
            let (x, from) = (MARGIN + 40, top - GAP);
            body +=
                &format!("<path d=\"M{x} {from} V{top}\" stroke=\"#444\" stroke-width=\"2\"/>\n");
        }
        let height = (lines.len() + 1) * LINE + LINE / 2;
        body += &format!(
            "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{}\" height=\"{height}\" rx=\"6\" \
             fill=\"{colour}\" stroke=\"#444\"/>\n",
            WIDTH - 2 * MARGIN
        );
        for (index, (line, weight)) in [(title, "bold")]
            .into_iter()
            .chain(lines.into_iter().map(|line| (line, "normal")))
            .enumerate()
        {
            let y = top + (index + 1) * LINE;
            // Writing to a String cannot fail.
            let written = writeln!(
                body,
                "<text x=\"{}\" y=\"{y}\" font-weight=\"{weight}\">{}</text>",
                MARGIN + 14,
                escaped(&line)
            );
            debug_assert!(written.is_ok());
        }
        top += height + GAP;
    }
    let height = top - GAP + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"ui-monospace, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
