//! Configuration files: what is wrong is named with its file and line, before anything starts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use adit::config::{
    ConfigError, Contact, ForwarderConfig, PLACES_MAX, RelayConfig, Role, enrolled,
};
use adit::handoff::{Protocol, ProxyVersion, Quota};
use tempfile::TempDir;

const KEY: &str = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";
const OTHER_KEY: &str = "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.toml");
    std::fs::write(&path, text.replace("OTHER", OTHER_KEY).replace("KEY", KEY)).unwrap();
    (dir, path)
}

/// The error's text without the directory.
fn shown(path: &std::path::Path, error: &ConfigError) -> String {
    let dir = format!("{}/", path.parent().unwrap().display());
    error.to_string().replace(&dir, "")
}

#[track_caller]
fn forwarder_refuses(text: &str, expected: &str) {
    let (_dir, path) = file(text);
    let error = ForwarderConfig::load(&path).unwrap_err();
    let shown = shown(&path, &error);
    assert!(shown.starts_with(expected), "{shown}\nexpected: {expected}");
}

#[track_caller]
fn relay_refuses(text: &str, expected: &str) {
    let (_dir, path) = file(text);
    let error = RelayConfig::load(&path).unwrap_err();
    let shown = shown(&path, &error);
    assert!(shown.starts_with(expected), "{shown}\nexpected: {expected}");
}

const TOP: &str = "key = \"adit.key\"\nrelay = \"relay.example.net:443\"\nrelay_key = \"KEY\"\n";
const WEB: &str =
    "[[peer]]\nname = \"web\"\ntcp = \"192.168.50.3:80\"\ncontact = \"public:8080\"\n";

/// A slip of the pen is named with the key that was meant; nothing is silently ignored.
#[test]
fn unknown_keys_are_refused_with_the_nearest_valid_one() {
    forwarder_refuses(
        &format!("{TOP}sokcet = \"x\"\n"),
        "adit.toml:4: unknown key \"sokcet\": did you mean \"socket\"?",
    );
    forwarder_refuses(
        &format!("{TOP}\n[[peers]]\nname = \"web\"\n"),
        "adit.toml:5: unknown key \"peers\": did you mean \"peer\"?",
    );
    forwarder_refuses(
        &format!("{TOP}{}", WEB.replace("contact =", "contcat =")),
        "adit.toml:7: unknown key \"contcat\": did you mean \"contact\"?",
    );
    forwarder_refuses(
        &format!("{TOP}{WEB}sctp = \"192.168.50.3:53\"\n"),
        "adit.toml:8: unknown key \"sctp\": valid here: name, tcp, udp, unix, contact",
    );
    relay_refuses(
        "key = \"relay.key\"\nlisten = \"0.0.0.0:443\"\ncontact_adress = \"::\"\n",
        "adit.toml:3: unknown key \"contact_adress\": did you mean \"contact_address\"?",
    );
}

/// The first wrong key of the file is named, whatever the alphabet says.
#[test]
fn the_first_unknown_key_is_named_first() {
    forwarder_refuses(&format!("zzz = 1\n{TOP}aaa = 1\n"), "adit.toml:1: unknown key \"zzz\"");
}

/// What is missing is named, with the line of the table that lacks it.
#[test]
fn missing_keys_are_named() {
    forwarder_refuses("key = \"adit.key\"\n", "adit.toml:1: missing field `relay`");
    forwarder_refuses(
        &format!("{TOP}{WEB}[[peer]]\nname = \"ssh\"\n"),
        "adit.toml:8: missing field `contact`",
    );
    relay_refuses("key = \"relay.key\"\n", "adit.toml:1: missing field `listen`");
}

