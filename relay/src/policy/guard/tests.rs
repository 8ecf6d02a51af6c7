use super::*;

fn dials(entries: &[&str]) -> Vec<Dial> {
    entries.iter().map(|entry| entry.parse().unwrap()).collect()
}

/// Of a relay at 203.0.113.20, behind a NAT's 198.51.100.1, that listens at 443 and 8080.
fn verdict(entries: &[&str], host: &str, found: &str) -> Result<SocketAddr, Guarded> {
    let addresses = ["203.0.113.20", "2001:db8::20", "10.0.0.20", "198.51.100.1"];
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let own = OwnPlaces { addresses: &addresses, listens_at: &|port| [443, 8080].contains(&port) };
    judge(&dials(entries), host, found.parse().unwrap(), own)
}

/// What is wide enough to cover everything does not name what is special.
const EVERYTHING: [&str; 3] = ["0.0.0.0/0:1-65535", "[::/0]:1-65535", "www.example.com:1-65535"];

/// Special targets in every form that leads to them, none of them named by an entry.
#[test]
fn special_targets_are_refused_in_every_form() {
    for target in [
        // Loopback and unspecified.
        "127.0.0.1:80",
        "127.255.255.254:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "[::1]:80",
        // Link-local, with the metadata of cloud hosts.
        "169.254.0.1:80",
        "169.254.169.254:80",
        "168.63.129.16:80",
        "192.0.0.192:80",
        "[fe80::1]:80",
        "[febf::1]:80",
        "[fd00:ec2::254]:80",
        // Private.
        "10.0.0.1:80",
        "10.255.255.255:80",
        "100.64.0.1:80",
        "100.127.255.255:80",
        "100.100.100.200:80",
        "172.16.0.1:80",
        "172.31.255.255:80",
        "192.168.0.1:80",
        "198.19.0.1:80",
        "[fc00::1]:80",
        "[fdff::1]:80",
        "[fec0::1]:80",
        // Multicast, broadcast, reserved.
        "224.0.0.1:80",
        "239.255.255.255:80",
        "240.0.0.1:80",
        "255.255.255.255:80",
        "[ff02::1]:80",
        "[100::1]:80",
        // IPv4-mapped, -compatible and -translated.
        "[::ffff:127.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:10.0.0.1]:80",
        "[::ffff:0.0.0.0]:80",
        "[::127.0.0.1]:80",
        "[::10.0.0.1]:80",
        "[::ffff:0:10.0.0.1]:80",
        // NAT64, in all places where a provider's own prefix can have the address.
        "[64:ff9b::127.0.0.1]:80",
        "[64:ff9b::169.254.169.254]:80",
        "[64:ff9b:1::10.0.0.1]:80",
        "[64:ff9b:1:a9fe:a9:fe00::]:80",
        "[64:ff9b:1:a9fe:a9:fe00:dead:beef]:80",
        "[64:ff9b:1:0:c0:a800:100:0]:80",
        "[64:ff9b:1:ab0a:0:1:0:0]:80",
        "[64:ff9b:1::]:80",
        // Tunnels.
        "[2002:7f00:1::1]:80",
        "[2002:a9fe:a9fe::]:80",
        "[2001:0:a00:1::f5ff:fffe]:80",
        "[2001:0:c000:201::f5ff:fffe]:80",
        "[2001:db8::5efe:10.0.0.1]:80",
        "[2001:db8::200:5efe:192.168.1.1]:80",
    ] {
        for host in ["www.example.com", "unlisted.example.com"] {
            let verdict = verdict(&EVERYTHING, host, target);
            assert!(matches!(verdict, Err(Guarded::Special(_))), "{target}: {verdict:?}");
        }
    }
}

/// What is public is dialled where it is listed, in its canonical form.
#[test]
fn listed_public_targets_are_dialled() {
    for (target, dialled) in [
        ("192.0.2.10:80", "192.0.2.10:80"),
        ("198.51.100.7:80", "198.51.100.7:80"),
        ("9.255.255.255:80", "9.255.255.255:80"),
        ("11.0.0.0:80", "11.0.0.0:80"),
        ("100.63.255.255:80", "100.63.255.255:80"),
        ("100.128.0.0:80", "100.128.0.0:80"),
        ("172.15.255.255:80", "172.15.255.255:80"),
        ("172.32.0.0:80", "172.32.0.0:80"),
        ("169.253.255.255:80", "169.253.255.255:80"),
        ("223.255.255.255:80", "223.255.255.255:80"),
        ("[2001:db8::7]:80", "[2001:db8::7]:80"),
        ("[::ffff:192.0.2.10]:80", "192.0.2.10:80"),
        ("[64:ff9b::192.0.2.10]:80", "[64:ff9b::192.0.2.10]:80"),
        ("[64:ff9b:1::192.0.2.10]:80", "[64:ff9b:1::192.0.2.10]:80"),
        ("[2002:c000:20a::1]:80", "[2002:c000:20a::1]:80"),
    ] {
        let dialled: SocketAddr = dialled.parse().unwrap();
        assert_eq!(verdict(&EVERYTHING, "anything", target), Ok(dialled), "{target}");
    }
}

