//! `adit join`, from the line to the files: what is refused before anything is dialled, and what a
//! relay can do to the one who joins.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use adit::config::{ForwarderConfig, Place};
use adit::invitation::{Answer, Grant, Invitation, Request, UnixTime};
use adit::join::{JoinError, join};
use adit::key::{PrivateKey, PublicKey};
use adit::net::{self, Exchange, Listener};
use adit::tls::{Handshake, Purpose, ServerTls, Trust};
use adit_proto::id::Side;

const NOW: UnixTime = UnixTime::new(1_800_000_000);
const HOUR: u64 = 3_600;
const YEAR: u64 = 365 * 24 * HOUR;

struct TrustNobody;

impl Trust for TrustNobody {
    fn accepts(&self, _: &PublicKey) -> bool {
        false
    }
}

/// What a relay does with a request.
#[derive(Clone)]
enum Deed {
    Answer(Answer),
    Say(&'static [u8]),
    HangUp,
}

/// A relay that deals with one joiner after the other in these ways; returns the keys that it saw.
fn relay(key: &PrivateKey, deeds: Vec<Deed>) -> (SocketAddr, thread::JoinHandle<Vec<PublicKey>>) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tls = ServerTls::with_joiners(key, Arc::new(TrustNobody)).unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let relay = thread::spawn(move || {
        net::run(async {
            let listener = Listener::bind(address, false).unwrap();
            ready.send(()).unwrap();
            let mut keys = Vec::new();
            for deed in deeds {
                let stream = listener.accept().await.unwrap();
                let handshake = Handshake::server(&tls).unwrap();
                let shaken = net::shake_hands(stream, handshake).await.unwrap();
                assert_eq!(shaken.purpose, Purpose::Join);
                keys.push(shaken.peer);
                let mut exchange = Exchange::new(Side::Relay, shaken.carrier);
                Request::from_bytes(&exchange.receive().await.unwrap()).unwrap();
                match deed {
                    Deed::Answer(answer) => exchange.send(&answer.to_bytes()).await.unwrap(),
                    Deed::Say(bytes) => exchange.send(bytes).await.unwrap(),
                    Deed::HangUp => continue,
                }
                exchange.finish().await.ok();
            }
            keys
        })
    });
    is_ready.recv().unwrap();
    (address, relay)
}

fn invitation(address: SocketAddr, relay_key: PublicKey) -> Invitation {
    let place = Place { host: address.ip().to_string(), port: address.port() };
    Invitation {
        relay: vec![place].into(),
        relay_key,
        request: Request::generate().unwrap(),
        issued_at: NOW,
        expires_at: NOW.plus(HOUR),
    }
}

