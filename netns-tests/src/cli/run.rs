//! `adit-lab run`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::chosen;
use crate::matrix::{Progress, Suite, Verdict};
use crate::report::{Machine, Report};
use crate::{LabError, binaries, helper};

/// How many rows at once, if nobody says: most of them mostly wait.
const JOBS: usize = 4;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A gateway, a row, or a part of its name; `*` stands for anything. All rows without it.
    pattern: Vec<String>,
    /// Writes the report there; `.html`, `.md` or `.json` says how.
    #[arg(long)]
    report: Option<PathBuf>,
    /// How many rows at once.
    #[arg(long, default_value_t = JOBS)]
    jobs: usize,
    /// A shell script that each gateway runs after its own rules, inside the lab: to try rules of
    /// your own. The outside is wan0, the inside lan0.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Succeeds though rows were skipped, as this machine cannot build them.
    #[arg(long)]
    allow_skip: bool,
}

impl RunArgs {
    pub(super) fn run(&self) -> Result<ExitCode, LabError> {
        let rows = chosen(&self.pattern)?;
        let rules = self.rules.as_ref().map(|path| {
            fs::read_to_string(path).map_err(LabError::io(format!("reading {}", path.display())))
        });
        let rules = rules.transpose()?;
        // What is missing shows before anything begins.
        binaries()?;
        for name in ["lab-peer", "lab-probe", "lab-link"] {
            helper(name)?;
        }
        let machine = Machine::this(rules.clone())?;
        // Whatever cannot be written in the end is known now.
        if let Some(path) = &self.report {
            Report::new(machine.clone(), &[], &[], Instant::now().elapsed()).write(path)?;
        }
        println!("{} rows, {} at once", rows.len(), self.jobs);
        let started = Instant::now();
        let suite = Suite { rows: rows.clone(), jobs: self.jobs, rules };
        let examined = suite.run(show);
        let report = Report::new(machine, &rows, &examined, started.elapsed());
        println!("\n{}", report.text());
        if let Some(path) = &self.report {
            report.write(path)?;
            println!("The report: {}", path.display());
        }
        let is_good = report.sums().is_good(self.allow_skip);
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn show(progress: Progress<'_>) {
    let Progress::Over(examined, over, all) = progress else { return };
    let seconds = examined.finding.took.as_secs_f64();
    let (mark, text) = match &examined.finding.verdict {
        Verdict::Pass => ("pass", examined.finding.evidence.as_str()),
        Verdict::Fail(reason) => ("FAIL", reason.as_str()),
        Verdict::Skip(reason) => ("skip", reason.as_str()),
    };
    println!("[{over:3}/{all}] {mark} {} ({seconds:.1} s): {text}", examined.row);
}