/// Two of a name, or of a contact point, are both named.
#[test]
fn duplicates_are_refused_with_both_lines() {
    forwarder_refuses(
        &format!("{TOP}{WEB}{}", WEB.replace("8080", "8081")),
        "adit.toml:9: peer \"web\" is used already in line 5",
    );
    forwarder_refuses(
        &format!("{TOP}{WEB}{}", WEB.replace("web", "ssh")),
        "adit.toml:11: contact point \"public:8080\" is used already in line 7",
    );
    let office = "[[forwarder]]\nname = \"office\"\nkey = \"KEY\"\nports = [\"2222\"]\n";
    let top = "key = \"relay.key\"\nlisten = \"0.0.0.0:443\"\n";
    relay_refuses(
        &format!("{top}{office}{}", office.replace("office", "garage")),
        "adit.toml:9: key \"ed25519:Gb9E",
    );
    relay_refuses(
        &format!("{top}{office}{}", office.replace("KEY", "OTHER")),
        "adit.toml:8: name \"office\" is used already in line 4",
    );
    relay_refuses(
        "key = \"k\"\nlisten = [\n  \"0.0.0.0:443\",\n  \"0.0.0.0:443\",\n]\n",
        "adit.toml:4: address \"0.0.0.0:443\" is used already in line 3",
    );
}

/// Addresses, ports and keys are checked when they are read, with the line of each.
#[test]
fn bad_values_are_refused_with_their_line() {
    let cases = [
        (
            "relay.example.net:443",
            "relay.example.net",
            "adit.toml:2: relay: \"relay.example.net\" is no",
        ),
        ("relay.example.net:443", "relay:0", "adit.toml:2: relay: port \"0\" is out of range"),
        ("\"relay.example.net:443\"", "443", "adit.toml:2: relay: \"443\" is no address"),
        ("\"relay.example.net:443\"", "[]", "adit.toml:2: relay: the list is empty"),
        ("\"relay.example.net:443\"", "true", "adit.toml:2: invalid type"),
        (
            "\"KEY\"",
            "\"ed25519:short\"",
            "adit.toml:3: relay_key: \"ed25519:short\" is no public key",
        ),
        ("\"KEY\"", "[]", "adit.toml:3: relay_key: 0 keys: a relay has one"),
        ("\"KEY\"", "[\"KEY\", \"KEY\"]", "adit.toml:3: key \"ed25519:"),
        ("\"KEY\"", "[\"KEY\", \"OTHER\", \"ed25519:short\"]", "adit.toml:3: relay_key: \"ed2"),
        ("\"web\"", "\"web server\"", "adit.toml:5: name: \"web server\" is no name"),
        (
            "192.168.50.3:80",
            "192.168.50.3:80000",
            "adit.toml:6: tcp: port \"80000\" is out of range",
        ),
        ("192.168.50.3:80", "192.168.50.333:80", "adit.toml:6: tcp: \"192.168.50.333\" is neither"),
        ("public:8080", "8080", "adit.toml:7: contact: \"8080\" is no contact point"),
        ("public:8080", "public:70000", "adit.toml:7: contact: port \"70000\" is out of range"),
    ];
    for (good, bad, expected) in cases {
        forwarder_refuses(&format!("{TOP}{WEB}").replace(good, bad), expected);
    }
}

/// A list of places is checked item by item, with the line of each.
#[test]
fn bad_places_of_a_list_are_refused_with_their_line() {
    let list = |places: &str| TOP.replace("\"relay.example.net:443\"", &format!("[\n{places}]"));
    forwarder_refuses(
        &list("\"relay.example.net:443\",\n\"192.0.2.7\",\n"),
        "adit.toml:4: relay: \"192.0.2.7\" is no address",
    );
    forwarder_refuses(
        &list("\"relay:443\",\n\"relay:80\",\n\"relay:443\",\n"),
        "adit.toml:5: place \"relay:443\" is used already in line 3",
    );
    let many: String = (0..=PLACES_MAX).map(|index| format!("\"relay{index}:443\",\n")).collect();
    forwarder_refuses(&list(&many), "adit.toml:11: relay: more than 8 places for one relay");
}

