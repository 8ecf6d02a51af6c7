//! Networks that let the tunnel out not at all: the forwarder says what is wrong in time, and is up as
//! soon as it is let out.

use std::fs;
use std::time::{Duration, Instant};

use super::{Row, claim, translated};
use crate::proxy::{CONNECT_PORT, SOCKS_PORT, connect_proxy, socks_proxy};
use crate::{Daemon, Lab, LabError, Process, Tunnel};

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
    let line = line.split_once("no connection: ").map_or(line, |(_, rest)| rest);
    line.split(" relay=").next().unwrap_or(line).chars().take(240).collect()
}

/// How a proxy turns the forwarder away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebuff {
    /// It does not allow the relay's port: 403.
    Forbidden,
    /// It wants a login: 407.
    LoginWanted,
    /// It does not accept this login: 407.
    LoginWrong,
    /// The same of SOCKS5.
    SocksLoginWrong,
}

/// The proxies' user and password.
const LOGIN: (&str, &str) = ("office", "sesame");

/// The gateway's only way out, as the forwarder's configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    Connect,
    ConnectLogin,
    Socks,
    SocksLogin,
}

impl Proxy {
    /// Starts it on the gateway.
    fn start(self, lab: &Lab) -> Result<Process, LabError> {
        match self {
            Self::Connect => connect_proxy(&lab.gateway(), None),
            Self::ConnectLogin => connect_proxy(&lab.gateway(), Some(LOGIN)),
            Self::Socks => socks_proxy(&lab.gateway(), None),
            Self::SocksLogin => socks_proxy(&lab.gateway(), Some(LOGIN)),
        }
    }

    /// The forwarder's table for it, with this user and password.
    fn table(self, lab: &Lab, login: Option<(&str, &str)>) -> String {
        let (scheme, port) = match self {
            Self::Connect | Self::ConnectLogin => ("http", CONNECT_PORT),
            Self::Socks | Self::SocksLogin => ("socks5", SOCKS_PORT),
        };
        let login =
            login.map_or_else(String::new, |(user, password)| format!("{user}:{password}@"));
        format!("[gateway]\nproxy = \"{scheme}://{login}{}\"\n", lab.gateway().at(port))
    }

    fn login(self) -> Option<(&'static str, &'static str)> {
        matches!(self, Self::ConnectLogin | Self::SocksLogin).then_some(LOGIN)
    }
}

/// All that the tunnel carries goes through a proxy.
pub(super) fn proxied(row: Row, proxy: Proxy, lab: &Lab) -> Result<String, LabError> {
    let _proxy = proxy.start(lab)?;
    plain_is_shut(lab)?;
    translated::play_with(row, lab, &proxy.table(lab, proxy.login()))
}

/// Without the proxy nothing reaches the relay, or where it will be.
fn plain_is_shut(lab: &Lab) -> Result<(), LabError> {
    let _server = lab.host("relay").serve("echo", 8443, &[])?;
    let to = lab.host("relay").at(8443);
    let plain = lab.host("icp").play("connect", &to, &["--within-ms=700"]).is_ok();
    claim(!plain, || format!("{to} is reached without a proxy"))
}

/// A proxy turns the forwarder away; it says why in time, and is up when that is mended.
pub(super) fn rebuffed(rebuff: Rebuff, lab: &Lab) -> Result<String, LabError> {
    let (user, _) = LOGIN;
    let wrong = Some((user, "open"));
    let (proxy, login, words) = match rebuff {
        Rebuff::Forbidden => (Proxy::Connect, None, "does not allow connections"),
        Rebuff::LoginWanted => (Proxy::ConnectLogin, None, "wants a user and a password"),
        Rebuff::LoginWrong => (Proxy::ConnectLogin, wrong, "does not accept this user"),
        Rebuff::SocksLoginWrong => (Proxy::SocksLogin, wrong, "does not accept this user"),
    };
    let _proxy = proxy.start(lab)?;
    plain_is_shut(lab)?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let file = lab.path().join("adit.toml");
    let good = proxy.table(lab, proxy.login());
    let plan = Tunnel::builder().peer("peer3", &lab.host("peer3").at(7), 8003).tail(&good);
    let mut tunnel = plan.prepare(lab)?;
    let text = fs::read_to_string(&file).map_err(LabError::io("reading adit.toml"))?;
    let broken = text.replace(&good, &proxy.table(lab, login));
    // The proxies let out to 443 alone.
    let broken = match rebuff {
        Rebuff::Forbidden => broken.replace(":443\"", ":8443\""),
        _ => broken,
    };
    fs::write(&file, broken).map_err(LabError::io("writing adit.toml"))?;
    tunnel.start_relay()?;
    tunnel.start_forwarder()?;
    let started = Instant::now();
    let line = tunnel.process_mut(Daemon::Forwarder)?.wait_for_log(words, NAMED_WITHIN)?;
    let named_after = started.elapsed();
    fs::write(&file, text).map_err(LabError::io("writing adit.toml"))?;
    tunnel.restart(Daemon::Forwarder)?;
    tunnel.wait_registered()?;
    lab.host("ext").play("half-close", &tunnel.contact(8003), &["1000000"])?;
    Ok(format!(
        "named after {:.1} s: “{}”; up when mended; plain TCP is stopped",
        named_after.as_secs_f64(),
        said(&line)
    ))
}
