//! A part of a comparison: ways and sections under one congestion control.

use std::path::Path;

use super::section::{Ground, Section, Sizes};
use crate::bed::Congestion;
use crate::error::BenchError;
use crate::output;
use crate::report::{Report, Table};
use crate::results::Results;
use crate::statistics::Rounds;
use crate::way::Way;

/// What a lab takes to stand, with everything that is compared in it.
const LAB_SECONDS: f64 = 8.0;

/// What has been measured so far, section by section.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) congestion: Congestion,
    pub(super) ways: Vec<Way>,
    pub(super) sections: Vec<(Section, Results)>,
    /// Those of the last round.
    pub(super) conditions: Vec<(String, String)>,
    /// Runs that came to nothing, and why.
    pub(super) failures: Vec<String>,
}

impl Part {
    /// Nothing measured yet.
    pub(super) fn new(congestion: Congestion, ways: Vec<Way>, sections: &[Section]) -> Self {
        let sections = sections.iter().map(|section| (*section, Results::default())).collect();
        Self { congestion, ways, sections, conditions: Vec::new(), failures: Vec::new() }
    }

    /// What a round takes, about.
    pub(super) fn seconds(&self, sizes: &Sizes) -> f64 {
        let of = |section: Section| {
            let ways = self.ways.iter().filter(|way| section.suits(**way)).count();
            section.seconds(sizes) * f64::from(u32::try_from(ways).unwrap_or(u32::MAX))
        };
        LAB_SECONDS + self.sections.iter().map(|(section, _)| of(*section)).sum::<f64>()
    }

    /// Makes one run. One that fails is a result as well, and must not end the others.
    pub(super) fn measure(&mut self, ground: &mut Ground, at: usize, way: Way, sizes: &Sizes) {
        let (section, results) = &mut self.sections[at];
        if let Err(error) = section.sample(ground, way, sizes, results) {
            eprintln!("{way}: {error}");
            self.failures.push(format!("{way}, {}: {error}", section.name()));
            for measure in section.measures() {
                results.add(way, measure.name, measure.unit, f64::NAN);
            }
        }
    }

    /// Whether there is anything to tell.
    pub(super) fn was_measured(&self) -> bool {
        self.sections.iter().any(|(_, results)| !results.figures.is_empty())
    }

    /// The rounds of a figure.
    pub(super) fn rounds(&self, section: Section, way: Way, measure: &str) -> Option<&Rounds> {
        let (_, results) = self.sections.iter().find(|(known, _)| *known == section)?;
        results.rounds(way, measure)
    }

    /// The sections' tables, and the plots of those whose files go into `folder`.
    pub(super) fn text(
        &self,
        prefix: &str,
        sizes: &Sizes,
        folder: Option<&Path>,
    ) -> Result<String, BenchError> {
        let mut text = String::new();
        for (section, results) in &self.sections {
            let table = table(*section, results, &self.ways);
            let title = section.title(sizes);
            text += &format!("### {title}\n\n{table}\n");
            let Some(folder) = folder else { continue };
            let name = format!("{prefix}{}", section.name());
            text += &plots(&name, *section, results);
            let (conditions, results) = (self.conditions.clone(), results.clone());
            let report = Report { name, title, conditions, table, notes: Vec::new(), results };
            output::write(&report, folder)?;
        }
        Ok(text)
    }
}

/// Each way's figures, and their ratio to Adit's.
fn table(section: Section, results: &Results, ways: &[Way]) -> Table {
    let mut headings = vec!["way".to_owned()];
    for measure in section.measures() {
        headings.push(format!("{} × Adit", measure.name));
        headings.push(format!("{}, {}", measure.name, measure.unit));
    }
    let mut table = Table::new(headings);
    for &way in ways.iter().filter(|way| section.suits(**way)) {
        let mut row = vec![way.to_string()];
        for measure in section.measures() {
            let own = results.rounds(way, measure.name);
            let adit = results.rounds(Way::Adit, measure.name);
            let ratio = own.zip(adit).map(|(own, adit)| own.ratio(adit));
            let ratio = ratio.filter(|ratio| ratio.median().is_finite());
            row.push(ratio.map_or("–".to_owned(), |ratio| ratio.summary(2)));
            row.push(own.map_or("–".to_owned(), |own| own.summary(measure.decimals)));
        }
        table.row(row);
    }
    table
}

/// The plots of a section that belong into the report.
fn plots(name: &str, section: Section, results: &Results) -> String {
    let mut text = String::new();
    if !results.timings.is_empty() {
        text += &format!("![percentiles]({})\n", output::curves_file(name));
    }
    for measure in section.measures().iter().filter(|measure| measure.plotted) {
        let file = output::bars_file(name, measure.name);
        text += &format!("![{}]({file})\n", measure.name);
    }
    text + "\n"
}
