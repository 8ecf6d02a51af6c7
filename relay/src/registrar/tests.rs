use std::time::Duration;

use adit_proto::frame::Protocol;

use super::*;
use crate::policy::policy;

const OFFICE: [u8; 32] = [1; 32];
const GARAGE: [u8; 32] = [2; 32];

fn holder(session: u64, contact: u32) -> Holder {
    Holder { session: SessionKey(session), contact: ContactId(contact) }
}

fn asked(port: u16) -> Registration {
    Registration { protocol: Protocol::Tcp, port, name: "web".into() }
}

/// Asks for a port; the listener is the number of listeners opened before it.
fn register(
    registrar: &mut Registrar<usize>,
    opened: &mut usize,
    key: [u8; 32],
    holder: Holder,
    port: u16,
) -> Result<usize, Refusal> {
    let policy = policy("office", &["1024-65535"]);
    let caller = Caller { key: key.into(), holder, policy: &policy };
    let open = |_, _| {
        *opened += 1;
        Ok(*opened)
    };
    let granted = registrar.handle_register(caller, &asked(port), |_| false, open);
    granted.map(|granted| granted.lease.listener.unwrap())
}

/// Asks for a private name; nothing is opened for it.
fn register_name(
    registrar: &mut Registrar<usize>,
    key: [u8; 32],
    holder: Holder,
    name: &str,
) -> Result<(), Refusal> {
    let policy = policy("office", &[]);
    let caller = Caller { key: key.into(), holder, policy: &policy };
    let asked = Registration { protocol: Protocol::Tcp, port: 0, name: name.into() };
    let open = |port, _| panic!("port {port} is opened for a name");
    registrar.handle_register(caller, &asked, |_| false, open).map(|_| ())
}

/// A port of another key is not to be had, whether a session holds it or only the lease keeps it.
#[test]
fn a_port_of_another_key_is_refused_until_its_lease_is_over() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    let start = Instant::now();
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    for down in [false, true] {
        if down {
            registrar.handle_down(SessionKey(1), start);
        }
        let refusal = register(&mut registrar, &mut opened, GARAGE, holder(2, 1), 8080);
        let frame = refusal.unwrap_err().frame();
        assert!(frame.may_retry);
        assert_eq!(frame.text, "port 8080 is held by another forwarder");
    }
    let almost = start + CONTACT_LEASE - Duration::from_millis(1);
    assert!(registrar.handle_timeout(almost).is_empty());
    assert_eq!(registrar.poll_timeout(), Some(start + CONTACT_LEASE));
    assert_eq!(registrar.handle_timeout(start + CONTACT_LEASE).len(), 1);
    register(&mut registrar, &mut opened, GARAGE, holder(2, 1), 8080).unwrap();
}

/// What the policy forbids is refused for good, before anything is opened.
#[test]
fn a_forbidden_port_is_never_opened() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    let refusal = register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 80).unwrap_err();
    assert!(!refusal.frame().may_retry);
    assert_eq!(refusal.cause(), Cause::PortNotAllowed);
    assert_eq!((opened, registrar.leases().count()), (0, 0));
}

/// A port that the system does not give leaves no trace here.
#[test]
fn a_failed_open_leaves_nothing_behind() {
    let mut registrar: Registrar<usize> = Registrar::default();
    let policy = policy("office", &["8080"]);
    let caller = Caller { key: OFFICE.into(), holder: holder(1, 1), policy: &policy };
    let open = |_, _| Err(io::ErrorKind::AddrInUse.into());
    let refusal = registrar.handle_register(caller, &asked(8080), |_| false, open).unwrap_err();
    assert!(refusal.frame().may_retry);
    assert_eq!(registrar.leases().count(), 0);
    assert!(registrar.contacts_by_holder.is_empty() && registrar.counts_by_key.is_empty());
}

/// A forwarder that comes back finds its listener, and the callers who wait there.
#[test]
fn the_same_key_has_its_listener_again() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    let start = Instant::now();
    assert_eq!(register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap(), 1);
    registrar.handle_down(SessionKey(1), start);
    assert_eq!(register(&mut registrar, &mut opened, OFFICE, holder(2, 9), 8080).unwrap(), 1);
    assert_eq!(registrar.poll_timeout(), None);
    assert!(registrar.handle_timeout(start + 2 * CONTACT_LEASE).is_empty());
    assert_eq!(opened, 1);
}

/// The newest session of a key wins; the end of the older one then takes nothing from it.
#[test]
fn the_newer_session_takes_the_port_over() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    register(&mut registrar, &mut opened, OFFICE, holder(2, 1), 8080).unwrap();
    registrar.handle_down(SessionKey(1), Instant::now());
    assert_eq!(registrar.poll_timeout(), None);
    assert!(registrar.handle_unregister(holder(1, 1)).is_none());
    let lease = registrar.handle_unregister(holder(2, 1)).unwrap();
    assert_eq!((lease.listener, lease.contact), (Some(1), Contact::Public(8080, Protocol::Tcp)));
    assert_eq!(registrar.leases().count(), 0);
}

