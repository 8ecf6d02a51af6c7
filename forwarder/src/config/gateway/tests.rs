//! What a table `[gateway]` may say, and what it may not.

use super::*;
use crate::config::ForwarderConfig;

const TOP: &str = "key = \"adit.key\"\nrelay = \"relay.example.net:443\"\n\
                   relay_key = \"ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\"\n";

fn load(lines: &str) -> Result<GatewayConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adit.toml");
    std::fs::write(&path, format!("{TOP}{lines}")).unwrap();
    let loaded = ForwarderConfig::load(&path);
    let named = format!("{}/", dir.path().display());
    loaded.map(|config| config.gateway).map_err(|error| error.to_string().replace(&named, ""))
}

/// It is checked as all tables are, and a proxy's login is in no error.
#[test]
fn a_bad_way_out_is_refused_with_its_line() {
    let cases = [
        ("prxy = \"none\"", "5: unknown key \"prxy\": did you mean \"proxy\"?"),
        ("proxy = \"https://jo:secret@192.0.2.1:3128\"", "5: proxy: Adit speaks to"),
        ("proxy = \"http://jo:secret@192.0.2.1\"", "5: proxy: the proxy needs a host"),
        ("proxy = \"http://jo:secret@a b:1\"", "5: proxy: this is no proxy"),
        ("sni = \"192.0.2.1\"", "5: sni: \"192.0.2.1\" is no host name"),
        ("bind = \"192.168.50.300\"", "5: bind: \"192.168.50.300\" is neither"),
        ("family = \"ipv5\"", "5: family: \"ipv5\" is no family"),
        ("family = \"ipv6\"\nbind = \"192.0.2.1\"", "6: bind: 192.0.2.1 is no IPv6 address"),
    ];
    for (lines, expected) in cases {
        let error = load(&format!("[gateway]\n{lines}\n")).unwrap_err();
        assert!(error.starts_with(&format!("adit.toml:{expected}")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

/// All of it may be left out, or said.
#[test]
fn a_way_out_is_as_it_is_written() {
    assert_eq!(load("").unwrap(), GatewayConfig::default());
    let lines = "[gateway]\nproxy = \"socks5://jo:pass@192.0.2.1:1080\"\nbind = \"eth1\"\n\
                 sni = \"www.example.org\"\nfamily = \"ipv4\"\n";
    let gateway = load(lines).unwrap();
    let ProxyChoice::Proxy(proxy) = &gateway.proxy else { panic!("{gateway:?}") };
    assert_eq!((proxy.to_string().as_str(), proxy.has_login()), ("socks5://192.0.2.1:1080", true));
    assert_eq!(gateway.sni.as_deref(), Some("www.example.org"));
    assert_eq!(gateway.bind, Some(Bind::Device("eth1".to_owned())));
    assert_eq!(gateway.family, Family::Ipv4);
}

fn parsed(text: &str) -> Result<Proxy, BadProxy> {
    text.parse()
}

/// Both kinds are read with their logins, which are decoded and never shown.
#[test]
fn proxies_are_read_and_their_logins_stay_secret() {
    let proxy = parsed("http://jo:p%40ss@192.168.50.9:3128").unwrap();
    assert_eq!(proxy.to_string(), "http://192.168.50.9:3128");
    assert!(
        matches!(&proxy.kind, ProxyKind::Connect(Some(value)) if value == "Basic am86cEBzcw==")
    );
    let socks = parsed("socks5h://jo:p%40ss@[2001:db8::9]:1080").unwrap();
    assert_eq!(socks.to_string(), "socks5://[2001:db8::9]:1080");
    let login = Some(("jo".to_owned(), "p@ss".to_owned()));
    assert!(matches!(&socks.kind, ProxyKind::Socks5(found) if *found == login));
    for shown in [format!("{proxy:?}"), format!("{socks:?}")] {
        assert!(!shown.contains("ss@") && !shown.contains("am86"), "{shown}");
    }
    assert!(!parsed("proxy.example:3128").unwrap().has_login());
}

/// What is no proxy is refused without a word of it.
#[test]
fn bad_proxies_are_refused_without_their_secrets() {
    let cases = [
        ("", BadProxy::Shape),
        ("ftp://jo:secret@192.0.2.1:21", BadProxy::Shape),
        ("https://jo:secret@192.0.2.1:443", BadProxy::Kind),
        ("socks4://192.0.2.1:1080", BadProxy::Kind),
        ("http://jo:secret@192.0.2.1", BadProxy::Place),
        ("http://192.0.2.300:3128", BadProxy::Place),
        ("socks5://:secret@192.0.2.1:1080", BadProxy::Login),
    ];
    for (text, expected) in cases {
        let error = parsed(text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let long = format!("socks5://jo:{}@192.0.2.1:1080", "x".repeat(256));
    assert_eq!(parsed(&long).unwrap_err(), BadProxy::Login);
}

/// An address, or a device; a slip in an address is no device.
#[test]
fn ways_out_are_addresses_or_devices() {
    assert!(matches!("192.168.50.2".parse(), Ok(Bind::Address(IpAddr::V4(_)))));
    assert!(matches!("2001:db8::2".parse(), Ok(Bind::Address(IpAddr::V6(_)))));
    assert_eq!("eth1".parse(), Ok(Bind::Device("eth1".to_owned())));
    for text in ["", "192.168.50.300", "a/b", "a b", "sixteen-bytes-ab"] {
        assert!(text.parse::<Bind>().is_err(), "{text}");
    }
}