/// One place or several lead to the same relay, and are shown as they were written.
#[test]
fn a_relay_has_one_place_or_several() {
    let (_dir, path) = file(TOP);
    let config = ForwarderConfig::load(&path).unwrap();
    assert_eq!(config.relay.to_string(), "relay.example.net:443");
    let several = "[\"relay.example.net:443\", \"[2001:db8::7]:443\"]";
    let (_dir, path) = file(&TOP.replace("\"relay.example.net:443\"", several));
    let config = ForwarderConfig::load(&path).unwrap();
    assert_eq!(config.relay.to_string(), "relay.example.net:443, [2001:db8::7]:443");
    assert_eq!(config.relay.len(), 2);
}

/// While the relay's key is being changed, the next one may stand beside it.
#[test]
fn a_relay_has_one_key_or_two() {
    let (_dir, path) = file(TOP);
    let config = ForwarderConfig::load(&path).unwrap();
    assert_eq!(config.relay_keys.to_string(), KEY);
    let (_dir, path) = file(&TOP.replace("\"KEY\"", "[\"KEY\", \"OTHER\"]"));
    let config = ForwarderConfig::load(&path).unwrap();
    assert_eq!(config.relay_keys.first().to_string(), KEY);
    assert!(config.relay_keys.to_string().starts_with(&format!("{KEY} or ed25519:")));
}

/// The same for the relay, item by item where there is a list.
#[test]
fn bad_values_of_the_relay_are_refused_with_their_line() {
    let good = "key = \"relay.key\"\nlisten = \"0.0.0.0:443\"\ncontact_address = \"::\"\n\
                [[forwarder]]\nname = \"office\"\nkey = \"KEY\"\nports = [\n\"2222\",\n\"8000-8100\"\n]\n";
    let cases = [
        (
            "\"0.0.0.0:443\"",
            "\"0.0.0.0\"",
            "adit.toml:2: listen: \"0.0.0.0\" is no address to listen on",
        ),
        ("\"0.0.0.0:443\"", "[]", "adit.toml:2: listen: the list is empty"),
        ("\"0.0.0.0:443\"", "443", "adit.toml:2: listen: \"443\" is no address to listen on"),
        ("\"::\"", "\":::\"", "adit.toml:3: contact_address: \":::\" is no address"),
        ("KEY", "ed25519:", "adit.toml:6: key: \"ed25519:\" is no public key"),
        ("2222", "0", "adit.toml:8: ports: port \"0\" is out of range"),
        ("8000-8100", "8100-8000", "adit.toml:9: ports: \"8100-8000\" ends before it begins"),
        ("8000-8100", "8000-81000", "adit.toml:9: ports: port \"81000\" is out of range"),
        ("\"2222\"", "[]", "adit.toml:8: invalid type"),
    ];
    for (value, bad, expected) in cases {
        relay_refuses(&good.replace(value, bad), expected);
    }
}

/// What is not TOML, or not there, is said in a line as well.
#[test]
fn unreadable_files_are_refused() {
    forwarder_refuses("key = \"adit.key\"\nrelay = \n", "adit.toml:2: ");
    let error = ForwarderConfig::load("/nonexistent/adit.toml".as_ref()).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/adit.toml: cannot be read"), "{error}");
}

/// No peers is a configuration too: they may come with a reload.
#[test]
fn a_forwarder_without_peers_is_fine() {
    let (dir, path) = file(TOP);
    let config = ForwarderConfig::load(&path).unwrap();
    assert!(config.peers.is_empty());
    assert_eq!(config.key, dir.path().join("adit.key"));
    assert_eq!(config.socket, PathBuf::from("/run/adit/adit.sock"));
}

