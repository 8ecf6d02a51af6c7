//! From the relay's name to a connection: DNS, routes, TCP. Where a proxy stands between, the name and
//! the connection are the proxy's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};

use tokio::net::TcpStream;

use super::cause::{Cause, Open443, family, list};
use super::sheet::Sheet;
use crate::config::{Bind, ForwarderConfig, Place};
use crate::gateway::Through;
use crate::net;

/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// Connections that are tried at once: one that fails among them shows a limit.
const KNOCKS: usize = 4;
/// How long one may take: the kernel has sent its `SYN` three times by then.
const KNOCK_MAX: Duration = Duration::from_secs(4);
/// How much longer than the first attempt one may take that is looked at closely.
const REJECTION_MORE: Duration = Duration::from_millis(500);
/// Addresses whose failure is shown.
const FAILURES_SHOWN: usize = 2;
/// The port that firewalls let out when they let out one.
const HTTPS: u16 = 443;

/// An address of the relay, and the name that it was found by.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// The relay's place.
    pub(super) place: Place,
    /// The proxy, whose address it is then.
    pub(super) through: Option<Through>,
    /// The address of ours that leads there.
    pub(super) local: IpAddr,
}

/// A connection to try TLS on.
pub(super) struct Reached {
    pub(super) target: Target,
    /// Of the first; the others are dialled anew when their turn comes.
    pub(super) stream: Option<TcpStream>,
}

