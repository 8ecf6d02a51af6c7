//! `adit doctor`: tries every step between this host and a tunnel, one after the other, and says in
//! plain words what the gateway is and what to change.
//!
//! ```text
//!  configuration ─▶ dns ─▶ route ─▶ tcp ─▶ tls ─▶ key ─▶ contact ─▶ transfer ─▶ udp, nat ─▶ idle
//! ```
//!
//! It speaks to the relay by an ALPN of its own ([`crate::probe`]), with the forwarder's key: a
//! forwarder that runs beside it keeps its session and does not notice.
//!
//! Deliberately absent: anything that asks others than the relay and the resolver of this host.

mod cause;
mod datagrams;
mod idle;
mod nat;
mod reach;
mod shake;
mod sheet;
mod transfer;
mod visit;

use std::path::Path;
use std::time::Duration;

use adit_proto::limits::PROBE_CONTACTS_MAX;

use crate::api::Client;
use crate::config::{Contact, ForwarderConfig, Peer};
use crate::gateway;
use crate::handoff::Protocol;
use crate::key::PrivateKey;
use crate::net::{self, Exchange};
use crate::probe::Asked;
use crate::pump;
use crate::status::ForwarderStatus;
use crate::tls::ClientTls;
use cause::Cause;
use datagrams::Ends;
use reach::{Reached, Target};
use shake::Way;
use sheet::Sheet;
use visit::{Visit, VisitError};

pub use sheet::{Report, State, Step};

/// The longest idle time that can be measured, in seconds.
pub const IDLE_S_MAX: u64 = 600;

/// What is examined beyond the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// How long the gateway remembers what is idle, up to this long.
    pub idle: Option<Duration>,
    /// Whether 2 MiB are moved each way, and not just 64 KiB.
    pub is_long: bool,
}

/// Examines the way of the forwarder whose configuration is `file`. `on_step` sees each step as soon
/// as it is done.
pub fn run(file: &Path, wish: Wish, on_step: &mut dyn FnMut(&Step)) -> Report {
    let mut sheet = Sheet::new(on_step);
    let Some((config, key)) = prepared(&mut sheet, file) else { return sheet.report() };
    look_beside(&mut sheet, &config);
    net::run(async {
        if let Err(error) = examine(&mut sheet, &config, &key, wish).await {
            let text = error.to_string();
            sheet.fail("relay", text.clone(), Cause::Lost { text });
        }
    });
    sheet.report()
}

/// What does not need a network.
fn prepared(sheet: &mut Sheet<'_>, file: &Path) -> Option<(ForwarderConfig, PrivateKey)> {
    let here = |what: String, cure: &str| Cause::Here { what, cure: cure.to_owned() };
    let config = match ForwarderConfig::load(file) {
        Ok(config) => config,
        Err(error) => {
            let what = error.to_string();
            let cure = if error.is_missing() {
                "write a configuration (`adit join` does), or name it with -c FILE"
            } else {
                "correct that line; `adit check` tells whether it is right then"
            };
            sheet.fail("configuration", what.clone(), here(what, cure));
            return None;
        }
    };
    let key = match PrivateKey::load(&config.key) {
        Ok(key) => key,
        Err(error) => {
            let what = error.to_string();
            let cure = "make a key with `adit keygen`, or correct `key` or the file's permissions";
            sheet.fail("configuration", what.clone(), here(what, cure));
            return None;
        }
    };
    let (shown, peers) = (file.display(), config.peers.len());
    sheet.ok("configuration", format!("{shown}, {peers} peer(s), key {}", key.public()));
    if let Err(refusal) = pump::probe() {
        let what = refusal.to_string();
        let cure = "let this program use io_uring, as the message says";
        sheet.fail("kernel", what.clone(), here(what, cure));
        return None;
    }
    Some((config, key))
}

/// What a forwarder that runs says of itself.
fn look_beside(sheet: &mut Sheet<'_>, config: &ForwarderConfig) {
    let Ok(json) = Client::new(&config.socket).get("/v1/status") else {
        return sheet.ok("forwarder", "`adit run` does not run, or keeps another socket");
    };
    let Ok(status) = serde_json::from_str::<ForwarderStatus>(&json) else {
        return sheet.ok("forwarder", "`adit run` of another version runs");
    };
    let path = match &status.datagrams.path {
        Some(path) => format!("datagrams go to {path} by UDP"),
        None => "datagrams ride the carrier".to_owned(),
    };
    let why = status.carrier.last_error.as_deref().filter(|_| status.carrier.state != "up");
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let state = &status.carrier.state;
    sheet.ok("forwarder", format!("`adit run` runs: its tunnel is {state}{why}; {path}"));
}

