//! Both ends in memory, and what goes wrong between them.

use adit_proto::id::Side;
use adit_proto::record::{ContentType, HEADROOM, Opened, Opener, TAILROOM};

use super::*;
use crate::key::{Pins, PrivateKey};

/// Accepts exactly one key.
struct Only(PublicKey);

impl Trust for Only {
    fn accepts(&self, key: &PublicKey) -> bool {
        *key == self.0
    }
}

/// A forwarder and a relay that know each other, before their handshake.
///
/// ```text
///   client ── poll_transmit ──▶ handle_bytes ── server
/// ```
struct Pair {
    forwarder: PrivateKey,
    relay: PrivateKey,
    client: Handshake,
    server: Handshake,
}

impl Pair {
    fn new() -> Self {
        Self::with_alpn(
            vec![Purpose::Tunnel.alpn().to_vec()],
            vec![Purpose::Tunnel.alpn().to_vec()],
        )
    }

    fn with_alpn(client: Vec<Vec<u8>>, server: Vec<Vec<u8>>) -> Self {
        let (forwarder, relay) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let client = ClientTls::with_alpn(&forwarder, relay.public().into(), client).unwrap();
        let trust = Arc::new(Only(forwarder.public()));
        let server = ServerTls::with_alpn(&relay, trust, server).unwrap();
        let client = Handshake::client(&client, "relay.example").unwrap();
        let server = Handshake::server(&server).unwrap();
        Self { forwarder, relay, client, server }
    }

    /// Passes bytes both ways, `piece` at a time, until neither end has more to say. An end that
    /// fails is heard out and told no more.
    fn run(&mut self, piece: usize) -> [Result<(), HandshakeError>; 2] {
        let (mut client, mut server) = (Ok(()), Ok(()));
        loop {
            let to_server = self.client.poll_transmit().unwrap_or_default();
            for piece in to_server.chunks(piece) {
                if server.is_ok() {
                    server = self.server.handle_bytes(piece);
                }
            }
            let to_client = self.server.poll_transmit().unwrap_or_default();
            for piece in to_client.chunks(piece) {
                if client.is_ok() {
                    client = self.client.handle_bytes(piece);
                }
            }
            if to_server.is_empty() && to_client.is_empty() {
                return [client, server];
            }
        }
    }

    fn run_whole(&mut self) -> [Result<(), HandshakeError>; 2] {
        self.run(usize::MAX)
    }
}

fn seal(records: &mut RecordLayer, content: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADROOM], content, &[0; TAILROOM]].concat();
    records.sealer.seal(ContentType::ApplicationData, &mut record, content.len()).unwrap();
    record
}

fn open(records: &mut RecordLayer, record: &mut [u8]) -> Vec<u8> {
    assert_eq!(Opener::record_len(record), Ok(Some(record.len())));
    let Opened::Data(range) = records.open(record).unwrap() else { panic!("no data") };
    record[range].to_vec()
}

fn assert_talks(client: &mut Handshaken, server: &mut Handshaken) {
    let mut record = seal(&mut client.records, b"from the forwarder");
    assert_eq!(open(&mut server.records, &mut record), b"from the forwarder");
    let mut record = seal(&mut server.records, b"from the relay");
    assert_eq!(open(&mut client.records, &mut record), b"from the relay");
}

/// Somebody between shows another key: the forwarder names both, and keeps its own to itself.
#[test]
fn relay_with_another_key_is_refused_by_name() {
    let mut pair = Pair::new();
    let other = PrivateKey::generate().unwrap().public();
    let tls = ClientTls::new(&pair.forwarder, other).unwrap();
    pair.client = Handshake::client(&tls, "192.0.2.1").unwrap();
    let [client, server] = pair.run_whole();
    let refused = client.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(&other.to_string()), "{text}");
    assert!(text.contains(&pair.relay.public().to_string()), "{text}");
    assert!(
        matches!(refused, HandshakeError::WrongRelay { expected, .. } if expected == other.into())
    );
    assert!(matches!(server, Err(HandshakeError::RelayRefused)));
    assert!(matches!(pair.client.finish(), Err(HandshakeError::Failed)));
}

