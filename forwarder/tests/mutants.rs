//! Mutants of what comes from somebody else as text or as a message: each is read or refused, and what
//! is read says the same when it is written and read again. `ADIT_MUTANTS` makes them more. A proxy's
//! answers are with the proxies (`gateway/proxy/tests.rs`); the wire's own formats have fuzz targets
//! (`proto/fuzz`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use adit::api::NewPeer;
use adit::config::{
    Bind, Contact, Dial, ForwarderConfig, NamePattern, Net, Place, PortRange, ProxyText,
    RelayConfig, To, enrolled,
};
use adit::handoff::ProxyVersion;
use adit::histogram::Histograms;
use adit::invitation::{self, Grant, Invitation, UnixTime};
use adit::key::{PrivateKey, PublicKey};
use adit::probe::{self, Asked, Looked, PING_LEN, PathPort, Ping, Token};
use adit::status::{ForwarderStatus, RelayStatus};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Mutants of each seed.
const MUTANTS: u64 = 2_000;
/// Of what has to be written into a file first.
const FILES: u64 = 300;

/// Alters a few bytes, lengths and pieces.
fn mutate(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.usize(..bytes.len());
        match random.u8(..8) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *random.choice(b"\0\x1b\xff\"[]{}:,./-09\n").unwrap()),
            4 => bytes.extend_from_within(at..),
            5 => bytes[at..].iter_mut().take(5).for_each(|byte| *byte = 0xff),
            6 => drop(bytes.drain(at..(at + random.usize(1..9)).min(bytes.len()))),
            _ => bytes.swap(at, 0),
        }
    }
    bytes
}

/// Hands `mutants` of each seed to `read`, the seed itself first; returns how many it took.
fn mutants(mutants: u64, seeds: &[Vec<u8>], mut read: impl FnMut(&[u8]) -> bool) -> usize {
    let more = std::env::var("ADIT_MUTANTS").ok().and_then(|text| text.parse().ok());
    let mut taken = 0;
    for seed in seeds {
        assert!(read(seed), "a seed is refused: {}", String::from_utf8_lossy(seed));
        for number in 0..more.unwrap_or(mutants) {
            let mut random = fastrand::Rng::with_seed(number);
            taken += usize::from(read(&mutate(seed, &mut random)));
        }
    }
    taken
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Whatever is a `T`, is.
fn is<T: FromStr>(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<T>().is_ok())
}

/// The same of what can be written: it is read again as what it was.
fn is_still<T: FromStr<Err: Debug> + ToString>(bytes: &[u8]) -> bool {
    let Some(Ok(read)) = std::str::from_utf8(bytes).ok().map(str::parse::<T>) else { return false };
    let written = read.to_string();
    assert_eq!(written.parse::<T>().unwrap().to_string(), written);
    true
}

/// Addresses, ports, names and places of configurations and command lines.
#[test]
fn values_are_read_or_refused() {
    let places = ["relay.example.net:443", "192.0.2.1:443", "[2001:db8::1]:443"];
    let key = PrivateKey::generate().unwrap().public().to_string();
    mutants(MUTANTS, &texts(&places), is_still::<Place>);
    mutants(MUTANTS, &texts(&["public:8080", "private"]), is::<Contact>);
    mutants(MUTANTS, &texts(&["8000-8100", "2222"]), is::<PortRange>);
    mutants(MUTANTS, &texts(&["192.0.2.0/24", "2001:db8::/32"]), is::<Net>);
    mutants(MUTANTS, &texts(&["office-*", "db"]), is::<NamePattern>);
    mutants(MUTANTS, &texts(&["198.51.100.0/24:80-443", "udp/[::/0]:53"]), is::<Dial>);
    mutants(
        MUTANTS,
        &texts(&["http://user:word@proxy:3128", "socks5://[::1]:1080"]),
        is::<ProxyText>,
    );
    mutants(MUTANTS, &texts(&["eth0", "192.0.2.7"]), is::<Bind>);
    mutants(MUTANTS, &texts(&["v1", "v2"]), is::<ProxyVersion>);
    mutants(MUTANTS, &texts(&["address:www.example.com:443", "name:db"]), is_still::<To>);
    mutants(MUTANTS, &texts(&[&key]), is_still::<PublicKey>);
}

