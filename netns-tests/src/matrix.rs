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
//! machine's kernel or its tools cannot build; the reason says what is missing.
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
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Lab, LabError, Topology};
use catalogue::Play;

pub use catalogue::{Group, Scenario, scenario, scenarios, topologies};
pub use selection::select;
pub use suite::{Examined, Progress, Suite};

/// How long a row may take: thrice what the longest takes on two busy processors.
const ROW_MAX: Duration = Duration::from_secs(300);
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
    let started = Instant::now();
    let (row, rules) = (*row, rules.map(str::to_owned));
    let (tell, told) = mpsc::channel();
    let player = thread::Builder::new().name(row.to_string()).spawn(move || {
        let outcome = scenario(row.gateway)
            .ok_or_else(|| LabError::Claim(format!("there is no gateway '{}'", row.gateway)))
            .and_then(|scenario| perform(row, scenario, rules.as_deref()));
        // Nobody listens any more when it took too long.
        drop(tell.send(outcome));
    });
    let outcome = match player {
        Ok(_) => told.recv_timeout(ROW_MAX).unwrap_or_else(|ended| {
            Err(LabError::Claim(match ended {
                mpsc::RecvTimeoutError::Timeout => format!("not over after {ROW_MAX:?}"),
                mpsc::RecvTimeoutError::Disconnected => "it panicked".to_owned(),
            }))
        }),
        Err(source) => Err(LabError::io("starting a thread")(source)),
    };
    let took = started.elapsed();
    match outcome {
        Ok(evidence) => Finding { verdict: Verdict::Pass, evidence, took },
        Err(error) => Finding { verdict: judge(&error), evidence: String::new(), took },
    }
}

fn perform(row: Row, scenario: &Scenario, rules: Option<&str>) -> Result<String, LabError> {
    stage(row, scenario.topology(), rules, |lab| match scenario.play {
        Play::Translated(_) => translated::play(row, lab),
        Play::Refused(refusal) => egress::refused(refusal, lab),
        Play::Proxied(proxy) => egress::proxied(row, proxy, lab),
        Play::Rebuffed(rebuff) => egress::rebuffed(rebuff, lab),
        Play::Fault(story) => story.play(lab),
        Play::Impaired(link) => impaired::play(&link, lab),
    })
}

/// Builds the lab, makes sure of it, and plays; its logs stay when that fails.
fn stage(
    row: Row,
    topology: Topology,
    rules: Option<&str>,
    play: impl FnOnce(&Lab) -> Result<String, LabError>,
) -> Result<String, LabError> {
    let name = row.to_string().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let mut lab = topology.draw(&name).paced().build()?;
    let outcome = verify(&lab, rules).and_then(|()| play(&lab));
    if outcome.is_err() {
        lab.keep();
    }
    outcome
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
    "Extension ",
    "Operation not supported",
    "Protocol not supported",
    "/dev/net/tun",
    "TAP",
];

/// Skipped is only what could not be built; whatever is wrong afterwards is a failure.
fn judge(error: &LabError) -> Verdict {
    let text = error.to_string();
    match error {
        LabError::MissingTools { .. } | LabError::NoNamespaces { .. } => {
            Verdict::Skip(first_line(&text))
        }
        LabError::Command { output, .. } if LACKING.iter().any(|lack| output.contains(lack)) => {
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

    /// What the machine lacks is skipped; what does not hold fails, and so does any other error.
    #[test]
    fn only_what_cannot_be_built_is_skipped() {
        let lacks = command("iptables: No chain/target/match by that name.\n");
        assert!(matches!(judge(&lacks), Verdict::Skip(_)));
        let claim = LabError::Claim("a byte is wrong".to_owned());
        assert_eq!(judge(&claim), Verdict::Fail("a byte is wrong".to_owned()));
        assert!(matches!(judge(&command("the echo differs")), Verdict::Fail(_)));
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
