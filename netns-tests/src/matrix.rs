//! The acceptance matrix: every gateway × protocol × direction, the ways out of strict networks, and
//! the faults of long lives, each with its control.
//!
//! ```text
//!   rows() ──▶ run(row), or examine(row, rules) ──▶ Finding ──▶ report::Report
//!                 └── a lab of its own, verified, then plain traffic, then the tunnel's
//! ```
//!
//! A row passes when the gateway behaves as its preset promises, when plain traffic passes or fails as it
//! must there, and when everything that the tunnel carries is right to the last byte. Whatever else
//! happens, a panic and a row that does not end included, is a failure. Skipped is only what this
//! machine's kernel or its tools cannot build, never an error after that; the reason says what is missing.
//!
//! Deliberately absent: a second attempt. A row that passes only sometimes has failed.

mod catalogue;
mod egress;
mod fault;
mod impaired;
mod selection;
mod suite;
mod translated;

use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Lab, LabError, Link, Topology};
use catalogue::Play;

pub use catalogue::{Group, Scenario, scenario, scenarios, topologies};
pub use selection::select;
pub use suite::{Examined, Progress, Suite};

/// How long a row may take: thrice what the longest takes on two busy processors.
const ROW_MAX: Duration = Duration::from_secs(300);
/// How long a row whose lab was ended may take to notice.
const END_MAX: Duration = Duration::from_secs(20);
/// How much of an error a verdict holds.
const REASON_BYTES_MAX: usize = 1_500;

/// What crosses the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// An external peer.
    Inwards,
    /// An internal peer.
    Outwards,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inwards => "inwards",
            Self::Outwards => "outwards",
        })
    }
}

/// One cell of the table; shown as `gateway/protocol/direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The gateway, or what befalls it, as [`scenario`] knows it.
    pub gateway: &'static str,
    /// What crosses it.
    pub protocol: Protocol,
    /// Who begins.
    pub direction: Direction,
}

impl Row {
    /// Whether it compares speeds that the line does not limit, hence needs the machine for itself.
    pub(super) fn is_timed(&self) -> bool {
        let is_wide = |link: &Link| link.rate_mbit.is_none() && link.loss == 0.0;
        scenario(self.gateway)
            .is_some_and(|scenario| matches!(&scenario.play, Play::Impaired(link) if is_wide(link)))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.gateway, self.protocol, self.direction)
    }
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything held.
    Pass,
    /// Something did not.
    Fail(String),
    /// This machine cannot build it.
    Skip(String),
}

/// A verdict, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// What was seen, for those that passed.
    pub evidence: String,
    /// How long it took.
    pub took: Duration,
}

/// Every row there is.
#[must_use]
pub fn rows() -> Vec<Row> {
    scenarios().iter().flat_map(Scenario::rows).collect()
}

/// Plays a row in a lab of its own.
#[must_use]
pub fn run(row: &Row) -> Verdict {
    examine(row, None).verdict
}

/// Plays a row in a lab of its own, whose gateway has been given `rules` (a shell script) after its
/// preset's.
#[must_use]
pub fn examine(row: &Row, rules: Option<&str>) -> Finding {
    let rules = rules.map(str::to_owned);
    watch(*row, Conditions { rules, keeps_logs: true, anchor: Arc::default() })
}

/// The same, with rules that the row shall not survive: its failure is no reason to keep its logs.
#[must_use]
pub fn sabotage(row: &Row, rules: &str) -> Finding {
    let rules = Some(rules.to_owned());
    watch(*row, Conditions { rules, keeps_logs: false, anchor: Arc::default() })
}

/// What a row is played under.
#[derive(Debug, Clone)]
struct Conditions {
    rules: Option<String>,
    keeps_logs: bool,
    /// The process whose end is the end of the lab, once there is one.
    anchor: Arc<AtomicI32>,
}

/// What went wrong, and when.
#[derive(Debug)]
enum Trouble {
    /// While the lab was built from its preset.
    Building(LabError),
    /// Afterwards.
    Playing(LabError),
}

/// Plays a row in a thread of its own, and ends its lab when it takes too long.
fn watch(row: Row, conditions: Conditions) -> Finding {
    let started = Instant::now();
    let anchor = Arc::clone(&conditions.anchor);
    let (tell, told) = mpsc::channel();
    let player = thread::Builder::new().name(row.to_string()).spawn(move || {
        let outcome = scenario(row.gateway)
            .ok_or_else(|| LabError::Claim(format!("there is no gateway '{}'", row.gateway)))
            .map_err(Trouble::Playing)
            .and_then(|scenario| perform(row, scenario, &conditions));
        // Nobody listens any more when it took too long.
        drop(tell.send(outcome));
    });
    let outcome = match player {
        Ok(_) => told.recv_timeout(ROW_MAX).unwrap_or_else(|ended| {
            Err(Trouble::Playing(LabError::Claim(match ended {
                mpsc::RecvTimeoutError::Timeout => {
                    let ended =
                        if end(&anchor, &told) { "" } else { ", nor once its lab was ended" };
                    format!("not over after {ROW_MAX:?}{ended}")
                }
                mpsc::RecvTimeoutError::Disconnected => "it panicked".to_owned(),
            })))
        }),
        Err(source) => Err(Trouble::Playing(LabError::io("starting a thread")(source))),
    };
    let took = started.elapsed();
    match outcome {
        Ok(evidence) => Finding { verdict: Verdict::Pass, evidence, took },
        Err(trouble) => Finding { verdict: judge(&trouble), evidence: String::new(), took },
    }
}

