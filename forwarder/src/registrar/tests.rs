mod health;
mod leases;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use adit_proto::frame;

use super::entry::{RETRY_MAX, RETRY_MIN};
use super::*;
use crate::sources::Sources;

const SESSION: SessionKey = SessionKey(7);

fn peer(name: &str, address: &str, port: u16) -> Peer {
    let contact = format!("public:{port}").parse().unwrap();
    Peer::new(name.into(), Address::Tcp(address.parse().unwrap()), contact)
}

fn web() -> Peer {
    peer("web", "192.168.50.3:80", 8080)
}

/// What the registrar wants done, in short.
fn actions(registrar: &mut Registrar) -> Vec<String> {
    let mut actions = Vec::new();
    while let Some(action) = registrar.poll_action() {
        actions.push(match action {
            Action::Resolve(id, place) => format!("resolve {} {place}", id.0),
            Action::Check(id, address) => format!("check {} {address}", id.0),
            Action::Tell(Command::Serve { contact, service, .. }) => {
                format!("serve {} {}", contact.0, service.target)
            }
            Action::Tell(Command::Withdraw { contact, .. }) => format!("withdraw {}", contact.0),
            Action::Tell(Command::Send { frame: ControlFrame::Register(id, asked), .. }) => {
                format!("register {} {}:{}", id.0, asked.name, asked.port)
            }
            Action::Tell(Command::Send { frame: ControlFrame::Unregister(id), .. }) => {
                format!("unregister {}", id.0)
            }
            other @ Action::Tell(_) => format!("{other:?}"),
        });
    }
    actions
}

fn refused(id: u32, may_retry: bool) -> ControlFrame {
    ControlFrame::Refused(ContactId(id), Refused { may_retry, text: "no".into() })
}

fn registered(id: u32) -> ControlFrame {
    let lease = Duration::from_secs(60);
    let address = "203.0.113.20:8080".to_owned();
    ControlFrame::Registered(ContactId(id), frame::Registered { lease, address })
}

/// What the relay forbids is not asked for again; somebody has to change a file first.
#[test]
fn a_final_refusal_is_not_retried() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web()], now);
    registrar.handle_up(SESSION, now);
    actions(&mut registrar);
    registrar.handle_frame(refused(1, false), now);
    assert_eq!(registrar.poll_timeout(), None);
    let status = &registrar.peers(now)[0];
    assert_eq!((status.state.as_str(), status.reason.as_deref()), ("refused", Some("no")));
}

/// A port that may become free is asked for again, less and less often.
#[test]
fn a_passing_refusal_is_retried_with_growing_waits() {
    let mut now = Instant::now();
    let mut registrar = Registrar::new(vec![web()], now);
    registrar.handle_up(SESSION, now);
    actions(&mut registrar);
    for turn in 0..20 {
        registrar.handle_frame(refused(1, true), now);
        let at = registrar.poll_timeout().unwrap();
        let least = if turn < 5 { RETRY_MIN } else { RETRY_MAX };
        assert!(at >= now + least && at <= now + 2 * RETRY_MAX, "turn {turn}");
        registrar.handle_timeout(at - Duration::from_millis(1));
        assert!(actions(&mut registrar).is_empty());
        registrar.handle_timeout(at);
        assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
        now = at;
    }
}

/// A name that cannot be resolved is asked for again, and hinders no other peer.
#[test]
fn an_unknown_name_hinders_no_other_peer() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web(), peer("db", "db.lan:5432", 5432)], now);
    registrar.handle_up(SESSION, now);
    let wanted = actions(&mut registrar);
    assert!(wanted.contains(&"register 2 web:8080".to_owned()), "{wanted:?}");
    assert!(wanted.contains(&"resolve 1 db.lan:5432".to_owned()), "{wanted:?}");
    registrar.handle_resolved(ContactId(1), Err(io::ErrorKind::NotFound.into()), now);
    let at = registrar.poll_timeout().unwrap();
    registrar.handle_timeout(at);
    assert_eq!(actions(&mut registrar), ["resolve 1 db.lan:5432"]);
    registrar.handle_resolved(ContactId(1), Ok("192.168.50.9:5432".parse().unwrap()), at);
    assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.9:5432", "register 1 db:5432"]);
}

/// Late answers, to what has gone in the meantime, change nothing.
#[test]
fn late_answers_change_nothing() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![peer("db", "db.lan:5432", 5432)], now);
    registrar.handle_up(SESSION, now);
    registrar.handle_peers(vec![], now);
    actions(&mut registrar);
    registrar.handle_frame(registered(1), now);
    registrar.handle_frame(refused(1, true), now);
    registrar.handle_resolved(ContactId(1), Ok("192.0.2.1:1".parse().unwrap()), now);
    assert!(actions(&mut registrar).is_empty());
    assert!(registrar.peers(now).is_empty());
}

