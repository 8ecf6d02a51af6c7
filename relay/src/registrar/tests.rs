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
    let open = |_| {
        *opened += 1;
        Ok(*opened)
    };
    registrar.handle_register(caller, &asked(port), open).map(|lease| lease.listener)
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
    let open = |_| Err(io::ErrorKind::AddrInUse.into());
    let refusal = registrar.handle_register(caller, &asked(8080), open).unwrap_err();
    assert!(refusal.frame().may_retry);
    assert_eq!(registrar.leases().count(), 0);
    assert!(registrar.ports_by_holder.is_empty() && registrar.counts_by_key.is_empty());
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
    assert_eq!((lease.listener, lease.port), (1, 8080));
    assert_eq!(registrar.leases().count(), 0);
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
    let revoked: Vec<_> = revoked.iter().map(|(lease, why)| (lease.port, why.is_some())).collect();
    assert_eq!(revoked, [(7070, false), (9090, true)]);
    assert_eq!(registrar.leases().map(|lease| lease.port).collect::<Vec<_>>(), [8080]);
}