/// The forwarder is done before the relay refuses it; it reads why in its first record.
#[test]
fn unknown_forwarder_reads_access_denied() {
    let mut pair = Pair::new();
    let stranger = PrivateKey::generate().unwrap();
    let tls = ClientTls::new(&stranger, pair.relay.public()).unwrap();
    pair.client = Handshake::client(&tls, "relay.example").unwrap();
    let [client, server] = pair.run_whole();
    client.unwrap();
    assert!(matches!(server, Err(HandshakeError::UnknownPeer(key)) if key == stranger.public()));
    assert!(pair.client.is_done() && !pair.server.is_done());

    let mut client = pair.client.finish().unwrap();
    let Opened::Alert(alert) = client.records.open(&mut client.leftover).unwrap() else {
        panic!("no alert");
    };
    assert_eq!(alert, AlertDescription::AccessDenied);
    let explained = HandshakeError::from_alert(alert, Side::Forwarder).to_string();
    assert!(explained.contains("does not know this key"), "{explained}");
}

/// Whoever lacks `adit/1`, the other end is told and both say so.
#[test]
fn peers_without_our_alpn_are_refused() {
    let adit = || vec![Purpose::Tunnel.alpn().to_vec()];
    let other = || vec![b"h2".to_vec()];
    let cases = [
        (adit(), other()),
        (other(), adit()),
        (adit(), vec![]),
        (vec![], adit()),
        (vec![], vec![]),
    ];
    for (client_alpn, server_alpn) in cases {
        let case = format!("{client_alpn:?} {server_alpn:?}");
        let mut pair = Pair::with_alpn(client_alpn, server_alpn);
        let [client, server] = pair.run_whole();
        let mut not_adit = 0;
        for (result, side) in [(client, Side::Forwarder), (server, Side::Relay)] {
            match result {
                Ok(()) => {}
                Err(HandshakeError::NotAdit { side: found, .. }) => {
                    assert_eq!(found, side);
                    not_adit += 1;
                }
                Err(error) => panic!("{case}: {error}"),
            }
        }
        assert!(not_adit > 0, "{case}");
        // An end that was done before the other refused finds the alert in its first record.
        if let Ok(mut client) = pair.client.finish() {
            let opened = client.records.open(&mut client.leftover);
            assert_eq!(
                opened,
                Ok(Opened::Alert(AlertDescription::NoApplicationProtocol)),
                "{case}"
            );
        }
        assert!(!pair.server.is_done(), "{case}");
    }
}

/// What is no TLS is recognised by its first bytes, at either end, and quoted.
#[test]
fn garbage_is_not_tls() {
    for greeting in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"GET / HTTP/1.1\r\n", b"\0", b"\x16\x02"] {
        let Pair { mut client, mut server, .. } = Pair::new();
        for end in [&mut client, &mut server] {
            let refused = end.handle_bytes(greeting).unwrap_err();
            assert!(matches!(refused, HandshakeError::NotTls(_)), "{refused}");
            let again = end.handle_bytes(b"\x16").unwrap_err();
            assert!(matches!(again, HandshakeError::Failed));
        }
    }
    let mut pair = Pair::new();
    let refused = pair.client.handle_bytes(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap_err();
    assert!(refused.to_string().contains("\"SSH-2.0-OpenSSH_\""), "{refused}");
}

