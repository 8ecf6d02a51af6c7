//! Peers that are registered while the daemon runs.

use adit_proto::limits::CONTACTS_MAX;
use tokio::sync::oneshot;

use super::super::leases::REGISTER_MAX;
use super::*;
use crate::api::Reply;
use crate::config::{Contacts, Sha256, Token};

type Answer = oneshot::Receiver<Result<Registered, Refusal>>;

fn up() -> (Registrar, Instant) {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![], now);
    registrar.handle_up(SESSION, now);
    (registrar, now)
}

fn register(registrar: &mut Registrar, peer: Peer, lease: Duration, now: Instant) -> Answer {
    let (reply, answer) = Reply::new();
    registrar.handle_register(peer, Lease { time: lease, by: None }, reply, now);
    answer
}

#[track_caller]
fn refusal(mut answer: Answer) -> (u16, String) {
    let refusal = answer.try_recv().unwrap().unwrap_err();
    (refusal.status.as_u16(), refusal.text)
}

/// Nobody is told that a peer is registered before the relay has said so.
#[test]
fn a_registration_is_answered_when_the_relay_has_answered() {
    let (mut registrar, now) = up();
    let mut first = register(&mut registrar, web(), LEASE, now);
    let mut second = register(&mut registrar, web(), LEASE, now);
    assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
    assert!(first.try_recv().is_err());
    registrar.handle_frame(registered(1), now);
    for answer in [&mut first, &mut second] {
        let registered = answer.try_recv().unwrap().unwrap();
        assert!(registered.is_new);
        assert_eq!(registered.peer.contact, "203.0.113.20:8080");
        assert_eq!(registered.peer.lease_s, Some(300));
    }
}

/// What the relay refuses is not registered, and its words arrive.
#[test]
fn a_refused_registration_leaves_nothing() {
    for (may_retry, status) in [(true, 409), (false, 403)] {
        let (mut registrar, now) = up();
        let answer = register(&mut registrar, web(), LEASE, now);
        registrar.handle_frame(refused(1, may_retry), now);
        assert_eq!(refusal(answer), (status, "no".to_owned()));
        assert!(registrar.table.is_empty());
        assert_eq!(registrar.poll_timeout(), None);
    }
}

/// Without a tunnel, or with a relay that is silent, the answer is no, after a bounded time.
#[test]
fn a_registration_without_an_answer_comes_to_nothing() {
    let (mut connected, now) = up();
    for (registrar, said) in
        [(&mut Registrar::default(), "no tunnel"), (&mut connected, "relay has not answered")]
    {
        let mut answer = register(registrar, web(), LEASE, now);
        registrar.handle_timeout(now + REGISTER_MAX - Duration::from_millis(1));
        assert!(answer.try_recv().is_err());
        registrar.handle_timeout(registrar.poll_timeout().unwrap());
        let (status, text) = refusal(answer);
        assert_eq!(status, 503);
        assert!(text.contains(said) && text.contains("nothing is registered"), "{text}");
        assert!(registrar.table.is_empty());
    }
    // The relay may have registered it all the same.
    let wanted = actions(&mut connected);
    assert_eq!(wanted[2..], ["unregister 1", "withdraw 1"]);
}

/// A session that begins in time still serves a registration that waits.
#[test]
fn a_registration_waits_for_the_tunnel() {
    let now = Instant::now();
    let mut registrar = Registrar::default();
    let mut answer = register(&mut registrar, web(), LEASE, now);
    assert!(actions(&mut registrar).is_empty());
    registrar.handle_up(SESSION, now);
    registrar.handle_frame(registered(1), now);
    assert!(answer.try_recv().unwrap().is_ok());
}

/// What another peer has, its name or its port, is refused with the holder's name.
#[test]
fn taken_names_and_contacts_are_refused_by_name() {
    let (mut registrar, now) = up();
    registrar.handle_peers(vec![peer("ssh", "192.168.50.4:22", 2222)], now);
    register(&mut registrar, web(), LEASE, now).close();
    let takes = [
        (
            peer("web", "192.168.50.9:80", 8080),
            "the name web is held by another peer, 192.168.50.3",
        ),
        (peer("web", "192.168.50.3:80", 8081), "the name web is held by another peer"),
        (
            peer("mail", "192.168.50.5:25", 8080),
            "public:8080 is held by the peer web (192.168.50.3",
        ),
        (peer("mail", "192.168.50.5:25", 2222), "public:2222 is held by the peer ssh"),
        (peer("ssh", "192.168.50.4:22", 2222), "ssh is a peer of the configuration"),
    ];
    for (peer, said) in takes {
        let (status, text) = refusal(register(&mut registrar, peer, LEASE, now));
        assert_eq!(status, 409);
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(registrar.table.len(), 2);
}

/// A lease that is not renewed ends, at the relay, too; one that is renewed goes on.
#[test]
fn a_lease_ends_unless_it_is_renewed() {
    let (mut registrar, now) = up();
    register(&mut registrar, web(), LEASE_MIN, now).close();
    registrar.handle_frame(registered(1), now);
    actions(&mut registrar);
    let later = now + LEASE_MIN - Duration::from_secs(1);
    registrar.handle_timeout(later);
    assert_eq!(registrar.peers(later)[0].lease_s, Some(1));
    let renewed = registrar.handle_renew("web", LEASE_MIN, later).unwrap();
    assert_eq!((renewed.lease_s, renewed.registered), (Some(10), true));
    let mut again = register(&mut registrar, web(), LEASE_MIN, later);
    assert!(!again.try_recv().unwrap().unwrap().is_new);
    registrar.handle_timeout(now + LEASE_MIN);
    assert!(actions(&mut registrar).is_empty());
    registrar.handle_timeout(later + LEASE_MIN);
    assert_eq!(actions(&mut registrar), ["unregister 1", "withdraw 1"]);
    assert!(registrar.table.is_empty());
    assert_eq!(registrar.handle_renew("web", LEASE, later).unwrap_err().status.as_u16(), 404);
}

/// A leased peer is registered again in every session, and its lease runs on through an outage.
#[test]
fn a_lease_outlives_a_session() {
    let (mut registrar, now) = up();
    register(&mut registrar, web(), LEASE, now).close();
    registrar.handle_frame(registered(1), now);
    registrar.handle_down();
    actions(&mut registrar);
    registrar.handle_renew("web", LEASE, now).unwrap();
    registrar.handle_up(SessionKey(8), now);
    assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
    registrar.handle_down();
    registrar.handle_timeout(now + LEASE);
    assert!(registrar.table.is_empty());
}

/// Peers of the configuration are changed there, and have their names and ports before others.
#[test]
fn the_configuration_comes_first() {
    let (mut registrar, now) = up();
    registrar.handle_peers(vec![peer("ssh", "192.168.50.4:22", 2222)], now);
    assert_eq!(registrar.handle_unregister("ssh").unwrap_err().status.as_u16(), 409);
    assert_eq!(registrar.handle_renew("ssh", LEASE, now).unwrap_err().status.as_u16(), 409);
    let waiting = register(&mut registrar, web(), LEASE, now);
    let ssh = peer("ssh", "192.168.50.4:22", 2222);
    registrar.handle_peers(vec![ssh, peer("shop", "192.168.50.6:80", 8080)], now);
    assert_eq!(refusal(waiting).0, 409);
    let names: Vec<_> = registrar.peers(now).into_iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["shop", "ssh"]);
    registrar.handle_peers(vec![], now);
    assert!(registrar.table.is_empty());
}