/// Ends a lab by its first process, hence whatever its row waits for; says whether the row is over then.
fn end<T>(anchor: &AtomicI32, told: &mpsc::Receiver<T>) -> bool {
    let pid = anchor.load(Ordering::Relaxed);
    if pid > 0 {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            // It may have ended just now.
            Ok(()) | Err(_) => {}
        }
    }
    !matches!(told.recv_timeout(END_MAX), Err(mpsc::RecvTimeoutError::Timeout))
}

fn perform(row: Row, scenario: &Scenario, conditions: &Conditions) -> Result<String, Trouble> {
    if let Play::Impaired(_) = scenario.play {
        let device = "/dev/net/tun";
        let opened = File::options().read(true).write(true).open(device);
        opened.map_err(|source| Trouble::Building(LabError::io(device)(source)))?;
    }
    stage(row, scenario.topology(), conditions, |lab| match scenario.play {
        Play::Translated(_) => translated::play(row, lab),
        Play::Refused(refusal) => egress::refused(refusal, lab),
        Play::Proxied(proxy) => egress::proxied(row, proxy, lab),
        Play::Rebuffed(rebuff) => egress::rebuffed(rebuff, lab),
        Play::Fault(story) => story.play(lab),
        Play::Impaired(link) => impaired::play(row, &link, lab),
    })
}

/// Builds the lab, makes sure of it, and plays; its logs stay when that fails unforeseen.
fn stage(
    row: Row,
    topology: Topology,
    conditions: &Conditions,
    play: impl FnOnce(&Lab) -> Result<String, LabError>,
) -> Result<String, Trouble> {
    let name = row.to_string().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let drawn = topology.draw(&name);
    // Whatever compares speeds has one of the few slots; the suite plays it alone.
    let drawn = if row.is_timed() { drawn } else { drawn.paced() };
    let mut lab = drawn.build().map_err(Trouble::Building)?;
    conditions.anchor.store(lab.anchor_pid(), Ordering::Relaxed);
    let outcome = verify(&lab, conditions.rules.as_deref()).and_then(|()| play(&lab));
    conditions.anchor.store(0, Ordering::Relaxed);
    if outcome.is_err() && conditions.keeps_logs {
        lab.keep();
    }
    outcome.map_err(Trouble::Playing)
}

/// Makes sure of the gateway, and of what further rules make of it.
fn verify(lab: &Lab, rules: Option<&str>) -> Result<(), LabError> {
    let probe = || lab.verify_nat("icp", "ext", "relay");
    probe()?;
    // Puts the preset's rules back in the end, hence before any others.
    lab.verify_firewall("icp", "ext")?;
    let Some(rules) = rules else { return Ok(()) };
    lab.gateway().shell(rules)?;
    probe()
}

/// What iptables, ip and the kernel say when they were built without something.
const LACKING: &[&str] = &[
    "No chain/target/match by that name",
    "Couldn't load",
    "missing kernel module",
    "Operation not supported",
    "Protocol not supported",
];

/// Skipped is only what could not be built; whatever is wrong afterwards is a failure.
fn judge(trouble: &Trouble) -> Verdict {
    let (Trouble::Building(error) | Trouble::Playing(error)) = trouble;
    let text = error.to_string();
    match trouble {
        Trouble::Building(
            LabError::MissingTools { .. } | LabError::NoNamespaces { .. } | LabError::Io { .. },
        ) => Verdict::Skip(first_line(&text)),
        Trouble::Building(LabError::Command { output, .. })
            if LACKING.iter().any(|lack| output.contains(lack)) =>
        {
            let line = output.lines().find(|line| LACKING.iter().any(|lack| line.contains(lack)));
            Verdict::Skip(format!("this machine lacks it: {}", line.unwrap_or_default().trim()))
        }
        _ => Verdict::Fail(text[..text.floor_char_boundary(REASON_BYTES_MAX)].to_owned()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A claim that must hold.
fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), LabError> {
    if holds { Ok(()) } else { Err(LabError::Claim(otherwise())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(output: &str) -> LabError {
        LabError::Command {
            command: "iptables".to_owned(),
            status: "exit status: 2".to_owned(),
            output: output.to_owned(),
        }
    }

    /// What the machine lacks is skipped; what does not hold fails, and so does any other error, be it
    /// in the same words: rules of the user's own that this machine cannot have are no reason to skip.
    #[test]
    fn only_what_cannot_be_built_is_skipped() {
        let lacks = || command("iptables: No chain/target/match by that name.\n");
        assert!(matches!(judge(&Trouble::Building(lacks())), Verdict::Skip(_)));
        assert!(matches!(judge(&Trouble::Playing(lacks())), Verdict::Fail(_)));
        let claim = LabError::Claim("a byte is wrong".to_owned());
        assert_eq!(judge(&Trouble::Playing(claim)), Verdict::Fail("a byte is wrong".to_owned()));
        let differs = Trouble::Building(command("the echo differs"));
        assert!(matches!(judge(&differs), Verdict::Fail(_)));
    }

    /// A row of a gateway that does not exist is a failure, not nothing.
    #[test]
    fn an_unknown_gateway_fails() {
        let row = Row { gateway: "?", protocol: Protocol::Tcp, direction: Direction::Inwards };
        assert!(matches!(run(&row), Verdict::Fail(_)));
    }

    /// Each row is there once, and is found by its name.
    #[test]
    fn rows_are_found_by_their_names() {
        let rows = rows();
        for row in &rows {
            let found = select(&[row.to_string()]);
            assert_eq!(found, [*row]);
        }
    }
}
