//! Everything that compares, in one lab, in one run: each round makes every measurement of every way,
//! so that a ratio holds whatever the machine does meanwhile.

mod bars;
mod section;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use clap::Args;

use self::section::{SECTIONS, Section, Sizes};
use crate::bed::Bed;
use crate::cli::Shared;
use crate::error::BenchError;
use crate::report::{Report, Table, tell};
use crate::results::Results;
use crate::statistics::Rounds;
use crate::way::{Way, rotated};
use crate::{connections, machine, output};

/// All that is compared, as far as it is installed.
const WAYS: [Way; 7] = [
    Way::Kernel,
    Way::Socat,
    Way::Haproxy,
    Way::HaproxySplice,
    Way::Adit,
    Way::Rathole,
    Way::RatholeNoise,
];

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    shared: Shared,
}

/// What has been measured so far, section by section.
struct Comparison {
    ways: Vec<Way>,
    sections: Vec<(Section, Results)>,
    /// Runs that came to nothing, and why.
    failures: Vec<String>,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        (options.rounds, options.sizes) = (1, Sizes::SMOKE);
    }
    let ways = options.shared.ways(&WAYS);
    let sections = SECTIONS.map(|section| (section, Results::default())).into();
    let mut comparison = Comparison { ways, sections, failures: Vec::new() };
    let mut conditions = Vec::new();
    let mut progress = Progress::new(comparison.ways.len() * SECTIONS.len() * options.rounds);
    let mut quiet = options.shared.quiet();
    for round in 0..options.rounds {
        let (bed, found) = build(&comparison.ways)?;
        conditions = found;
        for (at, section) in SECTIONS.iter().enumerate() {
            for (turn, way) in rotated(&comparison.ways.clone(), round).enumerate() {
                // A smoke run has no time to look around before each run.
                if turn == 0 || !options.shared.smoke {
                    quiet.wait();
                }
                progress.step(section.name());
                comparison.measure(&bed, at, way, &options.sizes);
            }
        }
    }
    conditions.push(quiet.condition());
    comparison.publish(&conditions, &options)
}

/// A lab of its own for each round: what one round leaves in the processes' heaps must not hide
/// what the next would need.
fn build(ways: &[Way]) -> Result<(Bed, Vec<(String, String)>), BenchError> {
    let bed = Bed::allowing("compare", ways)?;
    let mut conditions = machine::conditions(bed.lab(), ways)?;
    conditions.extend(bed.congestion_condition());
    connections::prepare(&bed)?;
    Ok((bed, conditions))
}

/// Says how far a long run has come.
struct Progress {
    begun: Instant,
    runs: usize,
    made: usize,
}

impl Progress {
    fn new(runs: usize) -> Self {
        Self { begun: Instant::now(), runs, made: 0 }
    }

    /// Begins the line of a run, which the run itself ends.
    fn step(&mut self, name: &str) {
        self.made += 1;
        eprint!("[{}/{}, {:.0?}] {name}, ", self.made, self.runs, self.begun.elapsed());
    }
}

impl Comparison {
    /// Makes one run. One that fails is a result as well, and must not end the others.
    fn measure(&mut self, bed: &Bed, at: usize, way: Way, sizes: &Sizes) {
        let (section, results) = &mut self.sections[at];
        if let Err(error) = section.sample(bed, way, sizes, results) {
            eprintln!("{way}: {error}");
            self.failures.push(format!("{way}, {}: {error}", section.name()));
            for measure in section.measures() {
                results.add(way, measure.name, measure.unit, f64::NAN);
            }
        }
    }

    fn rounds(&self, section: Section, way: Way, measure: &str) -> Option<&Rounds> {
        let (_, results) = self.sections.iter().find(|(known, _)| *known == section)?;
        results.rounds(way, measure)
    }

    /// One Markdown report for all sections; figures and plots of each are files of their own.
    fn publish(self, conditions: &[(String, String)], options: &Options) -> Result<(), BenchError> {
        let mut text = format!("## Adit compared, {} rounds\n\n", options.rounds);
        text += &format!("{}\n", bars::table(&self));
        let notes = self.notes(options);
        for (section, results) in self.sections {
            let table = section_table(section, &results, &self.ways);
            let title = section.title(&options.sizes);
            text += &format!("### {title}\n\n{table}\n");
            let name = section.name().to_owned();
            let conditions = conditions.to_vec();
            let report = Report { name, title, conditions, table, notes: Vec::new(), results };
            if let Some(folder) = &options.shared.out {
                output::write(&report, folder)?;
                text += &plots(section, &report.results);
            }
        }
        for note in notes {
            text += &format!("- {note}\n");
        }
        text += "\nConditions:\n\n";
        for (what, value) in conditions {
            // Writing to a String cannot fail.
            let written = writeln!(text, "- {what}: {value}");
            debug_assert!(written.is_ok());
        }
        if let Some(folder) = &options.shared.out {
            write_report(&text, &folder.join("report.md"))?;
        }
        tell(&text, options.shared.markdown.as_deref())
    }

    fn notes(&self, options: &Options) -> Vec<String> {
        let mut notes = vec![
            "Medians (least–most) of interleaved rounds, each in a lab of its own; × Adit compares within each round. Bars and \
             goals compare Adit with the others, round by round, in the same way."
                .to_owned(),
            "Round trips: closed loop over one connection, SCHED_IDLE spinners keep the processors \
             awake; beside bulk, one iperf3 flow inwards, whose rate stands beside the times. Quantiles \
             are of each round."
                .to_owned(),
            "CPU: user and system time of the forwarding processes from /proc/PID/stat; what the kernel \
             does in interrupts is in nobody's sum. Memory: PSS of the larger of the two sides' \
             processes, from so many held connections to twice as many."
                .to_owned(),
            "Not measured here: UDP, and the relay's CPU at 10,000 idle flows.".to_owned(),
        ];
        for failure in &self.failures {
            // One line each: a program's log may be long.
            let line = failure.lines().next().unwrap_or_default();
            notes.push(format!("Came to nothing (NaN): {line}"));
        }
        if options.shared.smoke {
            let note = "A smoke run: too short for its figures to mean anything.";
            notes.push(note.to_owned());
        }
        notes
    }
}

/// Each way's figures, and their ratio to Adit's.
fn section_table(section: Section, results: &Results, ways: &[Way]) -> Table {
    let mut headings = vec!["way".to_owned()];
    for measure in section.measures() {
        headings.push(format!("{} × Adit", measure.name));
        headings.push(format!("{}, {}", measure.name, measure.unit));
    }
    let mut table = Table::new(headings);
    for &way in ways {
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
fn plots(section: Section, results: &Results) -> String {
    let mut text = String::new();
    let name = section.name();
    if !results.timings.is_empty() {
        text += &format!("![percentiles]({})\n", output::curves_file(name));
    }
    for measure in section.measures().iter().filter(|measure| measure.plotted) {
        let file = output::bars_file(name, measure.name);
        text += &format!("![{}]({file})\n", measure.name);
    }
    text + "\n"
}

fn write_report(text: &str, path: &Path) -> Result<(), BenchError> {
    fs::write(path, text).map_err(BenchError::io(format!("writing {}", path.display())))
}