/// A token that is withdrawn takes what it has registered along.
#[test]
fn a_lease_ends_with_its_token() {
    let (mut registrar, now) = up();
    let token = |peer: &str, hash: u8, contacts: &str| Token {
        peer: peer.into(),
        sha256: Sha256([hash; 32]),
        contacts: Contacts {
            ports: [contacts.parse().unwrap()].into_iter().collect(),
            are_private: false,
        },
    };
    for (n, name) in [(1, "printer"), (2, "camera"), (3, "door"), (4, "local")] {
        let by = (name != "local").then_some(Sha256([n; 32]));
        let peer = peer(name, "192.168.50.7:80", 8000 + u16::from(n));
        let lease = Lease { time: LEASE, by };
        registrar.handle_register(peer, lease, Reply::new().0, now);
    }
    let tokens =
        [token("printer", 1, "8001"), token("camera", 2, "8001"), token("window", 3, "8003")];
    registrar.handle_tokens(&tokens);
    let names: Vec<_> = registrar.peers(now).into_iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["local", "printer"]);
}

/// A forwarder has a bounded number of peers, however they came.
#[test]
fn there_are_no_more_peers_than_the_limit() {
    let (mut registrar, now) = up();
    let nth = |n: usize| peer(&format!("p{n}"), "192.168.50.3:80", u16::try_from(n).unwrap());
    for n in 1..=CONTACTS_MAX {
        register(&mut registrar, nth(n), LEASE, now).close();
    }
    let (status, text) = refusal(register(&mut registrar, nth(CONTACTS_MAX + 1), LEASE, now));
    assert_eq!(status, 429, "{text}");
    registrar.handle_unregister("p1").unwrap();
    assert!(register(&mut registrar, nth(CONTACTS_MAX + 1), LEASE, now).try_recv().is_err());
}

/// Peers that come and go, as often as they like, leave nothing behind.
#[test]
fn ten_thousand_registrations_leave_nothing() {
    let (mut registrar, mut now) = up();
    for turn in 1..=10_000 {
        let mut answer = register(&mut registrar, web(), LEASE_MIN, now);
        registrar.handle_frame(registered(turn), now);
        assert!(answer.try_recv().unwrap().is_ok());
        registrar.handle_renew("web", LEASE_MIN, now).unwrap();
        if turn % 2 == 0 {
            registrar.handle_unregister("web").unwrap();
        } else {
            now += LEASE_MIN;
            registrar.handle_timeout(now);
        }
        assert_eq!(actions(&mut registrar).len(), 4);
        assert!(registrar.table.is_empty());
    }
    assert_eq!(registrar.poll_timeout(), None);
    assert!(registrar.actions.is_empty());
}

/// Whoever still wants a peer that the relay has forbidden since has it asked for again: its operator
/// may have changed that.
#[test]
fn a_refused_peer_is_asked_for_again_when_somebody_wants_it() {
    let (mut registrar, now) = up();
    register(&mut registrar, web(), LEASE, now);
    registrar.handle_frame(registered(1), now);
    for is_renewed in [true, false] {
        registrar.handle_frame(refused(1, false), now);
        actions(&mut registrar);
        let state = if is_renewed {
            registrar.handle_renew("web", LEASE, now).unwrap().state
        } else {
            let mut answer = register(&mut registrar, web(), LEASE, now);
            answer.try_recv().unwrap().unwrap().peer.state
        };
        assert_eq!(state, "asked");
        let wanted = ["serve 1 192.168.50.3:80", "register 1 web:8080"];
        assert_eq!(actions(&mut registrar), wanted);
        registrar.handle_renew("web", LEASE, now).unwrap();
        assert!(actions(&mut registrar).is_empty(), "once at a time");
        registrar.handle_frame(registered(1), now);
    }
    registrar.handle_renew("web", LEASE, now).unwrap();
    assert!(actions(&mut registrar).is_empty(), "it is registered");
}