/// Paths are relative to the file, ports may be numbers, one address needs no list.
#[test]
fn the_relays_file_is_read_as_documented() {
    let (dir, path) = file(
        "key = \"relay.key\"\nlisten = \"[::]:443\"\nsocket = \"run/relay.sock\"\n\
         [[forwarder]]\nname = \"office\"\nkey = \"KEY\"\nports = [2222, \"8000-8100\"]\n",
    );
    let config = RelayConfig::load(&path).unwrap();
    assert_eq!(config.key, dir.path().join("relay.key"));
    assert_eq!(config.socket, dir.path().join("run/relay.sock"));
    assert_eq!(config.listen, ["[::]:443".parse().unwrap()]);
    assert_eq!(config.contact_address, None);
    let ports = &config.admitted[0].ports;
    assert!(ports.contain(2222) && ports.contain(8100) && !ports.contain(8101));
    assert_eq!(config.admitted[0].key.to_string(), KEY);
    assert_eq!(config.state, PathBuf::from("/var/lib/adit-relay"));
}

const RELAY_TOP: &str = "key = \"relay.key\"\nlisten = \"[::]:443\"\nstate = \"state\"\n";
const OFFICE: &str = "[[forwarder]]\nname = \"office\"\nkey = \"KEY\"\n";
const LAPTOP: &str = "[[external]]\nname = \"laptop\"\nkey = \"OTHER\"\n";

/// Whoever has no lists may have nothing, and nobody needs a limit.
#[test]
fn what_is_not_listed_is_not_allowed() {
    let (_dir, path) = file(&format!("{RELAY_TOP}{OFFICE}{LAPTOP}"));
    let config = RelayConfig::load(&path).unwrap();
    let roles: Vec<_> = config.admitted.iter().map(|admitted| admitted.role).collect();
    assert_eq!(roles, [Role::Forwarder, Role::External]);
    for admitted in &config.admitted {
        assert!(!admitted.ports.contain(443) && !admitted.is_enrolled);
        assert!(admitted.names.is_empty() && admitted.calls.is_empty());
        assert!(admitted.dials.is_empty() && admitted.deny.is_empty());
        assert_eq!((&admitted.allow, admitted.quota), (&None, Quota::default()));
    }
}

/// What a key may have is checked entry by entry, and an external peer has neither ports nor dials.
#[test]
fn bad_grants_are_refused_with_their_line() {
    let cases = [
        ("names = [\"a\", \"*-b\"]", "adit.toml:7: names: \"*-b\" is no private name"),
        ("calls = \"a b\"", "adit.toml:7: calls: \"a b\" is no private name"),
        ("dials = \"192.0.2.10\"", "adit.toml:7: dials: \"192.0.2.10\" names no host and ports"),
        ("dials = [\n\"192.0.2.7/24:80\"]", "adit.toml:8: dials: \"192.0.2.7/24\" has bits behind"),
        ("dials = \"www.example.com:0\"", "adit.toml:7: dials: port \"0\" is out of range"),
        ("allow = \"203.0.113.0/33\"", "adit.toml:7: allow: \"203.0.113.0/33\" is no network"),
        ("deny = \"everybody\"", "adit.toml:7: deny: \"everybody\" is no network"),
        ("flows_max = 0", "adit.toml:7: flows_max: 0 is out of range: write 1 to 65536"),
        ("flows_max = 65537", "adit.toml:7: flows_max: 65537 is out of range"),
        ("flows_per_s = 0", "adit.toml:7: flows_per_s: 0 is out of range"),
        ("bytes_per_s = 0", "adit.toml:7: bytes_per_s: 0 is out of range"),
        ("bytes_per_s = -1", "adit.toml:7: invalid value"),
        ("bytes_per_month = 0", "adit.toml:7: bytes_per_month: 0 is out of range"),
        ("port = \"2222\"", "adit.toml:7: unknown key \"port\": did you mean \"ports\"?"),
    ];
    for (line, expected) in cases {
        relay_refuses(&format!("{RELAY_TOP}{OFFICE}{line}\n"), expected);
    }
    for line in ["ports = \"2222\"", "dials = \"192.0.2.10:443\""] {
        relay_refuses(&format!("{RELAY_TOP}{LAPTOP}{line}\n"), "adit.toml:7: unknown key");
    }
    let address = format!("{RELAY_TOP}address = \"relay.example.net\"\n");
    relay_refuses(&address, "adit.toml:4: address: \"relay.example.net\" is no address");
}

