//! Networks that let the tunnel out not at all: the forwarder says what is wrong in time, and is up as
//! soon as it is let out.

use std::time::{Duration, Instant};

use super::claim;
use crate::{Daemon, Lab, LabError, Tunnel};

/// How long the forwarder may take to say what is wrong.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to be up once it is let out: its longest pause, and an attempt.
const UP_WITHIN: Duration = Duration::from_secs(35);
/// The mark of the rule.
const BLOCK: &str = "matrix-blocked";

/// How the relay's port is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Drop,
    TcpReset,
    IcmpPort,
    IcmpHost,
    IcmpNet,
    IcmpAdmin,
}

impl Refusal {
    fn target(self) -> &'static str {
        match self {
            Self::Drop => "DROP",
            Self::TcpReset => "REJECT --reject-with tcp-reset",
            Self::IcmpPort => "REJECT --reject-with icmp-port-unreachable",
            Self::IcmpHost => "REJECT --reject-with icmp-host-unreachable",
            Self::IcmpNet => "REJECT --reject-with icmp-net-unreachable",
            Self::IcmpAdmin => "REJECT --reject-with icmp-admin-prohibited",
        }
    }

    /// Words of which the forwarder must use one.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Drop => &["no answer", "timed out", "nobody answers", "in time"],
            Self::TcpReset | Self::IcmpPort => &["refused"],
            Self::IcmpHost | Self::IcmpAdmin => &["host is unreachable", "no route to host"],
            Self::IcmpNet => &["network is unreachable"],
        }
    }
}

/// Blocks the relay's port so, listens to what the forwarder says, and lets it out.
pub(super) fn refused(refusal: Refusal, lab: &Lab) -> Result<String, LabError> {
    let gateway = lab.gateway();
    let rule = format!(
        "FORWARD -p tcp -i lan0 --dport 443 -m comment --comment {BLOCK} -j {}",
        refusal.target()
    );
    gateway.shell(&format!("iptables -w -I {rule}"))?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let plan = Tunnel::builder().peer("peer3", &lab.host("peer3").at(7), 8003);
    let mut tunnel = plan.prepare(lab)?;
    tunnel.start_relay()?;
    let to = tunnel.tunnel_address();
    let plain = lab.host("icp").play("connect", &to, &["--within-ms=1000"]).is_ok();
    claim(!plain, || format!("{to} is reached by plain TCP: nothing is blocked"))?;
    tunnel.start_forwarder()?;
    let started = Instant::now();
    let says = |line: &str| {
        let line = line.to_lowercase();
        refusal.words().iter().any(|word| line.contains(word))
    };
    let what = format!("a line with one of {:?}", refusal.words());
    let forwarder = tunnel.process_mut(Daemon::Forwarder)?;
    let line = forwarder.wait_for_line(&what, NAMED_WITHIN, says)?;
    let named_after = started.elapsed();
    let struck = gateway.rule_packets("FORWARD", BLOCK)?;
    claim(struck > 0, || "the rule that blocks has met no packet".to_owned())?;
    gateway.shell(&format!("iptables -w -D {rule}"))?;
    tunnel.process_mut(Daemon::Forwarder)?.wait_for_log("tunnel up", UP_WITHIN)?;
    tunnel.wait_registered()?;
    lab.host("ext").play("half-close", &tunnel.contact(8003), &["1000000"])?;
    Ok(format!(
        "named after {:.1} s: “{}”; up when let out; plain TCP to the same port is stopped",
        named_after.as_secs_f64(),
        said(&line)
    ))
}

/// What a line of the log says, without its time and fields.
fn said(line: &str) -> String {
    let line =
        line.split_once("cannot").map_or(line.to_owned(), |(_, rest)| format!("cannot{rest}"));
    line.chars().take(160).collect()
}