/// Nothing is registered before there is a session, and all of it again in the next one.
#[test]
fn every_session_registers_all_peers() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web()], now);
    assert!(actions(&mut registrar).is_empty());
    for session in [SESSION, SessionKey(8)] {
        registrar.handle_up(session, now);
        assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
        registrar.handle_frame(registered(1), now);
        assert!(registrar.peers(now)[0].registered);
        assert_eq!(registrar.peers(now)[0].contact, "203.0.113.20:8080");
        registrar.handle_down();
        assert_eq!(registrar.peers(now)[0].state, "waiting");
    }
}

/// A reload touches what has changed and nothing else; a changed peer leaves its port before it
/// asks for it again.
#[test]
fn a_reload_applies_the_difference() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web(), peer("ssh", "192.168.50.4:22", 2222)], now);
    registrar.handle_up(SESSION, now);
    actions(&mut registrar);
    registrar.handle_frame(registered(2), now);
    registrar.handle_peers(vec![web(), peer("ssh", "192.168.50.5:22", 2222)], now);
    assert_eq!(
        actions(&mut registrar),
        ["unregister 1", "withdraw 1", "serve 3 192.168.50.5:22", "register 3 ssh:2222"]
    );
    let peers = registrar.peers(now);
    assert!(peers.iter().any(|peer| peer.name == "web" && peer.registered), "web was not touched");
    registrar.handle_peers(vec![web(), peer("ssh", "192.168.50.5:22", 2222)], now);
    assert!(actions(&mut registrar).is_empty());
}

/// A reload asks again for what was refused, though nothing has changed here.
#[test]
fn a_reload_asks_again_for_what_was_refused() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web()], now);
    registrar.handle_up(SESSION, now);
    registrar.handle_frame(refused(1, false), now);
    actions(&mut registrar);
    registrar.handle_peers(vec![web()], now);
    assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
}

/// A private contact point has no port, and a unix socket is no address to resolve.
#[test]
fn private_names_and_unix_sockets_are_registered() {
    let now = Instant::now();
    let address = Address::Unix("/run/db.sock".into());
    let db = Peer::new("db".into(), address, crate::config::Contact::Private);
    let mut registrar = Registrar::new(vec![db], now);
    registrar.handle_up(SESSION, now);
    assert_eq!(actions(&mut registrar), ["serve 1 unix:/run/db.sock", "register 1 db:0"]);
}

/// A peer that wants to know who calls is told at which address, once that is known.
#[test]
fn the_contact_address_is_told_to_a_peer_that_wants_it() {
    let now = Instant::now();
    let proxy = Some(crate::handoff::ProxyVersion::V2);
    let mut registrar = Registrar::new(vec![Peer { proxy, ..web() }], now);
    registrar.handle_up(SESSION, now);
    actions(&mut registrar);
    registrar.handle_frame(registered(1), now);
    let Some(Action::Tell(Command::Serve { service, .. })) = registrar.poll_action() else {
        panic!("it is not told");
    };
    let header = service.proxy.unwrap();
    assert_eq!(header.contact, Some("203.0.113.20:8080".parse().unwrap()));
}

/// A late refusal, of what was withdrawn meanwhile, does not take the place of an answer to come.
#[test]
fn an_answer_counts_once() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web()], now);
    registrar.handle_up(SESSION, now);
    registrar.handle_frame(refused(1, true), now);
    registrar.handle_frame(registered(1), now);
    assert_eq!(registrar.peers(now)[0].state, "refused");
}

/// The addresses of this host.
fn own() -> BTreeSet<IpAddr> {
    BTreeSet::from([[127, 0, 0, 1], [192, 168, 50, 2]].map(IpAddr::from))
}

fn accepts(sources: &Sources, ip: &str) -> bool {
    sources.accepts(ip.parse().unwrap())
}