fn line() -> String {
    let at = UnixTime::new(1_000_000);
    let request = invitation::Request::generate().unwrap();
    let relay = vec!["relay.example.net:443".parse::<Place>().unwrap()].into();
    let relay_key = PrivateKey::generate().unwrap().public();
    Invitation { relay, relay_key, request, issued_at: at, expires_at: at.plus(3_600) }.line()
}

/// An invitation's line, altered as it is, is no invitation; with a checksum that fits it is read or
/// refused, and one that is read is written as it was.
#[test]
fn lines_are_read_or_refused() {
    const PREFIX: &str = "adit1:";
    let line = line();
    let altered = mutants(MUTANTS, &texts(&[&line]), |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| {
            text.parse::<Invitation>().is_ok_and(|read| {
                assert_eq!(read.line(), text.trim());
                true
            })
        })
    });
    assert!(altered < 50, "{altered} altered lines were taken");

    let bytes = URL_SAFE_NO_PAD.decode(&line[PREFIX.len()..]).unwrap();
    let body = bytes[..bytes.len() - 8].to_vec();
    mutants(MUTANTS, &[body], |body| {
        let sum = digest(&SHA256, &[PREFIX.as_bytes(), body].concat());
        let bytes = [body, &sum.as_ref()[..8]].concat();
        let line = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        line.parse::<Invitation>().is_ok()
    });
}

/// What is said when an invitation is used: in JSON, of a stranger.
#[test]
fn messages_of_joining_are_read_or_refused() {
    let request = invitation::Request::generate().unwrap().to_bytes();
    mutants(MUTANTS, &[request], |bytes| invitation::Request::from_bytes(bytes).is_ok());
    let grant = Grant { name: "office".into(), ports: vec!["2222".into()], ..Grant::default() };
    let answers = [
        invitation::Answer::Joined(grant).to_bytes(),
        invitation::Answer::Refused("it has expired".into()).to_bytes(),
    ];
    mutants(MUTANTS, &answers, |bytes| {
        let Ok(read) = invitation::Answer::from_bytes(bytes) else { return false };
        assert_eq!(invitation::Answer::from_bytes(&read.to_bytes()).unwrap(), read);
        true
    });
}

/// What `adit doctor` and a relay say to each other, in either direction.
#[test]
fn messages_of_probes_are_read_or_refused() {
    let asked = Asked { name: "web".into(), is_udp: false, port: 8080 };
    let requests = [
        probe::Request::Look(vec![asked.clone(), asked]),
        probe::Request::Send { socket: 1, number: 2 },
        probe::Request::Fill(vec![7; 100]),
        probe::Request::Give(1 << 20),
    ];
    mutants(MUTANTS, &requests.map(|request| request.to_bytes()), |bytes| {
        let Ok(read) = probe::Request::from_bytes(bytes) else { return false };
        assert_eq!(probe::Request::from_bytes(&read.to_bytes()).unwrap(), read);
        true
    });
    let (observed, token) = (SocketAddr::from(([192, 0, 2, 1], 9)), Token::generate().unwrap());
    let verdicts = vec![None, Some("it is taken".into())];
    let path = Some(PathPort { port: 443, id: 7 });
    let sockets = vec![probe::Place { ip: Some(observed.ip()), port: 1 }];
    let answers = [
        probe::Answer::Looked(Looked { name: "office".into(), observed, verdicts }),
        probe::Answer::Opened(probe::Opened { token, sockets, path }),
        probe::Answer::Heard(vec![probe::Heard { number: 1, socket: 0, source: observed }]),
        probe::Answer::Refused("it is busy".into()),
    ];
    mutants(MUTANTS, &answers.map(|answer| answer.to_bytes()), |bytes| {
        let Ok(read) = probe::Answer::from_bytes(bytes) else { return false };
        assert_eq!(probe::Answer::from_bytes(&read.to_bytes()).unwrap(), read);
        true
    });
    let ping = Ping { token, number: 7 }.to_bytes().to_vec();
    let taken = mutants(MUTANTS, &[ping], |bytes| {
        let is_ping = Ping::from_bytes(bytes, token).is_ok();
        assert!(!is_ping || (bytes.len() == PING_LEN && token.is_before(bytes)));
        is_ping
    });
    assert!(taken < usize::try_from(MUTANTS).unwrap(), "no mutant was refused");
}