/// What a session keeps, another of the same key does not get; it may ask again, and once the first
/// keeps it no longer, the first is the one to be told.
#[test]
fn a_session_that_keeps_its_name_is_not_robbed() {
    let mut registrar: Registrar<usize> = Registrar::default();
    let policy = policy("office", &[]);
    let asked = Registration { protocol: Protocol::Tcp, port: 0, name: "db".into() };
    let mut ask = |session, first_keeps| {
        let caller = Caller { key: OFFICE.into(), holder: holder(session, 1), policy: &policy };
        let keeps = |other| first_keeps && other == SessionKey(1);
        let granted = registrar.handle_register(caller, &asked, keeps, |_, _| Ok(0));
        granted.map(|granted| granted.taken_from)
    };
    assert_eq!(ask(1, true).unwrap(), None);
    assert_eq!(ask(1, true).unwrap(), None, "its own");
    let refusal = ask(2, true).unwrap_err();
    assert!(refusal.frame().may_retry && refusal.cause() == Cause::NameTaken);
    assert_eq!(ask(2, false).unwrap(), Some(holder(1, 1)));
    assert_eq!(registrar.by_name("db").unwrap().holder(), Some(holder(2, 1)));
}

/// One contact point is one port, and one port one contact point; asking twice changes nothing.
#[test]
fn contact_points_do_not_share() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    for (contact, port) in [(2, 8080), (1, 8081)] {
        let refusal = register(&mut registrar, &mut opened, OFFICE, holder(1, contact), port);
        assert!(matches!(refusal, Err(Refusal::Twice(_))), "{contact} {port}");
    }
    assert_eq!((opened, registrar.leases().count()), (1, 1));
}

/// Leases that are only kept count too, or reconnecting would get around the limit.
#[test]
fn kept_leases_count_against_the_limit() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    for index in 0..CONTACTS_MAX {
        let (contact, port) = (u32::try_from(index).unwrap(), 2000 + u16::try_from(index).unwrap());
        register(&mut registrar, &mut opened, OFFICE, holder(1, contact), port).unwrap();
    }
    registrar.handle_down(SessionKey(1), Instant::now());
    let refusal = register(&mut registrar, &mut opened, OFFICE, holder(2, 1), 60_000);
    assert!(matches!(refusal, Err(Refusal::Limit)));
    register(&mut registrar, &mut opened, GARAGE, holder(3, 1), 60_000).unwrap();
}

/// A reload takes away what it no longer allows, and nothing else.
#[test]
fn a_changed_policy_takes_away_what_it_forbids() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    register(&mut registrar, &mut opened, OFFICE, holder(1, 2), 9090).unwrap();
    register(&mut registrar, &mut opened, GARAGE, holder(2, 1), 7070).unwrap();
    let policies = BTreeMap::from([(OFFICE.into(), policy("office", &["8080"]))]);
    let revoked = registrar.handle_policies(&policies);
    let revoked: Vec<_> =
        revoked.iter().map(|(lease, why)| (lease.contact.clone(), why.is_some())).collect();
    assert_eq!(
        revoked,
        [
            (Contact::Public(7070, Protocol::Tcp), false),
            (Contact::Public(9090, Protocol::Tcp), true)
        ]
    );
    let left: Vec<_> = registrar.leases().map(|lease| &lease.contact).collect();
    assert_eq!(left, [&Contact::Public(8080, Protocol::Tcp)]);
}

/// A name that another key has is not to be had however often it is asked for, and asking leaves
/// no trace; when the lease is over it is free.
#[test]
fn a_name_of_another_key_is_refused_a_thousand_times() {
    let mut registrar = Registrar::default();
    let start = Instant::now();
    register_name(&mut registrar, OFFICE, holder(1, 1), "db").unwrap();
    for attempt in 0..1_000 {
        if attempt == 500 {
            registrar.handle_down(SessionKey(1), start);
        }
        let refusal = register_name(&mut registrar, GARAGE, holder(2, attempt), "db").unwrap_err();
        assert_eq!(refusal.cause(), Cause::NameTaken);
        assert!(refusal.frame().may_retry);
        assert_eq!(refusal.frame().text, "the private name db is held by another key");
        assert_eq!(registrar.by_name("db").unwrap().key, OFFICE.into());
    }
    assert_eq!((registrar.leases().count(), registrar.counts_by_key.len()), (1, 1));
    assert!(registrar.contacts_by_holder.is_empty());
    assert_eq!(registrar.handle_timeout(start + CONTACT_LEASE).len(), 1);
    assert!(registrar.by_name("db").is_none() && registrar.poll_timeout().is_none());
    register_name(&mut registrar, GARAGE, holder(2, 1), "db").unwrap();
}

/// A name that the policy forbids is refused for good, and is nobody's.
#[test]
fn a_forbidden_name_is_not_held() {
    let mut registrar = Registrar::default();
    let refusal = register_name(&mut registrar, OFFICE, holder(1, 1), "web").unwrap_err();
    assert!(!refusal.frame().may_retry);
    assert_eq!(refusal.cause(), Cause::NameNotAllowed);
    assert_eq!(registrar.leases().count(), 0);
}

