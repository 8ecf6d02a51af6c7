use std::collections::BTreeSet;

use adit::config::PortRange;
use ipnet::IpNet;

use super::*;

fn asked(protocol: Protocol, port: u16, name: &str) -> Registration {
    Registration { protocol, port, name: name.into() }
}

fn nobody(role: Role) -> Admitted {
    Admitted::new("office".into(), [1; 32].into(), role)
}

/// What a key's lists say; everything else about it is empty.
fn with(change: impl FnOnce(&mut Admitted)) -> Policy {
    let mut admitted = nobody(Role::Forwarder);
    change(&mut admitted);
    admitted.into()
}

/// Without lists nothing is allowed: no port, no name, no call, no address.
#[test]
fn empty_lists_forbid_everything() {
    for role in [Role::Forwarder, Role::External] {
        let policy = Policy::from(nobody(role));
        for port in [0, 1, 80, 8080, 65_535] {
            assert!(policy.may_register(&asked(Protocol::Tcp, port, "web")).is_err(), "{port}");
        }
        assert!(!policy.may_call("web") && !policy.may_resolve(Protocol::Tcp, "192.0.2.10", 443));
        let found = "192.0.2.10:443".parse().unwrap();
        let own = OwnPlaces { addresses: &BTreeSet::new(), listens_at: &|_| false };
        assert_eq!(
            policy.may_dial(Protocol::Tcp, "192.0.2.10", found, own),
            Err(Guarded::NotListed)
        );
    }
}

/// A port that is not in the list is forbidden, and the text names the setting.
#[test]
fn ports_outside_the_list_are_forbidden() {
    let policy = policy("office", &["2222", "8000-8100"]);
    for port in [1, 80, 2221, 2223, 7999, 8101, 65_535] {
        let forbidden = policy.may_register(&asked(Protocol::Tcp, port, "web")).unwrap_err();
        let forbidden = forbidden.to_string();
        assert!(forbidden.contains(&format!("port {port} is not allowed")), "{forbidden}");
        assert!(forbidden.contains("ports of [[forwarder]] office"), "{forbidden}");
    }
    let granted = policy.may_register(&asked(Protocol::Tcp, 8100, "web"));
    assert_eq!(granted, Ok(Contact::Public(8100, Protocol::Tcp)));
}

/// A private name that is not in the list is forbidden, and the text names the setting.
#[test]
fn names_outside_the_list_are_forbidden() {
    let policy = policy("office", &["1-65535"]);
    for name in ["web", "db2", "DB", "office", "my-office-web"] {
        let forbidden = policy.may_register(&asked(Protocol::Tcp, 0, name)).unwrap_err();
        let forbidden = forbidden.to_string();
        assert!(forbidden.contains(&format!("the private name {name} is not")), "{forbidden}");
        assert!(forbidden.contains("names of [[forwarder]] office"), "{forbidden}");
    }
    let granted = policy.may_register(&asked(Protocol::Tcp, 0, "office-web"));
    assert_eq!(granted, Ok(Contact::Private("office-web".into())));
}

/// A name that may be called may not be had, one that may be had may not be called.
#[test]
fn calls_and_names_are_lists_of_their_own() {
    let caller = with(|admitted| admitted.calls = vec!["db".parse().unwrap()]);
    assert!(caller.may_call("db"));
    assert!(!caller.may_call("db2") && !caller.may_call("office-web"));
    assert!(caller.may_register(&asked(Protocol::Tcp, 0, "db")).is_err());
    assert!(!policy("office", &["1-65535"]).may_call("db"));
}

/// Whatever its lists say, an external peer has no ports, and a port of one protocol is none of the
/// other.
#[test]
fn what_is_not_offered_is_forbidden() {
    let mut external = nobody(Role::External);
    external.ports = ["1-65535".parse::<PortRange>().unwrap()].into_iter().collect();
    external.names = vec!["laptop-*".parse().unwrap()];
    let external = Policy::from(external);
    assert_eq!(external.may_register(&asked(Protocol::Tcp, 80, "web")), Err(Forbidden::NoPorts));
    assert!(external.may_register(&asked(Protocol::Tcp, 0, "laptop-web")).is_ok());
    let forbidden = external.may_register(&asked(Protocol::Tcp, 0, "db")).unwrap_err().to_string();
    assert!(forbidden.contains("names of [[external]] office"), "{forbidden}");
    let all = policy("office", &["1-65535"]);
    let forbidden = all.may_register(&asked(Protocol::Udp, 53, "db")).unwrap_err().to_string();
    assert!(forbidden.contains("udp_ports of [[forwarder]] office"), "{forbidden}");
    assert!(all.may_register(&asked(Protocol::Udp, 0, "db")).is_ok());
    let udp = with(|admitted| {
        admitted.udp_ports = ["53".parse::<PortRange>().unwrap()].into_iter().collect();
    });
    let granted = udp.may_register(&asked(Protocol::Udp, 53, "dns"));
    assert_eq!(granted, Ok(Contact::Public(53, Protocol::Udp)));
    assert!(udp.may_register(&asked(Protocol::Tcp, 53, "dns")).is_err());
}

/// The relay dials what is listed for this key, and only for the ports of the entry.
#[test]
fn dials_outside_the_list_are_forbidden() {
    let policy = with(|admitted| admitted.dials = vec!["192.0.2.10:443".parse().unwrap()]);
    let own = OwnPlaces { addresses: &BTreeSet::new(), listens_at: &|_| false };
    let dial =
        |text: &str| policy.may_dial(Protocol::Tcp, "192.0.2.10", text.parse().unwrap(), own);
    assert_eq!(dial("192.0.2.10:443"), Ok("192.0.2.10:443".parse().unwrap()));
    assert_eq!(dial("192.0.2.10:444"), Err(Guarded::NotListed));
    assert_eq!(dial("192.0.2.11:443"), Err(Guarded::NotListed));
    assert!(
        policy.may_resolve(Protocol::Tcp, "www.example.com", 443)
            && !policy.may_resolve(Protocol::Tcp, "192.0.2.10", 444)
    );
}

/// Sources that are not in `allow`, or are in `deny`, are not let in.
#[test]
fn sources_outside_the_lists_are_not_let_in() {
    let nets =
        |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let policy = with(|admitted| {
        admitted.allow = Some(nets(&["203.0.113.0/24"]));
        admitted.deny = nets(&["203.0.113.66/32"]);
    });
    for (source, is_let_in) in
        [("203.0.113.1", true), ("203.0.113.66", false), ("198.51.100.1", false), ("::1", false)]
    {
        assert_eq!(policy.sources.accepts(source.parse().unwrap()), is_let_in, "{source}");
    }
}

/// Limits reach the pump as they were written; without any there is none.
#[test]
fn limits_are_those_of_the_file() {
    let quota = Quota { flows_max: Some(3), flows_per_s: Some(2), bytes_per_s: Some(1) };
    assert_eq!(with(|admitted| admitted.quota = quota).quota, quota);
    assert_eq!(with(|_| ()).quota, Quota::default());
    assert_eq!(with(|admitted| admitted.bytes_per_month = Some(4)).bytes_per_month, Some(4));
    assert_eq!(with(|_| ()).bytes_per_month, None);
}