/// Resolves, and keeps what there is a route to.
pub(super) async fn targets(
    sheet: &mut Sheet<'_>,
    config: &ForwarderConfig,
    through: &[Option<Through>],
) -> Vec<Target> {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let dialled = |(place, through): (&Place, &Option<Through>)| {
        through.as_ref().map_or(place, |through| &through.proxy.place).clone()
    };
    let dialled: Vec<_> = config.relay.iter().zip(through).map(dialled).collect();
    let looked_up = join_all(dialled.iter().map(|place| net::resolve(place.clone()))).await;
    for (index, addresses) in looked_up.into_iter().enumerate() {
        let Some(((at, place), through)) =
            dialled.get(index).zip(config.relay.get(index)).zip(through.get(index))
        else {
            continue;
        };
        match addresses {
            Ok(addresses) => {
                if at.literal().is_none() {
                    sheet.ok("dns", format!("{} is {}", at.host, ips(&addresses)));
                }
                let found_here = |address| (address, place.clone(), through.clone());
                found.extend(addresses.into_iter().map(found_here));
            }
            Err(error) => failures.push((at, error)),
        }
    }
    if dialled.iter().all(|place| place.literal().is_some()) {
        sheet.ok("dns", "not needed: addresses are given in place of names");
    }
    for (place, error) in failures {
        let cause = unresolved(place, &error);
        let what = format!("{}: {error}", place.host);
        // Another place that is found will do.
        if found.is_empty() {
            sheet.fail("dns", what, cause);
        } else {
            sheet.warn("dns", what, cause);
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let family = config.gateway.family();
    let all: Vec<_> = found.iter().map(|(address, ..)| *address).collect();
    found.retain(|(address, ..)| family.has(address));
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() {
        let addresses = list(&all);
        let what = format!("none of {addresses} is {family}, as [gateway] wants it");
        let cure = "change `family` or `bind` of [gateway], or name another place of the relay";
        sheet.fail("dns", what.clone(), Cause::Here { what, cure: cure.to_owned() });
        return Vec::new();
    }
    routed(sheet, found, config.gateway.bind.as_ref())
}

fn ips(addresses: &[SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    texts.join(", ")
}

/// The C library has a text for each case, and no number that gets through to here.
fn unresolved(place: &Place, error: &io::Error) -> Cause {
    let (why, place) = (error.to_string(), place.to_string());
    let is_final = ["not known", "does not resolve", "No address", "has no address", "NXDOMAIN"];
    if is_final.iter().any(|text| why.contains(text)) {
        return Cause::NoSuchName { place };
    }
    Cause::ResolverSilent { place, why }
}

fn routed(
    sheet: &mut Sheet<'_>,
    found: Vec<(SocketAddr, Place, Option<Through>)>,
    bind: Option<&Bind>,
) -> Vec<Target> {
    let all: Vec<_> = found.iter().map(|(address, ..)| *address).collect();
    let (mut targets, mut unrouted) = (Vec::new(), None);
    for (address, place, through) in found {
        let local = match (bind, net::route_to(address)) {
            (Some(Bind::Address(local)), _) => *local,
            (_, Ok(local)) => local,
            // Its own routes count: connecting will show.
            (Some(Bind::Device(_)), Err(_)) => IpAddr::from([0, 0, 0, 0]),
            (None, Err(error)) => {
                unrouted = Some((address, error));
                continue;
            }
        };
        targets.push(Target { address, place, through, local });
    }
    if let Some(Target { address, local, .. }) = targets.first() {
        let by = bind.map(|bind| format!(", by {bind}")).unwrap_or_default();
        sheet.ok("route", format!("to {} from {local}{by}", address.ip()));
        return targets;
    }
    if let Some((address, error)) = unrouted {
        let what = format!("none to {}: {error}", address.ip());
        sheet.fail("route", what, no_route(&all, &error));
    }
    targets
}

fn no_route(all: &[SocketAddr], error: &io::Error) -> Cause {
    let addresses = list(all);
    let is_all = |is_v4: bool| all.iter().all(|address| address.is_ipv4() == is_v4);
    // Whether there is a way to anywhere else; nothing is sent there.
    let has_v4 = net::route_to(([192, 88, 99, 1], HTTPS).into()).is_ok();
    let has_v6 = net::route_to(([0x2000, 0, 0, 0, 0, 0, 0, 1], HTTPS).into()).is_ok();
    let own = net::own_addresses().unwrap_or_default();
    let is_global = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let has = |is_v4: bool| own.iter().any(|ip| ip.is_ipv4() == is_v4 && is_global(ip));
    if is_all(true) && !has_v4 && (has_v6 || has(false) && !has(true)) {
        return Cause::OtherFamily { addresses, is_host_v6: true };
    }
    if is_all(false) && !has_v6 && (has_v4 || has(true) && !has(false)) {
        return Cause::OtherFamily { addresses, is_host_v6: false };
    }
    Cause::NoRoute { addresses, why: error.to_string() }
}

/// Connects to `targets`; those that accept, in order.
pub(super) async fn connect(
    sheet: &mut Sheet<'_>,
    targets: &[Target],
    bind: Option<&Bind>,
) -> Vec<Reached> {
    let (mut failures, mut all_reached) = (Vec::new(), Vec::new());
    for knocked in join_all(targets.iter().map(|target| knock(target, bind))).await {
        match knocked {
            Ok(Knocked { mut reached, good, time, error }) => {
                let address = reached.target.address;
                let ms = time.as_secs_f64() * 1_000.0;
                let what =
                    format!("{address} accepts {good} of {KNOCKS} connections, in {ms:.1} ms");
                match error {
                    None => sheet.ok("tcp", what),
                    Some(error) => {
                        let why = error.to_string();
                        let what = format!("{what}; the others: {why}");
                        let cause = Cause::Sometimes { good, all: KNOCKS, why };
                        sheet.warn("tcp", what, cause);
                    }
                }
                if !all_reached.is_empty() {
                    reached.stream = None;
                }
                all_reached.push(reached);
            }
            Err(failure) => failures.push(failure),
        }
    }
    let is_v6 = failures.iter().any(|(target, ..)| target.address.is_ipv6());
    let has_both = is_v6 && failures.iter().any(|(target, ..)| target.address.is_ipv4());
    for (target, error, time) in failures.into_iter().take(FAILURES_SHOWN) {
        let address = target.address;
        let family =
            if has_both { format!(" over {}", family(address.ip())) } else { String::new() };
        let (cause, to) = match &target.through {
            Some(Through { proxy, .. }) => {
                let text = format!("the proxy {proxy} does not accept connections: {error}");
                let cure = "correct `proxy` in [gateway] or the environment, or have the proxy started; \
                            proxy = \"none\" does without";
                (Cause::Proxy { text, cure: cure.to_owned() }, "the proxy ")
            }
            None => (failed(address, &error, time, bind).await, ""),
        };
        let what = format!("cannot connect to {to}{address}{family}: {error}");
        // Another one that accepts will do.
        if all_reached.is_empty() {
            sheet.fail("tcp", what, cause);
        } else {
            sheet.warn("tcp", what, cause);
        }
    }
    all_reached
}

struct Knocked {
    reached: Reached,
    good: usize,
    time: Duration,
    error: Option<io::Error>,
}

async fn knock(
    target: &Target,
    bind: Option<&Bind>,
) -> Result<Knocked, (Target, io::Error, Duration)> {
    let start = Instant::now();
    let attempt = || async {
        let connected = net::connect(target.address, bind, None, KNOCK_MAX).await;
        connected.map(|stream| (stream, start.elapsed()))
    };
    let (mut good, mut failed) = (Vec::new(), None);
    for attempt in join_all((0..KNOCKS).map(|_| attempt())).await {
        match attempt {
            Ok(connected) => good.push(connected),
            Err(error) => failed = Some(error),
        }
    }
    let count = good.len();
    let Some((stream, time)) = good.into_iter().next() else {
        let error = failed.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
        return Err((target.clone(), error, start.elapsed()));
    };
    let reached = Reached { target: target.clone(), stream: Some(stream) };
    Ok(Knocked { reached, good: count, time, error: failed })
}

/// Why nobody accepts there: it took so long to fail.
async fn failed(
    address: SocketAddr,
    error: &io::Error,
    time: Duration,
    bind: Option<&Bind>,
) -> Cause {
    if error.kind() == io::ErrorKind::TimedOut {
        return Cause::TimedOut { address, open_443: open_443(address, bind).await };
    }
    let rejected = net::rejection(address, bind, time.min(KNOCK_MAX) + REJECTION_MORE);
    let (open_443, rejection) = join(open_443(address, bind), rejected).await;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Cause::ConnectionRefused { address, rejection, open_443 }
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Cause::Rejected { address, why: error.to_string(), rejection, open_443 }
        }
        _ => {
            let cure = "correct `bind` of [gateway], or this host's own routes and firewall";
            Cause::Here { what: error.to_string(), cure: cure.to_owned() }
        }
    }
}

async fn open_443(address: SocketAddr, bind: Option<&Bind>) -> Open443 {
    if address.port() == HTTPS {
        return Open443::IsTheSame;
    }
    let at = SocketAddr::new(address.ip(), HTTPS);
    match net::connect(at, bind, None, KNOCK_MAX).await {
        Ok(_) => Open443::Accepts,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Open443::Reached,
        Err(_) => Open443::No,
    }
}
