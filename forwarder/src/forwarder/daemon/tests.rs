use std::net::Ipv4Addr;

use adit_proto::id::SessionId;

use super::*;
use crate::config::Place;
use crate::key::PrivateKey;
use crate::{handoff, pump};

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Somebody who waits at standard input, with a relay that is not there.
fn caller() -> Daemon {
    let key = PrivateKey::generate().unwrap();
    let place = Place { host: RELAY.ip().to_string(), port: RELAY.port() };
    let config = ForwarderConfig::new("adit.key".into(), place.into(), key.public());
    let gateway = Gateway::new(config.relay.clone(), &key, config.relay_keys).unwrap();
    let (events, _) = handoff::events().unwrap();
    let pump = pump::spawn(pump::probe().unwrap(), events).unwrap();
    let (inbox, _) = mpsc::channel(1);
    let role = Role::Caller { stdio: Some("db".into()) };
    Daemon::new(role, config, key, gateway, pump, inbox).unwrap()
}

fn attempt_fails(daemon: &mut Daemon, now: Instant) {
    let attempt = daemon.tunnel.poll_dial(now).unwrap();
    let error = DialError { failures: Vec::new() };
    daemon.handle(Input::Dialled(attempt, Err(error)), now).unwrap();
}

/// Who waits for the first connection hears that there is none.
#[test]
fn a_caller_without_a_tunnel_is_told_at_once() {
    let mut daemon = caller();
    attempt_fails(&mut daemon, Instant::now());
    assert!(daemon.failure.is_some());
}

/// A connection that cannot be made again at once does not end what is under way.
#[test]
fn a_caller_with_a_session_outlives_a_failed_attempt() {
    let mut daemon = caller();
    let now = Instant::now();
    daemon.tunnel.poll_dial(now).unwrap();
    daemon.tunnel.handle_dialled(RELAY, [1; 32].into());
    daemon.tunnel.handle_up(SessionId([7; 16]), now);
    daemon.tunnel.handle_lost(now);
    let later = now + IDLE_MAX;
    attempt_fails(&mut daemon, later);
    assert!(daemon.failure.is_none() && daemon.ending.is_none());
    assert!(daemon.tunnel.poll_timeout().is_some(), "it dials again");
}