/// What the daemons' API takes and gives.
#[test]
fn json_of_the_api_is_read_or_refused() {
    let peer = r#"{"name":"web","tcp":"192.0.2.3:80","contact":"public:8080","lease_s":60}"#;
    mutants(MUTANTS, &texts(&[peer]), |bytes| serde_json::from_slice::<NewPeer>(bytes).is_ok());
    let forwarder = serde_json::to_vec(&ForwarderStatus::default()).unwrap();
    mutants(MUTANTS, &[forwarder], |bytes| {
        serde_json::from_slice::<ForwarderStatus>(bytes).is_ok()
    });
    let relay = serde_json::to_vec(&RelayStatus::default()).unwrap();
    mutants(MUTANTS, &[relay], |bytes| serde_json::from_slice::<RelayStatus>(bytes).is_ok());
    let times = br#"{"unit":"ns","seconds":1,"histograms":[{"name":"inside","session":"office",
        "contact":"web","way":"to_tunnel","count":0,"p50":0,"p90":0,"p99":0,"p999":0,"max":0,
        "hdr":"HISTFAAAAB4AAAAAAAAAAgAAAAAAAAABAAAAAAAAAAI/8AAAAAAAAA=="}]}"#;
    mutants(MUTANTS, &[times.to_vec()], |bytes| {
        let read = serde_json::from_slice::<Histograms>(bytes);
        read.is_ok_and(|all| {
            all.histograms.iter().for_each(|shown| drop(shown.times()));
            true
        })
    });
}

/// Configurations of both daemons, and the keys that were enrolled: each is refused by an error of one
/// line that names its file.
#[test]
fn configurations_are_read_or_refused() {
    let key = PrivateKey::generate().unwrap().public();
    let forwarder = format!(
        "key = \"adit.key\"\nrelay = \"relay.example.net:443\"\nrelay_key = \"{key}\"\n\
         [gateway]\nproxy = \"none\"\n[[peer]]\nname = \"web\"\ntcp = \"192.0.2.3:80\"\n\
         contact = \"public:8080\"\nallow = [\"192.0.2.0/24\"]\n"
    );
    let relay = format!(
        "key = \"relay.key\"\nlisten = \"0.0.0.0:443\"\nstate = \"nowhere\"\n[session]\ngrace_s = 60\n\
         [[forwarder]]\nname = \"office\"\nkey = \"{key}\"\nports = [\"8000-8100\"]\n\
         dials = [\"192.0.2.10:443\"]\nflows_max = 1000\n"
    );
    let table = format!("[[external]]\nname = \"laptop\"\nkey = \"{key}\"\ncalls = [\"db\"]\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.toml");
    let load = |text: &[u8], load: &dyn Fn(&Path) -> Option<String>| {
        std::fs::write(&path, text).unwrap();
        let Some(refusal) = load(&path) else { return true };
        assert!(refusal.contains("some.toml:"), "{refusal:?}");
        assert!(!refusal.contains(['\x1b', '\n']), "{refusal:?}");
        false
    };
    mutants(FILES, &[forwarder.into()], |text| {
        load(text, &|path| ForwarderConfig::load(path).err().map(|error| error.to_string()))
    });
    mutants(FILES, &[relay.into()], |text| {
        load(text, &|path| RelayConfig::load(path).err().map(|error| error.to_string()))
    });
    mutants(FILES, &[table.into()], |text| {
        load(text, &|path| enrolled(path).err().map(|error| error.to_string()))
    });
}