/// Names and ports do not stand in each other's way, and both count against one limit.
#[test]
fn names_stand_beside_ports() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    register_name(&mut registrar, OFFICE, holder(1, 2), "db").unwrap();
    register_name(&mut registrar, OFFICE, holder(1, 2), "db").unwrap();
    let twice = register_name(&mut registrar, OFFICE, holder(1, 3), "db");
    assert!(matches!(twice, Err(Refusal::Twice(_))));
    let other = register_name(&mut registrar, OFFICE, holder(1, 2), "office-web");
    assert!(matches!(other, Err(Refusal::Twice(_))));
    assert_eq!(registrar.counts_by_key.get(&OFFICE.into()), Some(&2));
    assert_eq!(registrar.by_name("db").unwrap().holder(), Some(holder(1, 2)));
    assert!(registrar.by_name("8080").is_none() && registrar.by_name("web").is_none());
    registrar.handle_unregister(holder(1, 2)).unwrap();
    assert!(registrar.by_name("db").is_none());
}

/// A forwarder that comes back has its names again; a reload takes back those it forbids.
#[test]
fn names_are_kept_and_taken_back_like_ports() {
    let mut registrar = Registrar::default();
    register_name(&mut registrar, OFFICE, holder(1, 1), "db").unwrap();
    registrar.handle_down(SessionKey(1), Instant::now());
    register_name(&mut registrar, OFFICE, holder(2, 1), "db").unwrap();
    assert_eq!(registrar.poll_timeout(), None);
    let unchanged = BTreeMap::from([(OFFICE.into(), policy("office", &[]))]);
    assert!(registrar.handle_policies(&unchanged).is_empty());
    let nobody =
        adit::config::Admitted::new("office".into(), OFFICE.into(), adit::config::Role::Forwarder);
    let revoked = registrar.handle_policies(&BTreeMap::from([(OFFICE.into(), nobody.into())]));
    assert!(matches!(revoked[..], [(_, Some(Forbidden::Name { .. }))]));
    assert!(registrar.by_name("db").is_none() && registrar.contacts_by_holder.is_empty());
}

/// What is judged comes out as the registration would, and changes nothing.
#[test]
fn a_judgement_says_what_a_registration_would_and_changes_nothing() {
    let (mut registrar, mut opened) = (Registrar::default(), 0);
    register(&mut registrar, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    let policy = policy("office", &["8000-8100"]);
    let judged = |registrar: &Registrar<usize>, key: [u8; 32], port, is_free: bool| {
        let open = move |_, _| {
            let taken = || io::Error::from(io::ErrorKind::AddrInUse);
            is_free.then_some(()).ok_or_else(taken)
        };
        registrar.judge(key.into(), &policy, &asked(port), open)
    };
    // Its own is there already: nothing would be opened.
    judged(&registrar, OFFICE, 8080, false).unwrap();
    judged(&registrar, OFFICE, 8081, true).unwrap();
    let taken = judged(&registrar, OFFICE, 8081, false);
    assert!(matches!(taken, Err(Refusal::Unavailable { port: 8081, .. })));
    assert!(matches!(judged(&registrar, GARAGE, 8080, true), Err(Refusal::PortTaken(8080))));
    assert!(matches!(judged(&registrar, OFFICE, 22, true), Err(Refusal::Forbidden(_))));
    assert_eq!(registrar.leases().count(), 1);
    assert_eq!(opened, 1);
    for port in 10_000..10_000 + u16::try_from(CONTACTS_MAX).unwrap() - 1 {
        register(&mut registrar, &mut opened, OFFICE, holder(1, port.into()), port).unwrap();
    }
    assert!(matches!(judged(&registrar, OFFICE, 8081, true), Err(Refusal::Limit)));
}

/// In the process that takes over each contact point is whose it was, for as long as it was.
#[test]
fn contact_points_stay_when_another_process_takes_over() {
    let (mut old, mut opened) = (Registrar::default(), 0);
    let start = Instant::now();
    register(&mut old, &mut opened, OFFICE, holder(1, 1), 8080).unwrap();
    register_name(&mut old, OFFICE, holder(2, 1), "db").unwrap();
    old.handle_down(SessionKey(2), start);
    let mut new = Registrar::default();
    for lease in old.leases() {
        new.take_over(lease.leave(start), lease.listener, start);
    }
    for contact in [Contact::Public(8080, Protocol::Tcp), Contact::Private("db".to_owned())] {
        let [was, is] = [&old, &new].map(|registrar| {
            let lease = registrar.lease(&contact).unwrap();
            (lease.key, lease.listener, lease.holder(), lease.kept_until())
        });
        assert_eq!(was, is, "{contact}");
    }
    assert!(register(&mut new, &mut opened, GARAGE, holder(3, 1), 8080).is_err());
    assert_eq!(new.handle_timeout(start + CONTACT_LEASE).len(), 1);
    assert!(new.handle_unregister(holder(1, 1)).is_some());
    assert!(new.counts_by_key.is_empty());
}
