//! Peers that are checked.

use super::*;
use crate::api::Reply;

const EVERY: Duration = Duration::from_secs(10);

fn checked() -> Peer {
    Peer { health: Some(EVERY), ..web() }
}

fn refused_connect() -> io::Result<()> {
    Err(io::ErrorKind::ConnectionRefused.into())
}

/// Lets the check that is due take place.
fn check(registrar: &mut Registrar, id: u32, result: io::Result<()>) -> Instant {
    let (at, wanted) = loop {
        let at = registrar.poll_timeout().unwrap();
        registrar.handle_timeout(at);
        let wanted = actions(registrar);
        // The wait for a session's first answers may end before.
        if !wanted.is_empty() {
            break (at, wanted);
        }
    };
    assert_eq!(wanted, [format!("check {id} 192.168.50.3:80")]);
    registrar.handle_timeout(at);
    assert!(actions(registrar).is_empty(), "one check at a time");
    registrar.handle_checked(ContactId(id), result, at);
    at
}

/// One failure is no reason to go; two in a row are, and the first success is one to come back.
#[test]
fn a_peer_that_fails_twice_is_withdrawn_until_it_answers() {
    let mut registrar = Registrar::new(vec![checked()], Instant::now());
    registrar.handle_up(SESSION, Instant::now());
    actions(&mut registrar);
    let now = check(&mut registrar, 1, Ok(()));
    registrar.handle_frame(registered(1), now);
    for result in [refused_connect(), Ok(()), refused_connect()] {
        check(&mut registrar, 1, result);
        assert!(actions(&mut registrar).is_empty());
    }
    let now = check(&mut registrar, 1, refused_connect());
    assert_eq!(actions(&mut registrar), ["unregister 1", "withdraw 1"]);
    let status = &registrar.peers(now)[0];
    assert_eq!((status.state.as_str(), status.health.as_deref()), ("down", Some("failing")));
    assert!(status.reason.as_deref().unwrap().contains("connection refused"));
    check(&mut registrar, 1, refused_connect());
    assert!(actions(&mut registrar).is_empty());
    let now = check(&mut registrar, 1, Ok(()));
    assert_eq!(actions(&mut registrar), ["serve 2 192.168.50.3:80", "register 2 web:8080"]);
    registrar.handle_frame(registered(2), now);
    let status = &registrar.peers(now)[0];
    assert_eq!((status.state.as_str(), status.health.as_deref()), ("registered", Some("good")));
    registrar.handle_peers(vec![], now);
    assert!(registrar.table.is_empty());
}

/// A peer that is down is not registered in a new session either.
#[test]
fn a_peer_that_is_down_stays_so_in_the_next_session() {
    let mut registrar = Registrar::new(vec![checked()], Instant::now());
    check(&mut registrar, 1, refused_connect());
    check(&mut registrar, 1, refused_connect());
    registrar.handle_up(SESSION, Instant::now());
    registrar.handle_down();
    registrar.handle_up(SessionKey(8), Instant::now());
    assert!(actions(&mut registrar).is_empty());
    check(&mut registrar, 1, Ok(()));
    assert_eq!(actions(&mut registrar), ["serve 2 192.168.50.3:80", "register 2 web:8080"]);
}

/// An answer of the relay that was on its way when a peer went down brings nothing back.
#[test]
fn a_late_answer_brings_no_peer_back() {
    let mut registrar = Registrar::new(vec![checked()], Instant::now());
    registrar.handle_up(SESSION, Instant::now());
    actions(&mut registrar);
    check(&mut registrar, 1, refused_connect());
    let now = check(&mut registrar, 1, refused_connect());
    registrar.handle_frame(registered(1), now);
    assert_eq!(registrar.peers(now)[0].state, "down");
    assert_eq!(actions(&mut registrar), ["unregister 1", "withdraw 1"]);
    check(&mut registrar, 1, Ok(()));
    registrar.handle_frame(registered(1), now);
    assert_eq!(registrar.peers(now)[0].state, "asked");
}

/// Who registers a peer that does not answer is told so, and nothing is registered.
#[test]
fn a_new_peer_that_does_not_answer_is_refused() {
    let now = Instant::now();
    let every_second = Peer { health: Some(Duration::from_secs(1)), ..web() };
    let mut registrar = Registrar::default();
    let (reply, mut answer) = Reply::new();
    let lease = Lease { time: LEASE, by: None };
    registrar.handle_register(every_second, lease, reply, now);
    check(&mut registrar, 1, refused_connect());
    let at = registrar.poll_timeout().unwrap();
    registrar.handle_timeout(at);
    actions(&mut registrar);
    registrar.handle_checked(ContactId(1), refused_connect(), at);
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.status.as_u16(), 502);
    assert!(registrar.table.is_empty());
}
