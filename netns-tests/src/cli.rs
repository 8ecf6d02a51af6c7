//! The command `adit-lab`.
//!
//! Everything happens in namespaces of its own: nothing of the machine's network is read or changed, and
//! nothing is installed unless it is asked for.

mod run;
mod shell;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use adit_about::PagesArgs;
use clap::{CommandFactory, Parser, Subcommand};

use crate::matrix::{Scenario, scenarios, select, topologies};
use crate::{LabError, draw, preflight};

/// Tries Adit through every kind of gateway, way out, fault and line, on this machine, in network
/// namespaces; nothing of the machine's own network is touched.
#[derive(Debug, Parser)]
#[command(name = "adit-lab", version = adit_about::VERSION)]
struct Arguments {
    /// Installs missing tools with apt-get; without this they are only named.
    #[arg(long, global = true)]
    install: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the rows, or those that a pattern means.
    List {
        /// A gateway, a row, or a part of its name; `*` stands for anything.
        pattern: Vec<String>,
    },
    /// Plays the rows, or those that a pattern means, and reports.
    Run(run::RunArgs),
    /// Builds a topology with both daemons in it, and leaves you there.
    Shell(shell::ShellArgs),
    /// Draws a topology.
    Draw {
        /// Which; `adit-lab list` names them.
        topology: String,
        /// Writes an SVG there, too.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Writes man pages, and completions for bash, zsh and fish.
    #[command(hide = true)]
    Pages(PagesArgs),
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.obey() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("adit-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn obey(&self) -> Result<ExitCode, LabError> {
        match &self.command {
            Command::List { pattern } => list(pattern),
            Command::Draw { topology, svg } => picture(topology, svg.as_ref()),
            Command::Run(run) => {
                self.check_tools()?;
                run.run()
            }
            Command::Shell(shell) => {
                self.check_tools()?;
                shell.run()
            }
            Command::Pages(pages) => {
                pages.write(Self::command()).map_err(LabError::Claim)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn check_tools(&self) -> Result<(), LabError> {
        if self.install { preflight::ensure() } else { preflight::check() }
    }
}

fn list(pattern: &[String]) -> Result<ExitCode, LabError> {
    let rows = chosen(pattern)?;
    let mut group = None;
    for scenario in scenarios() {
        let cells: Vec<_> = rows.iter().filter(|row| row.gateway == scenario.gateway).collect();
        if cells.is_empty() {
            continue;
        }
        if group.replace(scenario.group) != Some(scenario.group) {
            println!("\n{}:", scenario.group.title());
        }
        println!("  {:34} {}", scenario.gateway, scenario.about);
        for row in cells {
            println!("      {row}");
        }
    }
    println!("\n{} rows", rows.len());
    Ok(ExitCode::SUCCESS)
}

/// The rows that the patterns mean; there must be one.
fn chosen(pattern: &[String]) -> Result<Vec<crate::matrix::Row>, LabError> {
    let rows = select(pattern);
    if rows.is_empty() {
        let what = pattern.join(" ");
        return Err(LabError::Claim(format!("no row is called '{what}'; see `adit-lab list`")));
    }
    Ok(rows)
}

/// The topology called `name`.
fn topology(name: &str) -> Result<&'static Scenario, LabError> {
    topologies().find(|scenario| scenario.gateway == name).ok_or_else(|| {
        let names: Vec<_> = topologies().map(|scenario| scenario.gateway).collect();
        LabError::Claim(format!("no topology is called '{name}'; there are {}", names.join(", ")))
    })
}

fn picture(name: &str, svg: Option<&PathBuf>) -> Result<ExitCode, LabError> {
    let scenario = topology(name)?;
    println!("{}: {}\n", scenario.gateway, scenario.about);
    print!("{}", draw::ascii(scenario.topology())?);
    if let Some(path) = svg {
        fs::write(path, draw::svg(scenario.topology()))
            .map_err(LabError::io(format!("writing {}", path.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}
