//! Datagrams through two pumps: on the datagram path, and on the carrier where there is none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use adit::handoff::{Command, ContactSocket, Destination, PathSocket, Quota, Target, Volume};
use adit::sources::Sources;
use adit_proto::id::{ContactId, Side};

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with the tests of resumption")]
mod pumps;

use pumps::{DEADLINE, End, SESSION, Tunnel, carriers, pattern, service};

/// Contact point of the datagrams.
const DATAGRAMS: ContactId = ContactId(7);

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// An internal peer that sends each datagram back, with the port that it came from in front.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).ok();
        }
    });
    address
}

/// A tunnel whose UDP contact point leads to `target`.
fn tunnel(target: SocketAddr, has_path: bool) -> (Tunnel, SocketAddr) {
    let (for_forwarder, for_relay, cut) = carriers();
    let (forwarder, relay) = (End::new(Side::Forwarder), End::new(Side::Relay));
    if has_path {
        let path = PathSocket { socket: bound(), pump: (0, 1) };
        relay.pump.send(Command::OfferPaths(path)).unwrap();
    }
    forwarder.carry(SESSION, for_forwarder);
    relay.carry(SESSION, for_relay);
    assert!(!forwarder.wait_until_up());
    assert!(!relay.wait_until_up());
    let socket = bound();
    let contact = socket.local_addr().unwrap();
    let tunnel = Tunnel::over(relay, forwarder, contact, cut);
    tunnel.serve_at(DATAGRAMS, service(Target::Udp(target)));
    let listen = Command::Listen {
        session: SESSION,
        contact: DATAGRAMS,
        peer: "peer".into(),
        socket: ContactSocket::Udp(socket),
        to: Destination::Contact,
        sources: Arc::new(Sources::any()),
    };
    tunnel.relay.pump.send(listen).unwrap();
    // What came before nobody listened is not answered.
    tunnel.relay.report();
    (tunnel, contact)
}

/// Sends until an answer comes: a datagram may be lost.
fn ask(client: &UdpSocket, contact: SocketAddr, question: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + DEADLINE;
    client.set_read_timeout(Some(DEADLINE / 20)).unwrap();
    let mut buffer = vec![0; 65_536];
    while Instant::now() < deadline {
        client.send_to(question, contact).unwrap();
        while let Ok((len, from)) = client.recv_from(&mut buffer) {
            assert_eq!(from, contact);
            if buffer[..len] == *question {
                return question.to_vec();
            }
        }
    }
    panic!("no answer within {DEADLINE:?}");
}

/// Waits until the session's datagrams have a path of their own.
fn wait_for_path(tunnel: &Tunnel) {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let has_path = |end: &End| end.report().sessions[0].datagrams.path.is_some();
        if has_path(&tunnel.relay) && has_path(&tunnel.forwarder) {
            return;
        }
        thread::yield_now();
    }
    panic!("no datagram path within {DEADLINE:?}");
}

/// Each caller gets its own answers, whole, whatever their size.
#[test]
fn datagrams_are_answered_whole() {
    for has_path in [false, true] {
        let (tunnel, contact) = tunnel(echo(), has_path);
        if has_path {
            wait_for_path(&tunnel);
        }
        let clients: Vec<_> = (0..5).map(|_| bound()).collect();
        for (n, client) in clients.iter().enumerate() {
            for len in [0, 1, 64, 1_200, 1_500, 9_000, 40_000, 65_507] {
                ask(client, contact, &pattern(len, n));
            }
        }
        let report = tunnel.relay.report();
        assert_eq!(report.sessions[0].flows, clients.len());
    }
}

/// The internal peer tells callers apart by their ports.
#[test]
fn callers_are_distinct_to_the_internal_peer() {
    let peer = bound();
    let (_tunnel, contact) = tunnel(peer.local_addr().unwrap(), false);
    let clients: Vec<_> = (0..20).map(|_| bound()).collect();
    let mut sources = BTreeSet::new();
    for client in &clients {
        client.send_to(b"hello", contact).unwrap();
        let (_, source) = peer.recv_from(&mut [0; 16]).unwrap();
        sources.insert(source);
    }
    assert_eq!(sources.len(), clients.len());
}

/// A carrier that is lost takes nothing from datagrams that have their own path: they go on before
/// there is another.
#[test]
fn datagrams_outlive_the_carrier() {
    let (mut tunnel, contact) = tunnel(echo(), true);
    wait_for_path(&tunnel);
    let client = bound();
    ask(&client, contact, b"before");
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.relay.wait_until_lost();
    ask(&client, contact, b"meanwhile");
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up());
    ask(&client, contact, b"after");
    assert_eq!(tunnel.relay.report().sessions[0].flows, 1);
}

/// Whoever sends to an owner that may move nothing more is not heard, from the next datagram on; once it
/// may again, the same source is.
#[test]
fn datagrams_of_an_owner_that_is_spent_are_dropped() {
    let (tunnel, contact) = tunnel(echo(), false);
    let (old, new) = (bound(), bound());
    ask(&old, contact, b"before");
    let limit = |volume| {
        let (session, quota) = (SESSION, Quota::default());
        tunnel.relay.pump.send(Command::Limit { session, quota, volume }).unwrap();
        tunnel.relay.report()
    };
    assert_eq!(limit(Volume::Spent).sessions[0].flows, 0, "the old one's is over");
    let deadline = Instant::now() + DEADLINE;
    let turned_away = || tunnel.relay.report().sessions[0].flows_over_quota;
    for client in [&old, &new] {
        let before = turned_away();
        client.send_to(b"meanwhile", contact).unwrap();
        while turned_away() == before {
            assert!(Instant::now() < deadline);
        }
    }
    limit(Volume::Left);
    ask(&old, contact, b"after");
}