fn grant() -> Grant {
    Grant { name: "office".into(), ports: vec!["2222".into()], ..Grant::default() }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// A line with one character changed, wherever it is, or at a time that cannot be: nobody is dialled
/// and nothing is written.
#[test]
fn what_is_wrong_with_the_line_or_the_clock_is_found_before_dialling() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let key = PrivateKey::generate().unwrap().public();
    let line = invitation(listener.local_addr().unwrap(), key).line();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("adit");
    for position in 0..line.len() {
        let mut changed = line.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let error = join(&changed, &dir, NOW).unwrap_err();
        assert!(matches!(error, JoinError::Line(_)), "position {position}: {error}");
        assert!(error.to_string().contains("copy "), "{error}");
    }
    for (now, expected) in [
        (NOW.plus(YEAR), "expired at 2027-01-15T09:00:00Z, and this host's clock says 2028-01-15"),
        (UnixTime::new(NOW.seconds() - YEAR), "this host's clock says 2026-01-15T08:00:00Z"),
        (NOW.plus(HOUR), "expired at "),
    ] {
        let error = join(&line, &dir, now).unwrap_err();
        assert!(matches!(error, JoinError::Time(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody dialled");
    assert!(is_empty(parent.path()));
}

/// A relay that is not there, is another one, refuses, or talks nonsense: each is named, and each
/// leaves the disk as it was.
#[test]
fn whatever_fails_leaves_nothing_on_disk() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    let key = PrivateKey::generate().unwrap();
    let fails = |address, relay_key, expected: &str| {
        let error = join(&invitation(address, relay_key).line(), &dir, NOW).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
        assert!(is_empty(parent.path()), "{error}");
    };
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails(nobody, key.public(), "the invitation is as good as before");

    let no = Deed::Answer(Answer::Refused("it has expired".into()));
    let strange = Answer::Joined(Grant { ports: vec!["1\n[[peer]]".into()], ..grant() });
    for (deed, expected) in [
        (no, "the relay refuses: it has expired"),
        (Deed::Say(b"nonsense"), "does not understand"),
        (Deed::Answer(strange), "strange characters"),
    ] {
        let (address, relay) = relay(&key, vec![deed]);
        fails(address, key.public(), expected);
        relay.join().unwrap();
    }
    let (address, relay) = relay(&key, vec![Deed::HangUp; 3]);
    fails(address, key.public(), "the relay's answer did not come");
    let keys = relay.join().unwrap();
    assert!(keys.iter().all(|seen| *seen == keys[0]) && keys.len() == 3, "one key asks again");
}

/// A relay that is gone when it is asked again may have let the key in before: nobody says that the
/// invitation is unused.
#[test]
fn a_relay_that_goes_after_the_request_may_have_let_us_in() {
    let key = PrivateKey::generate().unwrap();
    let (address, relay) = relay(&key, vec![Deed::HangUp]);
    let dir = tempfile::tempdir().unwrap();
    let error = join(&invitation(address, key.public()).line(), dir.path(), NOW).unwrap_err();
    relay.join().unwrap();
    assert!(matches!(error, JoinError::Lost(_)), "{error}");
    assert!(is_empty(dir.path()));
}

/// A relay with another key than the line's is never told the secret.
#[test]
fn another_relay_is_told_nothing() {
    let (expected, found) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let tls = ServerTls::with_joiners(&found, Arc::new(TrustNobody)).unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let relay = thread::spawn(move || {
        net::run(async {
            let listener = Listener::bind(address, false).unwrap();
            ready.send(()).unwrap();
            let stream = listener.accept().await.unwrap();
            net::shake_hands(stream, Handshake::server(&tls).unwrap()).await.is_err()
        })
    });
    is_ready.recv().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = join(&invitation(address, expected.public()).line(), dir.path(), NOW).unwrap_err();
    assert!(error.to_string().contains(&found.public().to_string()), "{error}");
    assert!(relay.join().unwrap(), "the handshake came to nothing");
    assert!(is_empty(dir.path()));
}

/// An answer that was lost is asked for again with the same key; then both files are there, the key
/// its owner's alone, and the configuration loads.
#[test]
fn a_lost_answer_is_asked_for_again() {
    let key = PrivateKey::generate().unwrap();
    let (address, relay) = relay(&key, vec![Deed::HangUp, Deed::Answer(Answer::Joined(grant()))]);
    let dir = tempfile::tempdir().unwrap();
    let line = invitation(address, key.public()).line();
    let joined = join(&format!(" {line}\n"), dir.path(), NOW).unwrap();
    assert_eq!(joined.grant, grant());
    let own = PrivateKey::load(&joined.key).unwrap().public();
    assert_eq!(relay.join().unwrap(), [own, own]);
    let config = ForwarderConfig::load(&joined.config).unwrap();
    assert_eq!((config.key, config.relay_keys), (joined.key.clone(), key.public().into()));
    assert_eq!(config.relay.to_string(), address.to_string());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&joined.key), mode(&joined.config) & 0o600), (0o600, 0o600));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// Told to end while it waits for the relay, the program leaves nothing behind.
#[test]
fn an_interrupted_join_leaves_nothing_on_disk() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = PrivateKey::generate().unwrap().public();
    let now = UnixTime::now();
    let invitation = invitation(listener.local_addr().unwrap(), key);
    let line = Invitation { issued_at: now, expires_at: now.plus(HOUR), ..invitation }.line();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("adit");
    let mut adit = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["join", &line, "--dir", dir.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It dials last: everything that it writes beforehand is there.
    let _dialled = listener.accept().unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
    let killed = Command::new("kill").args(["-TERM", &adit.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut said = String::new();
    adit.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(adit.wait().unwrap().code(), Some(1));
    assert!(said.contains("interrupted"), "{said}");
    assert!(is_empty(parent.path()));
}
