use adit_proto::frame::Registered;

use super::*;

const SESSION: SessionKey = SessionKey(7);

fn peer(name: &str, address: &str, port: u16) -> Peer {
    let contact = format!("public:{port}").parse().unwrap();
    Peer { name: name.into(), address: address.parse().unwrap(), contact }
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
    ControlFrame::Registered(ContactId(id), Registered { lease, address })
}

/// What the relay forbids is not asked for again; somebody has to change a file first.
#[test]
fn a_final_refusal_is_not_retried() {
    let now = Instant::now();
    let mut registrar = Registrar::new(vec![web()]);
    registrar.handle_up(SESSION);
    actions(&mut registrar);
    registrar.handle_frame(refused(1, false), now);
    assert_eq!(registrar.poll_timeout(), None);
    let status = &registrar.peers()[0];
    assert_eq!((status.state.as_str(), status.reason.as_deref()), ("refused", Some("no")));
}

/// A port that may become free is asked for again, less and less often.
#[test]
fn a_passing_refusal_is_retried_with_growing_waits() {
    let mut now = Instant::now();
    let mut registrar = Registrar::new(vec![web()]);
    registrar.handle_up(SESSION);
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
    let mut registrar = Registrar::new(vec![web(), peer("db", "db.lan:5432", 5432)]);
    registrar.handle_up(SESSION);
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
    let mut registrar = Registrar::new(vec![peer("db", "db.lan:5432", 5432)]);
    registrar.handle_up(SESSION);
    registrar.handle_peers(vec![]);
    actions(&mut registrar);
    registrar.handle_frame(registered(1), now);
    registrar.handle_frame(refused(1, true), now);
    registrar.handle_resolved(ContactId(1), Ok("192.0.2.1:1".parse().unwrap()), now);
    assert!(actions(&mut registrar).is_empty());
    assert!(registrar.peers().is_empty());
}

/// Nothing is registered before there is a session, and all of it again in the next one.
#[test]
fn every_session_registers_all_peers() {
    let mut registrar = Registrar::new(vec![web()]);
    assert!(actions(&mut registrar).is_empty());
    for session in [SESSION, SessionKey(8)] {
        registrar.handle_up(session);
        assert_eq!(actions(&mut registrar), ["serve 1 192.168.50.3:80", "register 1 web:8080"]);
        registrar.handle_frame(registered(1), Instant::now());
        assert!(registrar.peers()[0].registered);
        assert_eq!(registrar.peers()[0].contact, "203.0.113.20:8080");
        registrar.handle_down();
        assert_eq!(registrar.peers()[0].state, "waiting");
    }
}

/// A reload touches what has changed and nothing else; a changed peer leaves its port before it
/// asks for it again.
#[test]
fn a_reload_applies_the_difference() {
    let mut registrar = Registrar::new(vec![web(), peer("ssh", "192.168.50.4:22", 2222)]);
    registrar.handle_up(SESSION);
    actions(&mut registrar);
    registrar.handle_frame(registered(2), Instant::now());
    registrar.handle_peers(vec![web(), peer("ssh", "192.168.50.5:22", 2222)]);
    assert_eq!(
        actions(&mut registrar),
        ["unregister 1", "withdraw 1", "serve 3 192.168.50.5:22", "register 3 ssh:2222"]
    );
    assert!(registrar.peers()[0].registered, "web was not touched");
    registrar.handle_peers(vec![web(), peer("ssh", "192.168.50.5:22", 2222)]);
    assert!(actions(&mut registrar).is_empty());
}
