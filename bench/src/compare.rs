//! Everything that compares, in one lab, in one run: each round makes every measurement of every way,
//! so that a ratio holds whatever the machine does meanwhile.
//!
//! Two parts: all of it under the congestion control that figures are published under, then bulk alone
//! under the machine's own.

mod bars;
mod install;
mod part;
mod progress;
mod section;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Args, ValueEnum};

use self::part::Part;
use self::progress::Progress;
use self::section::{Ground, SECTIONS, SECTIONS_OF_OWN, Sizes};
use crate::bed::Congestion;
use crate::cli::Shared;
use crate::error::BenchError;
use crate::machine;
use crate::quiet::Quiet;
use crate::report::tell;
use crate::way::{Way, rotated};

/// What is enough to see what a congestion control does.
const WAYS_OF_OWN: [Way; 6] =
    [Way::Kernel, Way::Socat, Way::HaproxySplice, Way::Adit, Way::Rathole, Way::RatholeNoise];

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// First installs what is missing of the others, by cargo and apt-get.
    #[arg(long)]
    install: bool,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    shared: Shared,
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.install {
        install::missing();
    }
    if options.shared.smoke {
        (options.rounds, options.sizes) = (1, Sizes::SMOKE);
    }
    let ways = options.shared.ways(Way::value_variants());
    let mut all = Part::new(Congestion::Allowing, ways.clone(), &SECTIONS);
    let of_own = ways.into_iter().filter(|way| WAYS_OF_OWN.contains(way)).collect();
    let mut own = Part::new(Congestion::Machines, of_own, &SECTIONS_OF_OWN);
    let mut parts = vec![&mut all];
    if machine::own_congestion() != machine::WANTED_CONGESTION {
        parts.push(&mut own);
    }
    let seconds: f64 = parts.iter().map(|part| part.seconds(&options.sizes)).sum();
    let mut progress = Progress::new(seconds * rounds(&options));
    let mut quiet = options.shared.quiet();
    for round in 0..options.rounds {
        for part in &mut parts {
            measure(part, round, &options, &mut quiet, &mut progress)?;
        }
    }
    let noted = quiet.condition();
    parts.iter_mut().for_each(|part| part.conditions.push(noted.clone()));
    publish(&all, &own, &options)
}

fn rounds(options: &Options) -> f64 {
    f64::from(u32::try_from(options.rounds).unwrap_or(u32::MAX))
}

/// One round, in a lab of its own: what one round leaves in the processes' heaps must not hide what
/// the next would need.
fn measure(
    part: &mut Part,
    round: usize,
    options: &Options,
    quiet: &mut Quiet,
    progress: &mut Progress,
) -> Result<(), BenchError> {
    let mut ground = Ground::new(part.congestion, &part.ways)?;
    part.conditions = ground.conditions(&part.ways)?;
    part.conditions.push(machine::spinners());
    for at in 0..part.sections.len() {
        let section = part.sections[at].0;
        // Before each of hundreds of runs it would take longer than they do.
        quiet.wait();
        let ways: Vec<_> = part.ways.iter().copied().filter(|way| section.suits(*way)).collect();
        for way in rotated(&ways, round) {
            progress.step(section.name());
            part.measure(&mut ground, at, way, &options.sizes);
            progress.done(section.seconds(&options.sizes));
        }
    }
    Ok(())
}

/// One Markdown report for all sections; figures and plots of each are files of their own.
fn publish(all: &Part, own: &Part, options: &Options) -> Result<(), BenchError> {
    let folder = options.shared.out.as_deref();
    let mut text = format!("## Adit compared, {} rounds\n\n", options.rounds);
    text += &format!("{}\n", bars::table(all));
    text += &all.text("", &options.sizes, folder)?;
    let notes = notes(all, options);
    for note in notes {
        text += &format!("- {note}\n");
    }
    text += &conditions(all);
    if own.was_measured() {
        let name = machine::own_congestion();
        text += &format!("\n## The same under this machine's own congestion control, {name}\n\n");
        text += &own.text("own-", &options.sizes, folder)?;
        text += &conditions(own);
    }
    if let Some(folder) = folder {
        write_report(&text, &folder.join("report.md"))?;
    }
    tell(&text, options.shared.markdown.as_deref())
}

fn conditions(part: &Part) -> String {
    let mut text = "\nConditions:\n\n".to_owned();
    for (what, value) in &part.conditions {
        // Writing to a String cannot fail.
        let written = writeln!(text, "- {what}: {value}");
        debug_assert!(written.is_ok());
    }
    text
}

fn notes(part: &Part, options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Medians (least–most) of interleaved rounds, each in a lab of its own; × Adit compares within each round. Bars and \
         goals compare Adit with the others, round by round, in the same way."
            .to_owned(),
        "Round trips: closed loop over one connection, SCHED_IDLE spinners keep the processors \
         awake (in no other section); beside bulk, one iperf3 flow inwards, whose rate stands beside the times. Quantiles \
         are of each round."
            .to_owned(),
        "CPU: user and system time of the forwarding processes from /proc/PID/stat; what the kernel \
         does in interrupts is in nobody's sum. Memory: PSS of the larger of the two sides' \
         processes, from so many held connections to twice as many."
            .to_owned(),
        format!(
            "Relay's CPU: the processor time of the process at the relay over {} s in which {} \
             connections are held that carry nothing, in nanoseconds by its own clock; of the others' {}, as many as the \
             limit of open files lets them hold.",
            options.sizes.watch_seconds,
            options.sizes.idle_flows,
            options.sizes.idle_flows_of(Way::Rathole)
        ),
        "Datagrams: those that came, at the highest offered rate of which less than 1 % was lost, found \
         by doubling and bisection to a tenth. Where Adit or the kernel is near 250,000 a second it may be \
         the sender that could offer no more."
            .to_owned(),
    ];
    for failure in &part.failures {
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

fn write_report(text: &str, path: &Path) -> Result<(), BenchError> {
    fs::write(path, text).map_err(BenchError::io(format!("writing {}", path.display())))
}