async fn examine(
    sheet: &mut Sheet<'_>,
    config: &ForwarderConfig,
    key: &PrivateKey,
    wish: Wish,
) -> Result<(), VisitError> {
    let tls = match ClientTls::probing(key, config.relay_keys) {
        Ok(tls) => tls,
        Err(error) => return Err(VisitError::Refused(error.to_string())),
    };
    let gateway = &config.gateway;
    let environment = |name: &str| std::env::var(name).ok();
    let through = match gateway::proxies(gateway, &config.relay, environment) {
        Ok(through) => through,
        Err(error) => {
            let (what, cure) = (error.to_string(), "correct the variable, or unset it".to_owned());
            sheet.fail("proxy", what.clone(), Cause::Here { what, cure });
            return Ok(());
        }
    };
    let targets = reach::targets(sheet, config, &through).await;
    let bind = gateway.bind.clone();
    let reached = reach::connect(sheet, &targets, bind.as_ref()).await;
    let Some((mut way, mut visit)) = admitted(sheet, reached, config, (tls, key)).await else {
        return Ok(());
    };
    let Target { address, local, ref through, .. } = way.target;
    let (remote, is_proxied) = (address.ip(), through.is_some());
    contacts(sheet, &mut visit, &config.peers).await?;
    let Some(mut visit) = transfer::examine(sheet, visit, &mut way, wish.is_long).await else {
        return Ok(());
    };
    let ends = if is_proxied || way.bind.is_some() {
        let why = if is_proxied { "a proxy takes none" } else { "`bind` is for the carrier alone" };
        sheet.ok("udp", format!("not tried: {why}, and datagrams ride the carrier"));
        None
    } else {
        let ends = Ends::new(visit.open().await?, remote);
        datagrams::examine(sheet, &mut visit, &ends, local).await?;
        Some(ends)
    };
    if let Some(longest) = wish.idle {
        idle::examine(sheet, &mut visit, (&way, ends.as_ref(), local), longest).await?;
    }
    Ok(())
}

/// The first of those reached that is the relay, and lets us in: a forwarder goes on to the next one,
/// too.
async fn admitted(
    sheet: &mut Sheet<'_>,
    reached: Vec<Reached>,
    config: &ForwarderConfig,
    (tls, key): (ClientTls, &PrivateKey),
) -> Option<(Way, Visit)> {
    let gateway = &config.gateway;
    let count = reached.len();
    for (Reached { target, stream }, left) in reached.into_iter().zip((0..count).rev()) {
        sheet.expect_more(left > 0);
        let name = gateway.sni.clone().unwrap_or_else(|| target.place.host.clone());
        let (tls, bind) = (tls.clone(), gateway.bind.clone());
        let mut way = Way { target, tls, name, bind, segment_bytes: None };
        let Some(exchange) = way.authenticate(sheet, stream).await else { continue };
        match introduce(sheet, exchange, key).await {
            Ok(Some(visit)) => {
                sheet.settle();
                return Some((way, visit));
            }
            Ok(None) => {}
            Err(error) => {
                let text = error.to_string();
                sheet.fail("relay", text.clone(), Cause::Lost { text });
            }
        }
    }
    None
}

/// Who we are to the relay.
async fn introduce(
    sheet: &mut Sheet<'_>,
    exchange: Exchange,
    key: &PrivateKey,
) -> Result<Option<Visit>, VisitError> {
    let mut visit = Visit::new(exchange);
    match visit.look(Vec::new()).await {
        Ok(looked) => {
            let (name, observed) = (looked.name, looked.observed);
            sheet.ok("key", format!("the relay lets us in as {name}, and sees us at {observed}"));
            Ok(Some(visit))
        }
        Err(error) if error.is_denial() => {
            let key = key.public().to_string();
            sheet.fail("key", error.to_string(), Cause::KeyUnknown { key });
            Ok(None)
        }
        Err(VisitError::Refused(text)) => {
            sheet.fail("key", text.clone(), Cause::Refused { text });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether each peer's contact point could be had.
async fn contacts(
    sheet: &mut Sheet<'_>,
    visit: &mut Visit,
    peers: &[Peer],
) -> Result<(), VisitError> {
    let mut refused = Vec::new();
    for some in peers.chunks(PROBE_CONTACTS_MAX) {
        let looked = visit.look(some.iter().map(asked).collect()).await?;
        if looked.verdicts.len() != some.len() {
            return Err(VisitError::Verdicts {
                asked: some.len(),
                answered: looked.verdicts.len(),
            });
        }
        for (peer, verdict) in some.iter().zip(looked.verdicts) {
            refused.extend(verdict.map(|text| (peer, text)));
        }
    }
    let all = peers.len();
    let Some((first, text)) = refused.first() else {
        if all > 0 {
            sheet.ok("contact", format!("all {all} contact point(s) can be had"));
        }
        return Ok(());
    };
    let peer = format!("{} ({})", first.name, first.contact);
    let cause = Cause::Contact { peer, text: text.clone(), more: refused.len() - 1 };
    let (allowed, first) = (all - refused.len(), &first.name);
    let what = format!("{allowed} of {all} contact points can be had; {first}: {text}");
    sheet.fail("contact", what, cause);
    Ok(())
}

fn asked(peer: &Peer) -> Asked {
    let port = match peer.contact {
        Contact::Public(port) => port,
        Contact::Private => 0,
    };
    Asked { name: peer.name.clone(), is_udp: peer.protocol() == Protocol::Udp, port }
}