/// Nothing is dialled but what an entry has: host and port together, and a name as a name.
#[test]
fn what_is_not_listed_is_refused() {
    let entries =
        ["192.0.2.10:443", "198.51.100.0/24:80-443", "www.example.com:443", "[2001:db8::/32]:22"];
    for (host, found) in [
        ("192.0.2.10", "192.0.2.10:80"),
        ("192.0.2.11", "192.0.2.11:443"),
        ("198.51.101.1", "198.51.101.1:80"),
        ("198.51.100.1", "198.51.100.1:444"),
        ("www.example.com", "203.0.113.9:80"),
        ("www.example.org", "203.0.113.9:443"),
        ("example.com", "203.0.113.9:443"),
        ("www.example.com.evil.net", "203.0.113.9:443"),
        ("2001:db8::7", "[2001:db8::7]:443"),
        ("2002:c000:20a::1", "[2002:c000:20a::1]:443"),
        ("64:ff9b::192.0.2.11", "[64:ff9b::192.0.2.11]:443"),
    ] {
        assert_eq!(verdict(&entries, host, found), Err(Guarded::NotListed), "{host} {found}");
    }
    for (host, found) in [
        ("192.0.2.10", "192.0.2.10:443"),
        ("db.example.net", "198.51.100.77:100"),
        ("WWW.Example.com.", "203.0.113.9:443"),
        ("2001:db8::7", "[2001:db8::7]:22"),
        ("64:ff9b::192.0.2.10", "[64:ff9b::192.0.2.10]:443"),
    ] {
        assert!(verdict(&entries, host, found).is_ok(), "{host} {found}");
    }
    assert_eq!(verdict(&[], "192.0.2.10", "192.0.2.10:443"), Err(Guarded::NotListed));
}

/// An entry names what is special by an address or a network of that kind, for its ports alone.
#[test]
fn special_targets_are_dialled_where_they_are_named() {
    let entries = [
        "127.0.0.1:5432",
        "10.1.0.0/16:80",
        "169.254.169.254:80",
        "[fd00::/8]:80",
        "[64:ff9b::10.2.0.1]:80",
        "0.0.0.0/0:1-65535",
    ];
    for target in [
        "127.0.0.1:5432",
        "10.1.2.3:80",
        "169.254.169.254:80",
        "[fd12::1]:80",
        "[::ffff:10.1.2.3]:80",
        "[64:ff9b::10.1.2.3]:80",
        "[64:ff9b::10.2.0.1]:80",
    ] {
        assert!(verdict(&entries, "name", target).is_ok(), "{target}");
    }
    for target in ["127.0.0.1:5433", "127.0.0.2:5432", "10.2.0.1:80", "10.1.2.3:81"] {
        assert!(matches!(verdict(&entries, "name", target), Err(Guarded::Special(_))), "{target}");
    }
}

/// What else listens on the relay's host is dialled where an entry has its very address, not a
/// network around it or a name that leads there.
#[test]
fn the_relays_own_addresses_are_dialled_where_each_is_named() {
    let wide = [
        "0.0.0.0/0:1-65535",
        "[::/0]:1-65535",
        "203.0.113.0/24:22",
        "10.0.0.0/24:22",
        "[2001:db8::/64]:22",
        "www.example.com:22",
    ];
    let exact = ["203.0.113.20:22", "10.0.0.20:22", "198.51.100.1:22", "[2001:db8::20]:22"];
    let [wide, named] = [wide.to_vec(), [&wide[..], &exact].concat()];
    for target in [
        "203.0.113.20:22",
        "10.0.0.20:22",
        "198.51.100.1:22",
        "[2001:db8::20]:22",
        "[::ffff:203.0.113.20]:22",
        "[64:ff9b::203.0.113.20]:22",
        "[2002:cb00:7114::1]:22",
    ] {
        let refused = verdict(&wide, "www.example.com", target);
        assert_eq!(refused, Err(Guarded::OwnAddress), "{target}");
        assert!(verdict(&named, "www.example.com", target).is_ok(), "{target}");
    }
    let other_port = verdict(&named, "203.0.113.20", "203.0.113.20:23");
    assert_eq!(other_port, Err(Guarded::OwnAddress), "by 0.0.0.0/0 alone");
}

/// The relay never dials itself, whatever the entries name and however it is called.
#[test]
fn the_relays_own_ports_are_refused_always() {
    let entries = [
        "127.0.0.1:443",
        "[::1]:443",
        "203.0.113.20:1-65535",
        "0.0.0.0/0:1-65535",
        "[::/0]:1-65535",
    ];
    for target in [
        "127.0.0.1:443",
        "127.0.0.53:8080",
        "[::1]:443",
        "0.0.0.0:443",
        "[::]:8080",
        "203.0.113.20:443",
        "203.0.113.20:8080",
        "10.0.0.20:443",
        "198.51.100.1:443",
        "[2001:db8::20]:8080",
        "[::ffff:203.0.113.20]:443",
        "[64:ff9b::203.0.113.20]:443",
        "[2002:cb00:7114::1]:443",
    ] {
        assert_eq!(verdict(&entries, "name", target), Err(Guarded::Own), "{target}");
    }
}

/// A name is not even resolved where nothing that it could lead to is listed.
#[test]
fn names_are_resolved_only_for_listed_ports() {
    let entries = dials(&["www.example.com:443", "192.0.2.0/24:22"]);
    assert!(may_lead_to_listed(&entries, "www.example.com", 443));
    assert!(may_lead_to_listed(&entries, "anything.example.net", 22));
    assert!(!may_lead_to_listed(&entries, "anything.example.net", 443));
    assert!(!may_lead_to_listed(&entries, "www.example.com", 80));
    assert!(!may_lead_to_listed(&[], "www.example.com", 443));
    assert!(is_listed_by_name(&entries, "www.example.com", 443));
    assert!(!is_listed_by_name(&entries, "anything.example.net", 22));
    assert!(!is_listed_by_name(&entries, "192.0.2.1", 22));
}
