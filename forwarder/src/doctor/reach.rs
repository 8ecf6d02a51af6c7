//! From the relay's name to a connection: DNS, routes, TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::cause::{Cause, Open443, family, list};
use super::sheet::Sheet;
use crate::config::{Place, Places};
use crate::net::{self, Stream};

/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// Connections that are tried at once: one that fails among them shows a limit.
const KNOCKS: usize = 4;
/// How long one may take: the kernel has sent its `SYN` three times by then.
const KNOCK_MAX: Duration = Duration::from_secs(4);
/// How long an ICMP error may take.
const REJECTION_MAX: Duration = Duration::from_millis(500);
/// The port that firewalls let out when they let out one.
const HTTPS: u16 = 443;

/// An address of the relay, and the name that it was found by.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    /// The address of ours that leads there.
    pub(super) local: IpAddr,
}

/// A connection to try TLS on.
pub(super) struct Reached {
    pub(super) target: Target,
    pub(super) stream: Stream,
}

/// Resolves, and keeps what there is a route to.
pub(super) async fn targets(sheet: &mut Sheet<'_>, places: &Places) -> Vec<Target> {
    let mut found = Vec::new();
    let looked_up = join_all(places.iter().map(|place| net::resolve(place.clone()))).await;
    let mut failures = Vec::new();
    for (place, addresses) in places.iter().zip(looked_up) {
        match addresses {
            Ok(addresses) => {
                if place.literal().is_none() {
                    sheet.ok("dns", format!("{} is {}", place.host, list(&addresses)));
                }
                found.extend(addresses.into_iter().map(|address| (address, place.host.clone())));
            }
            Err(error) => failures.push((place, error)),
        }
    }
    if found.is_empty() && failures.is_empty() || places.iter().all(|p| p.literal().is_some()) {
        sheet.ok("dns", "not needed: the relay is named by its address");
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
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Vec::new() } else { routed(sheet, found) }
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

fn routed(sheet: &mut Sheet<'_>, found: Vec<(SocketAddr, String)>) -> Vec<Target> {
    let all: Vec<_> = found.iter().map(|(address, _)| *address).collect();
    let (mut targets, mut unrouted) = (Vec::new(), None);
    for (address, host) in found {
        match net::route_to(address) {
            Ok(local) => targets.push(Target { address, host, local }),
            Err(error) => unrouted = Some((address, error)),
        }
    }
    if let Some(Target { address, local, .. }) = targets.first() {
        sheet.ok("route", format!("to {} from {local}", address.ip()));
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

/// Connects to the first of `targets` that accepts.
pub(super) async fn connect(sheet: &mut Sheet<'_>, targets: &[Target]) -> Option<Reached> {
    let mut failures = Vec::new();
    for knocked in join_all(targets.iter().map(knock)).await {
        match knocked {
            Ok(Knocked { reached, good, time, error }) => {
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
                return Some(reached);
            }
            Err(failure) => failures.push(failure),
        }
    }
    let is_v6 = failures.iter().any(|(target, _)| target.address.is_ipv6());
    let has_both = is_v6 && failures.iter().any(|(target, _)| target.address.is_ipv4());
    for (target, error) in failures.into_iter().take(2) {
        let address = target.address;
        let family =
            if has_both { format!(" over {}", family(address.ip())) } else { String::new() };
        let cause = failed(address, &error).await;
        sheet.fail("tcp", format!("cannot connect to {address}{family}: {error}"), cause);
    }
    None
}

struct Knocked {
    reached: Reached,
    good: usize,
    time: Duration,
    error: Option<io::Error>,
}

async fn knock(target: &Target) -> Result<Knocked, (Target, io::Error)> {
    let start = Instant::now();
    let attempt = || async {
        let connected = net::try_connect(target.address, None, KNOCK_MAX).await;
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
        return Err((target.clone(), error));
    };
    let reached = Reached { target: target.clone(), stream };
    Ok(Knocked { reached, good: count, time, error: failed })
}

/// Why nobody accepts there.
async fn failed(address: SocketAddr, error: &io::Error) -> Cause {
    let (open_443, rejection) =
        futures_util::future::join(open_443(address), net::rejection(address, REJECTION_MAX)).await;
    let rejection = rejection.ok().flatten();
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::TimedOut { address, open_443 },
        io::ErrorKind::ConnectionRefused => {
            Cause::ConnectionRefused { address, rejection, open_443 }
        }
        _ => Cause::Rejected { address, why: error.to_string(), rejection, open_443 },
    }
}

async fn open_443(address: SocketAddr) -> Open443 {
    if address.port() == HTTPS {
        return Open443::IsTheSame;
    }
    let at = SocketAddr::new(address.ip(), HTTPS);
    match net::try_connect(at, None, KNOCK_MAX).await {
        Ok(_) => Open443::Accepts,
        // The same answer as the other port's says nothing: a firewall gives it for all.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Open443::Reached,
        Err(_) => Open443::No,
    }
}