/// TLS that is none inside is answered with an alert.
#[test]
fn malformed_hello_is_answered_with_an_alert() {
    let mut pair = Pair::new();
    pair.server.handle_bytes(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap_err();
    let alert = pair.server.poll_transmit().unwrap();
    assert_eq!(alert[..6], [21, 3, 3, 0, 2, 2]);
    pair.client.poll_transmit().unwrap();
    let told = pair.client.handle_bytes(&alert).unwrap_err();
    assert!(matches!(told, HandshakeError::Alert(AlertDescription::DecodeError)), "{told}");
}

/// A handshake altered on its way comes to an end, and never to a panic.
#[test]
fn altered_handshakes_fail() {
    for offset in (0..1_500).step_by(31) {
        let mut pair = Pair::new();
        let mut hello = pair.client.poll_transmit().unwrap();
        let Some(byte) = hello.get_mut(offset) else { continue };
        *byte ^= 0x40;
        let refused = pair.server.handle_bytes(&hello);
        let mut flight = pair.server.poll_transmit().unwrap_or_default();
        if refused.is_ok() {
            // The transcripts differ, so that no Finished can fit.
            let refused = pair.client.handle_bytes(&flight);
            flight = pair.client.poll_transmit().unwrap_or_default();
            if refused.is_ok() {
                pair.server.handle_bytes(&flight).ok();
            }
        }
        assert!(!pair.server.is_done() && !pair.client.is_done(), "offset {offset}");
    }
}

/// A peer that is never done costs a bounded number of bytes.
#[test]
fn endless_handshakes_are_bounded() {
    let mut pair = Pair::new();
    // A record that claims to be longer than what is kept: its header is enough.
    let refused = pair.server.handle_bytes(&[22, 3, 1, 0x40, 0]);
    assert!(matches!(refused, Err(HandshakeError::TooMuch)));
    // One message over many records.
    let mut pair = Pair::new();
    let mut first = vec![22, 3, 1, 0x10, 0, 1, 0, 0xf0, 0];
    first.resize(5 + 0x1000, 0);
    let mut other = vec![22, 3, 1, 0x10, 0];
    other.resize(5 + 0x1000, 0);
    let mut result = pair.server.handle_bytes(&first);
    for _ in 0..4 {
        result = result.and_then(|()| pair.server.handle_bytes(&other));
    }
    assert!(matches!(result, Err(HandshakeError::TooMuch)), "{result:?}");
}

/// What is asked for too early is refused.
#[test]
fn unfinished_handshakes_yield_no_keys() {
    let pair = Pair::new();
    assert!(!pair.client.is_done());
    assert!(matches!(pair.client.finish(), Err(HandshakeError::NotDone)));
    let tls = ClientTls::new(&pair.forwarder, pair.relay.public()).unwrap();
    let refused = Handshake::client(&tls, "no host name!").unwrap_err();
    assert!(matches!(refused, HandshakeError::ServerName(_)));
}

/// Two that know each other end with each other's keys, and records flow both ways.
#[test]
fn handshake_completes_and_records_flow() {
    let mut pair = Pair::new();
    let [client, server] = pair.run_whole();
    client.and(server).unwrap();
    assert!(pair.client.is_done() && pair.server.is_done());
    let mut client = pair.client.finish().unwrap();
    let mut server = pair.server.finish().unwrap();
    assert_eq!(client.peer, pair.relay.public());
    assert_eq!(server.peer, pair.forwarder.public());
    assert!(client.leftover.is_empty() && server.leftover.is_empty());
    assert_talks(&mut client, &mut server);
    // And the next keys, too.
    let mut update = [0; adit_proto::record::KEY_UPDATE_LEN];
    client.records.key_update(true, &mut update).unwrap();
    assert_eq!(server.records.open(&mut update), Ok(Opened::KeyUpdated));
    server.records.key_update(false, &mut update).unwrap();
    assert_eq!(client.records.open(&mut update), Ok(Opened::KeyUpdated));
    assert_talks(&mut client, &mut server);
}

/// However the bytes are cut, the handshake is the same.
#[test]
fn handshake_completes_from_single_bytes() {
    for piece in [1, 2, 3, 5, 100] {
        let mut pair = Pair::new();
        let [client, server] = pair.run(piece);
        client.and(server).unwrap();
        let (mut client, mut server) =
            (pair.client.finish().unwrap(), pair.server.finish().unwrap());
        assert_talks(&mut client, &mut server);
    }
}

/// Records that arrive with the end of the handshake are left to the record layer.
#[test]
fn records_behind_the_handshake_are_left_over() {
    let mut pair = Pair::new();
    let hello = pair.client.poll_transmit().unwrap();
    pair.server.handle_bytes(&hello).unwrap();
    let flight = pair.server.poll_transmit().unwrap();
    pair.client.handle_bytes(&flight).unwrap();
    let mut bytes = pair.client.poll_transmit().unwrap();
    let mut client = pair.client.finish().unwrap();
    let early = [seal(&mut client.records, b"one"), seal(&mut client.records, b"two")];
    bytes.extend(early.concat());
    // The last record is cut: the rest of it comes later.
    let (now, later) = bytes.split_at(bytes.len() - 4);
    pair.server.handle_bytes(now).unwrap();
    pair.server.handle_bytes(later).unwrap();
    let mut server = pair.server.finish().unwrap();
    assert_eq!(server.leftover, early.concat());
    let (one, two) = server.leftover.split_at_mut(early[0].len());
    assert_eq!(open(&mut server.records, one), b"one");
    assert_eq!(open(&mut server.records, two), b"two");
    assert_talks(&mut client, &mut server);
}

/// A relay that takes joiners lets a stranger's key in for that alone; one that does not take
/// them turns even a key that it knows away.
#[test]
fn joiners_are_let_in_only_where_they_are_expected_and_only_to_join() {
    let stranger = PrivateKey::generate().unwrap();
    let begin = |purpose: fn(&PrivateKey, PublicKey) -> Result<ClientTls, HandshakeError>| {
        let mut pair = Pair::new();
        let trust = Arc::new(Only(pair.forwarder.public()));
        let tls = ServerTls::with_joiners(&pair.relay, trust).unwrap();
        pair.server = Handshake::server(&tls).unwrap();
        let tls = purpose(&stranger, pair.relay.public()).unwrap();
        pair.client = Handshake::client(&tls, "relay.example").unwrap();
        pair
    };
    let mut tunnel = begin(ClientTls::new);
    let [_, server] = tunnel.run_whole();
    assert!(matches!(server, Err(HandshakeError::UnknownPeer(_))));

    let mut join = begin(ClientTls::joining);
    let [client, server] = join.run_whole();
    client.and(server).unwrap();
    let server = join.server.finish().unwrap();
    assert_eq!((server.purpose, server.peer), (Purpose::Join, stranger.public()));

    let mut pair = Pair::new();
    let tls = ClientTls::joining(&pair.forwarder, pair.relay.public()).unwrap();
    pair.client = Handshake::client(&tls, "relay.example").unwrap();
    let [client, server] = pair.run_whole();
    for refused in [client, server] {
        assert!(matches!(refused, Err(HandshakeError::NotAdit { .. })));
    }
}

/// A probe is let in as such, with a key that may have a tunnel and no other.
#[test]
fn probes_need_a_key_that_is_let_in() {
    let stranger = PrivateKey::generate().unwrap();
    for is_known in [true, false] {
        let mut pair = Pair::new();
        let trust = Arc::new(Only(pair.forwarder.public()));
        let tls = ServerTls::with_joiners(&pair.relay, trust).unwrap();
        pair.server = Handshake::server(&tls).unwrap();
        let key = if is_known { &pair.forwarder } else { &stranger };
        let tls = ClientTls::probing(key, pair.relay.public()).unwrap();
        pair.client = Handshake::client(&tls, "relay.example").unwrap();
        let [client, server] = pair.run_whole();
        client.unwrap();
        if is_known {
            server.unwrap();
            assert_eq!(pair.server.finish().unwrap().purpose, Purpose::Probe);
        } else {
            assert!(matches!(server, Err(HandshakeError::UnknownPeer(_))), "{server:?}");
        }
    }
}

/// While a relay's key is being changed, either of two pinned keys is right, and no third.
#[test]
fn either_pinned_key_is_right_and_no_other() {
    let [old, new, other] = [(); 3].map(|()| PrivateKey::generate().unwrap());
    let pins = Pins::pair(old.public(), new.public());
    for (relay, is_right) in [(&old, true), (&new, true), (&other, false)] {
        let mut pair = Pair::new();
        let trust = Arc::new(Only(pair.forwarder.public()));
        pair.server = Handshake::server(&ServerTls::new(relay, trust).unwrap()).unwrap();
        let tls = ClientTls::new(&pair.forwarder, pins).unwrap();
        pair.client = Handshake::client(&tls, "relay.example").unwrap();
        let [client, server] = pair.run_whole();
        assert_eq!((client.is_ok(), server.is_ok()), (is_right, is_right));
        if let Err(error) = client {
            assert!(error.to_string().contains(&format!("not {pins}")), "{error}");
        }
    }
}

/// Messages arrive whole, however they are cut; longer ones than agreed are refused by their
/// header, and altered ones by their tag.
#[test]
fn messages_arrive_whole_or_not_at_all() {
    let exchange = || {
        let mut pair = Pair::new();
        let [client, server] = pair.run_whole();
        client.and(server).unwrap();
        let (client, server) = (pair.client.finish().unwrap(), pair.server.finish().unwrap());
        let client = Messages::new(Side::Forwarder, client.records, client.leftover);
        (client, Messages::new(Side::Relay, server.records, server.leftover))
    };
    let (mut client, mut server) = exchange();
    let longest = vec![7; MESSAGE_BYTES_MAX];
    let mut record = client.seal(&longest).unwrap();
    let last = record.pop().unwrap();
    for byte in record {
        assert_eq!(server.handle_bytes(&[byte]).unwrap(), None);
    }
    assert_eq!(server.handle_bytes(&[last]).unwrap(), Some(longest.clone()));
    assert!(matches!(client.seal(&[longest, vec![7]].concat()), Err(MessageError::TooLong(_))));

    let (_, mut server) = exchange();
    let refused = server.handle_bytes(&[23, 3, 3, 0x40, 0]);
    assert!(matches!(refused, Err(MessageError::TooLong(_))), "{refused:?}");

    let (mut client, mut server) = exchange();
    let mut record = client.seal(b"secret").unwrap();
    record[HEADROOM] ^= 1;
    assert!(matches!(server.handle_bytes(&record), Err(MessageError::Record(_))));
}