/// A table is written as it is read: what was enrolled comes back as it was.
#[test]
fn tables_are_read_back_as_they_were_written() {
    let (dir, path) = file(&format!("{RELAY_TOP}address = [\"relay.example.net:443\"]\n"));
    let tables = "[[forwarder]]\nname = \"office\"\nkey = \"KEY\"\nports = [\"2222\", \"8000-8100\"]\n\
                  udp_ports = [\"5353\", \"6000-6100\"]\nnames = [\"db\", \"office-*\"]\ncalls = [\"laptop-web\"]\n\
                  dials = [\"192.0.2.10:443\", \"198.51.100.0/24:80-443\", \"www.example.com:443\", \
                  \"udp/192.0.2.53:53\"]\n\
                  allow = [\"203.0.113.0/24\"]\ndeny = [\"203.0.113.66\"]\n\
                  flows_max = 1000\nflows_per_s = 50\nbytes_per_s = 10000000\n\
                  bytes_per_month = 1152921504606846976\n\
                  [[external]]\nname = \"laptop\"\nkey = \"OTHER\"\nnames = [\"laptop-web\"]\nallow = []\n";
    let tables = tables.replace("OTHER", OTHER_KEY).replace("KEY", KEY);
    let enrolled_file = dir.path().join("state/enrolled.toml");
    assert!(enrolled(&enrolled_file).unwrap().is_empty(), "there need be no such file");
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(&enrolled_file, &tables).unwrap();
    let config = RelayConfig::load(&path).unwrap();
    assert_eq!(config.admitted, enrolled(&enrolled_file).unwrap());
    assert!(config.admitted.iter().all(|admitted| admitted.is_enrolled));
    let written: String = config.admitted.iter().map(ToString::to_string).collect();
    assert_eq!(written, tables);
    assert_eq!(config.address.unwrap().to_string(), "relay.example.net:443");
}

/// A name, or a key, that stands in both files is refused with both places.
#[test]
fn duplicates_across_files_are_refused_with_both_places() {
    let (dir, path) = file(&format!("{RELAY_TOP}{OFFICE}"));
    std::fs::create_dir(dir.path().join("state")).unwrap();
    for (name, key) in [("office", OTHER_KEY), ("garage", KEY)] {
        let table = format!("[[external]]\nname = \"{name}\"\nkey = \"{key}\"\n");
        std::fs::write(dir.path().join("state/enrolled.toml"), table).unwrap();
        let shown = shown(&path, &RelayConfig::load(&path).unwrap_err());
        assert!(shown.starts_with("state/enrolled.toml:"), "{shown}");
        assert!(shown.contains("is used already in adit.toml:"), "{shown}");
    }
}

/// A peer has one address, and settings that mean something.
#[test]
fn bad_settings_of_peers_are_refused_with_their_line() {
    let cases = [
        ("tcp = \"192.168.50.3:80\"\n", "", "adit.toml:5: peer: it says neither tcp"),
        ("tcp =", "unix = \"/run/web.sock\"\ntcp =", "adit.toml:6: peer: a peer listens at one"),
        ("tcp = \"192.168.50.3:80\"", "unix = \"/run/LONG\"", "adit.toml:6: unix: \"/run/xxx"),
        (
            "contact",
            "proxy_protocol = \"v3\"\ncontact",
            "adit.toml:7: proxy_protocol: \"v3\" is no",
        ),
        ("contact", "health_s = 0\ncontact", "adit.toml:7: health_s: 0 is out of range"),
        ("contact", "allow = [\"10.0.0.1/8\"]\ncontact", "adit.toml:7: allow: \"10.0.0.1/8\" has"),
        ("contact", "deny = \"office\"\ncontact", "adit.toml:7: deny: \"office\" is no network"),
        (
            "contact",
            "udp = \"192.168.50.3:53\"\ncontact",
            "adit.toml:7: peer: a peer listens at one",
        ),
        (
            "tcp = \"192.168.50.3:80\"",
            "udp = \"192.168.50.3\"",
            "adit.toml:6: udp: \"192.168.50.3\"",
        ),
        (
            "tcp = \"192.168.50.3:80\"",
            "udp = \"192.168.50.3:53\"\nproxy_protocol = \"v1\"",
            "adit.toml:7: proxy_protocol: datagrams have the form \"v2\" alone",
        ),
        (
            "tcp = \"192.168.50.3:80\"",
            "udp = \"192.168.50.3:53\"\nhealth_s = 10",
            "adit.toml:7: health_s: whether a UDP port is there cannot be checked",
        ),
        ("public:8080", "private:web", "adit.toml:7: contact: \"private:web\" is no contact point"),
    ];
    for (from, to, expected) in cases {
        let web = WEB.replacen(from, to, 1).replace("LONG", &"x".repeat(108));
        forwarder_refuses(&format!("{TOP}{web}"), expected);
    }
}