/// The ways out are open to the peers that are registered, for as long as they are.
#[test]
fn those_who_are_registered_may_reach_out() {
    let now = Instant::now();
    let local = peer("local", "127.0.0.1:80", 8081);
    let mut registrar = Registrar::new(vec![web()], now);
    registrar.handle_up(SESSION, now);
    registrar.handle_frame(registered(1), now);
    let sources = registrar.poll_sources(own).unwrap();
    assert!(accepts(&sources, "192.168.50.3") && !accepts(&sources, "127.0.0.1"));
    assert!(!accepts(&sources, "192.168.50.2"), "no peer is on this host");
    let ssh = peer("ssh", "192.168.50.3:22", 2222);
    registrar.handle_peers(vec![web(), ssh], now);
    registrar.handle_frame(registered(2), now);
    registrar.handle_peers(vec![web(), local.clone()], now);
    assert!(registrar.poll_sources(own).is_none(), "another peer has the same address");
    registrar.handle_frame(registered(3), now);
    let sources = registrar.poll_sources(own).unwrap();
    assert!(accepts(&sources, "127.0.0.1") && accepts(&sources, "::1"));
    assert!(accepts(&sources, "192.168.50.2"), "it dials a listener at this host's own address");
    registrar.handle_network_change();
    let elsewhere = || BTreeSet::from([IpAddr::from([192, 168, 51, 2])]);
    let sources = registrar.poll_sources(elsewhere).unwrap();
    assert!(accepts(&sources, "192.168.51.2") && !accepts(&sources, "192.168.50.2"));
    registrar.handle_peers(vec![local], now);
    assert!(!accepts(&registrar.poll_sources(own).unwrap(), "192.168.50.3"));
}

/// Whom a new session lets reach out is told when the peers of the one before have their answers, be
/// they good or bad, and never out of the time before.
#[test]
fn a_session_begins_with_those_who_were_registered_before() {
    let now = Instant::now();
    let peers = vec![peer("db", "db.lan:5432", 5432), peer("ssh", "192.168.50.4:22", 2222), web()];
    let mut registrar = Registrar::new(peers, now);
    for session in [SESSION, SessionKey(8)] {
        registrar.handle_up(session, now);
        registrar.handle_frame(registered(3), now);
        assert!(registrar.poll_sources(own).is_none(), "nobody knows of the others yet");
        registrar.handle_frame(refused(2, true), now);
        assert!(registrar.poll_sources(own).is_none(), "there is a name to be resolved");
        registrar.handle_resolved(ContactId(1), Ok("192.168.50.9:5432".parse().unwrap()), now);
        registrar.handle_frame(registered(1), now);
        let sources = registrar.poll_sources(own).unwrap();
        assert!(accepts(&sources, "192.168.50.3") && accepts(&sources, "192.168.50.9"));
        assert!(!accepts(&sources, "192.168.50.4"));
        registrar.handle_down();
        assert!(registrar.poll_sources(own).is_none(), "nobody can reach out");
    }
    registrar.handle_peers(vec![], now);
    registrar.handle_up(SessionKey(9), now);
    assert!(!accepts(&registrar.poll_sources(own).unwrap(), "192.168.50.3"));
}

/// A name that nobody resolves hinders nobody for long.
#[test]
fn those_who_want_to_reach_out_wait_for_a_bounded_time() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![peer("db", "db.lan:5432", 5432), web()], now);
    registrar.handle_up(SESSION, now);
    registrar.handle_frame(registered(2), now);
    assert!(registrar.poll_sources(own).is_none());
    let at = registrar.poll_timeout().unwrap();
    assert_eq!(at, now + settling::SETTLE_MAX);
    registrar.handle_timeout(at);
    assert!(accepts(&registrar.poll_sources(own).unwrap(), "192.168.50.3"));
    assert_eq!(registrar.poll_timeout(), None);
}

/// In the process that takes over what is registered stays so, under its id, and what has changed in
/// the configuration follows.
#[test]
fn peers_stay_registered_when_another_process_takes_over() {
    let now = Instant::now();
    let db = peer("db", "192.168.50.9:5432", 5432);
    let mut old = Registrar::new(vec![web(), db], now);
    old.handle_up(SESSION, now);
    actions(&mut old);
    old.handle_frame(registered(2), now);
    let bytes = postcard::to_allocvec(&old.leave(now)).unwrap();
    let left: Vec<PeerLeft> = postcard::from_bytes(&bytes).unwrap();
    let peers = vec![web(), peer("wiki", "192.168.50.4:80", 8081)];
    let mut new = Registrar::take_over(left, Some(SESSION), (peers, &[]), now);
    assert_eq!(
        actions(&mut new),
        [
            "serve 1 192.168.50.9:5432",
            "serve 2 192.168.50.3:80",
            "unregister 1",
            "withdraw 1",
            "serve 3 192.168.50.4:80",
            "register 3 wiki:8081",
        ]
    );
    let states: Vec<_> = new.peers(now).into_iter().map(|peer| (peer.name, peer.state)).collect();
    let states: Vec<_> = states.iter().map(|(name, state)| (&**name, &**state)).collect();
    assert_eq!(states, [("web", "registered"), ("wiki", "asked")]);
}