/// What a peer may have is read as it is written.
#[test]
fn settings_of_peers_are_read() {
    let (_dir, path) = file(&format!(
        "{TOP}[[peer]]\nname = \"db\"\nunix = \"/run/db.sock\"\ncontact = \"private\"\n\
         proxy_protocol = \"v1\"\nallow = [\"203.0.113.0/24\"]\ndeny = \"203.0.113.66\"\n\
         health_s = 10\n[[peer]]\nname = \"cache\"\ntcp = \"cache.lan:6379\"\ncontact = \"private\"\n"
    ));
    let peers = ForwarderConfig::load(&path).unwrap().peers;
    let [db, cache] = &peers[..] else { panic!("{peers:?}") };
    assert_eq!(db.address.to_string(), "unix:/run/db.sock");
    assert_eq!((db.contact, cache.contact), (Contact::Private, Contact::Private));
    assert_eq!(db.health, Some(Duration::from_secs(10)));
    assert_eq!(db.proxy, Some(ProxyVersion::V1));
    let accepts = |ip: &str| db.sources.accepts(ip.parse().unwrap());
    assert!(accepts("203.0.113.1") && !accepts("203.0.113.66") && !accepts("198.51.100.1"));
    assert!(cache.sources.accepts("198.51.100.1".parse().unwrap()));
}

/// The API's address is one of the LAN, and each token is known by its hash alone.
#[test]
fn the_api_and_its_tokens_are_read() {
    let token =
        "[[token]]\npeer = \"printer\"\nsha256 = \"HASH\"\ncontacts = [8000, \"private\"]\n";
    let token = token.replace("HASH", &"5A".repeat(32));
    let (_dir, path) = file(&format!("{TOP}[api]\nlisten = \"192.168.50.2:8300\"\n{token}"));
    let config = ForwarderConfig::load(&path).unwrap();
    assert_eq!(config.api, Some("192.168.50.2:8300".parse().unwrap()));
    assert_eq!(config.tokens[0].sha256.to_string(), "5a".repeat(32));
    let contacts = &config.tokens[0].contacts;
    assert!(contacts.contain(Contact::Private) && contacts.contain(Contact::Public(8000)));
    assert!(!contacts.contain(Contact::Public(8001)));
    forwarder_refuses(
        &format!("{TOP}[api]\nlisten = \"0.0.0.0:8300\"\n"),
        "adit.toml:5: listen: 0.0.0.0:8300 is every address of this host",
    );
    forwarder_refuses(
        &format!("{TOP}{}", token.replace("5A5A", "5A5")),
        "adit.toml:6: sha256: it is no SHA-256",
    );
    forwarder_refuses(
        &format!("{TOP}{token}{token}"),
        "adit.toml:10: token \"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\" is used",
    );
    forwarder_refuses(
        &format!("{TOP}{}", token.replace("8000", "\"8010-8000\"")),
        "adit.toml:7: contacts: \"8010-8000\" ends before it begins",
    );
}

/// A UDP peer has what a TCP peer has, and the same number may be a port of each.
#[test]
fn udp_peers_are_read() {
    let dns = "[[peer]]\nname = \"dns\"\nudp = \"192.168.50.3:53\"\ncontact = \"public:8080\"\n\
               proxy_protocol = \"v2\"\n";
    let (_dir, path) = file(&format!("{TOP}datagram_path = false\n{WEB}{dns}"));
    let config = ForwarderConfig::load(&path).unwrap();
    assert!(!config.datagram_path);
    let [web, dns_peer] = &config.peers[..] else { panic!("{:?}", config.peers) };
    assert_eq!(dns_peer.address.to_string(), "192.168.50.3:53/udp");
    let protocols = (web.protocol(), dns_peer.protocol());
    assert_eq!(protocols, (Protocol::Tcp, Protocol::Udp));
    assert_eq!(dns_peer.proxy, Some(ProxyVersion::V2));
    forwarder_refuses(
        &format!("{TOP}{dns}{}", dns.replace("\"dns\"", "\"ntp\"")),
        "adit.toml:12: contact point \"public:8080/udp\" is used already in line 7",
    );
    forwarder_refuses(&format!("{TOP}datagram_path = \"no\"\n"), "adit.toml:4: invalid type");
}

/// A listener takes connections or datagrams; each may be at the address of the other.
#[test]
fn listeners_say_their_protocol() {
    let listener = "[[listener]]\nname = \"NAME\"\nlisten = \"127.0.0.1:5353\"\n\
                    to = \"address:192.0.2.53:53\"\n";
    let (tcp, udp) = (listener.replace("NAME", "tcp"), listener.replace("NAME", "udp"));
    let udp = format!("{udp}protocol = \"udp\"\n");
    let (_dir, path) = file(&format!("{TOP}{tcp}{udp}"));
    let config = ForwarderConfig::load(&path).unwrap();
    assert!(config.datagram_path, "it is there unless somebody turns it off");
    let protocols: Vec<_> = config.listeners.iter().map(|listener| listener.protocol).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp]);
    forwarder_refuses(
        &format!("{TOP}{udp}{}", udp.replace("\"udp\"\nlisten", "\"dns\"\nlisten")),
        "adit.toml:11: address \"127.0.0.1:5353\" is used already in line 6",
    );
    forwarder_refuses(
        &format!("{TOP}{}", udp.replace("protocol = \"udp\"", "protocol = \"UDP\"")),
        "adit.toml:8: protocol: \"UDP\" is no protocol: write \"tcp\" or \"udp\"",
    );
}

/// UDP at the relay is a forwarder's affair, and what is no port or no entry is refused with its line.
#[test]
fn udp_settings_of_the_relay_are_checked() {
    let with = |more: &str| format!("{RELAY_TOP}{OFFICE}{more}");
    let lines = with("").lines().count();
    let at = |line: usize, what: &str| format!("adit.toml:{}: {what}", lines + line);
    relay_refuses(&with("udp_ports = [\"0\"]\n"), &at(1, "udp_ports: port \"0\" is out of range"));
    relay_refuses(&with("dials = [\"udp/\"]\n"), &at(1, "dials: \"udp/\" names no host and ports"));
    relay_refuses(
        &with("udp_port = [\"5353\"]\n"),
        &at(1, "unknown key \"udp_port\": did you mean"),
    );
    let external = "[[external]]\nname = \"laptop\"\nkey = \"OTHER\"\nudp_ports = [\"5353\"]\n";
    relay_refuses(&with(external), &at(4, "unknown key \"udp_ports\""));
    let (_dir, path) = file(&format!("{RELAY_TOP}datagram_path = false\n"));
    assert!(!RelayConfig::load(&path).unwrap().datagram_path);
    let (_dir, path) = file(&with("udp_ports = [\"5353\"]\n"));
    let config = RelayConfig::load(&path).unwrap();
    assert!(config.datagram_path);
    let office = &config.admitted[0];
    assert!(office.udp_ports.contain(5353) && !office.ports.contain(5353));
}
