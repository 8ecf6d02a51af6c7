//! Two pumps and a real carrier between them, over loopback, in one process: what an external peer
//! and an internal peer see of each other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{Carrier, Command, Down, Event, EventReceiver, PumpHandle, SessionKey, events};
use adit::key::{PrivateKey, PublicKey};
use adit::pump;
use adit::tls::{ClientTls, Handshake, ServerTls, Trust};
use adit_proto::id::{ContactId, Side};

const DEADLINE: Duration = Duration::from_secs(20);
const SESSION: SessionKey = SessionKey(1);
const CONTACT: ContactId = ContactId(5);

#[derive(Debug)]
struct TrustAll;

impl Trust for TrustAll {
    fn accepts(&self, _: &PublicKey) -> bool {
        true
    }
}

/// Shakes hands over a blocking stream.
fn shake(mut handshake: Handshake, mut stream: TcpStream) -> Carrier {
    let mut buffer = [0; 4096];
    loop {
        while let Some(bytes) = handshake.poll_transmit() {
            stream.write_all(&bytes).unwrap();
        }
        if handshake.is_done() {
            break;
        }
        let len = stream.read(&mut buffer).unwrap();
        handshake.handle_bytes(&buffer[..len]).unwrap();
    }
    let done = handshake.finish().unwrap();
    let remote = stream.peer_addr().unwrap();
    Carrier {
        stream: OwnedFd::from(stream),
        records: done.records,
        leftover: done.leftover,
        remote,
    }
}

/// A carrier's two ends: the forwarder's and the relay's.
fn carriers() -> (Carrier, Carrier) {
    let (relay_key, key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let server = ServerTls::new(&relay_key, Arc::new(TrustAll)).unwrap();
    let client = ClientTls::new(&key, relay_key.public()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let relay = thread::spawn(move || shake(Handshake::server(&server).unwrap(), accepted));
    let forwarder = shake(Handshake::client(&client, "localhost").unwrap(), stream);
    (forwarder, relay.join().unwrap())
}

/// A daemon's pump and its events.
struct End {
    pump: PumpHandle,
    events: EventReceiver,
}

impl End {
    fn start(side: Side, carrier: Carrier) -> Self {
        let (sender, receiver) = events().unwrap();
        let pump = pump::spawn(pump::probe().unwrap(), sender).unwrap();
        let carrier = Box::new(carrier);
        let start = Command::Start { session: SESSION, side, name: "test".into(), carrier };
        pump.send(start).unwrap();
        Self { pump, events: receiver }
    }

    fn wait_for<T>(&self, what: &str, mut take: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            match self.events.poll_event() {
                Some(event) => {
                    if let Some(found) = take(event) {
                        return found;
                    }
                }
                None => thread::yield_now(),
            }
        }
        panic!("no {what} within {DEADLINE:?}");
    }

    fn wait_until_up(&self) {
        self.wait_for("Up", |event| matches!(event, Event::Up { .. }).then_some(()));
    }

    fn wait_until_down(&self) -> Down {
        self.wait_for("Down", |event| match event {
            Event::Down { why, .. } => Some(why),
            _ => None,
        })
    }
}

struct Tunnel {
    relay: End,
    forwarder: End,
    /// Where external peers connect.
    contact: SocketAddr,
}

/// A tunnel that leads to `target`.
fn tunnel(target: SocketAddr) -> Tunnel {
    let (forwarder, relay) = carriers();
    let forwarder = End::start(Side::Forwarder, forwarder);
    let relay = End::start(Side::Relay, relay);
    forwarder.wait_until_up();
    relay.wait_until_up();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let contact = listener.local_addr().unwrap();
    let serve = Command::Serve { session: SESSION, contact: CONTACT, peer: "peer".into(), target };
    forwarder.pump.send(serve).unwrap();
    // Commands are taken in order: once this is answered, the forwarder serves the contact point.
    forwarder.pump.send(Command::Report).unwrap();
    forwarder.wait_for("Report", |event| matches!(event, Event::Report(_)).then_some(()));
    let listen =
        Command::Listen { session: SESSION, contact: CONTACT, peer: "peer".into(), listener };
    relay.pump.send(listen).unwrap();
    Tunnel { relay, forwarder, contact }
}

/// An internal peer that handles each connection with `handle`.
fn internal_peer(handle: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().unwrap();
    std::io::copy(&mut reader, &mut stream).ok();
    stream.shutdown(Shutdown::Write).ok();
}

fn connect(tunnel: &Tunnel) -> TcpStream {
    let stream = TcpStream::connect(tunnel.contact).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from((n * 7 + seed) % 251).unwrap()).collect()
}

/// Writes `bytes` and reads as many back; both at once, so that no buffer has to hold them.
fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let mut received = vec![0; bytes.len()];
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).unwrap());
        stream.read_exact(&mut received).unwrap();
    });
    received
}

/// Bytes cross in both directions at once, whole and in order, and each side's end is passed on.
#[test]
fn a_large_transfer_is_echoed_whole() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    let sent = pattern(32 << 20, 1);
    assert!(exchange(&mut stream, &sent) == sent);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Many flows share the tunnel and never mix.
#[test]
fn flows_do_not_mix() {
    let tunnel = tunnel(internal_peer(echo));
    thread::scope(|scope| {
        for seed in 0..50 {
            let tunnel = &tunnel;
            scope.spawn(move || {
                let mut stream = connect(tunnel);
                for round in 0..20 {
                    let sent = pattern(1 + (seed * 977 + round * 3_001) % 40_000, seed);
                    assert!(exchange(&mut stream, &sent) == sent);
                }
            });
        }
    });
}

/// A peer that has sent its request can still be answered, in both directions.
#[test]
fn half_close_is_passed_on() {
    let answer = |mut stream: TcpStream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&[b"answer to ", &request[..]].concat()).unwrap();
    };
    let tunnel = tunnel(internal_peer(answer));
    let mut stream = connect(&tunnel);
    stream.write_all(b"request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer to request");
}

/// Nothing listens at the target: the external peer is reset at once, not left waiting.
#[test]
fn a_refused_target_is_a_prompt_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let tunnel = tunnel(gone);
    let error = connect(&tunnel).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// An internal peer that resets its connection resets the external peer's.
#[test]
fn a_reset_inside_is_a_reset_outside() {
    let tunnel = tunnel(internal_peer(|mut stream: TcpStream| {
        stream.read_exact(&mut [0]).unwrap();
        reset_on_close(&stream);
    }));
    let mut stream = connect(&tunnel);
    stream.write_all(b"x").unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// And the reverse.
#[test]
fn a_reset_outside_is_a_reset_inside() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let tunnel = tunnel(internal_peer(move |mut stream: TcpStream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"y").unwrap();
        sender.send(stream.read(&mut [0]).unwrap_err().kind()).unwrap();
    }));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"x"), b"y");
    reset_on_close(&stream);
    drop(stream);
    assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), ErrorKind::ConnectionReset);
}

/// A hundred readers that stall keep nobody else waiting.
#[test]
fn stalled_readers_stop_nobody_else() {
    let tunnel = tunnel(internal_peer(|mut stream: TcpStream| {
        let mut request = [0];
        stream.read_exact(&mut request).unwrap();
        if request != *b"f" {
            return echo(stream);
        }
        let flood = vec![0; 1 << 20];
        while stream.write_all(&flood).is_ok() {}
    }));
    let open = |kind: &[u8]| {
        let mut stream = connect(&tunnel);
        stream.write_all(kind).unwrap();
        stream
    };
    let stalled: Vec<_> = (0..100).map(|_| open(b"f")).collect();
    let mut stream = open(b"e");
    for round in 0..50 {
        let sent = pattern(100_000, round);
        assert!(exchange(&mut stream, &sent) == sent);
    }
    drop(stalled);
}

/// A session that is closed resets its flows at both ends and says why.
#[test]
fn a_closed_session_resets_its_flows_and_says_why() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let close = Command::Close { session: SESSION, why: "time to go".into() };
    tunnel.forwarder.pump.send(close).unwrap();
    assert_eq!(tunnel.forwarder.wait_until_down(), Down::Closed);
    assert_eq!(tunnel.relay.wait_until_down(), Down::Goaway("time to go".into()));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A drained session finishes what runs, takes nothing new, and then ends.
#[test]
fn a_drained_session_ends_with_its_last_flow() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    tunnel.relay.pump.send(Command::Drain { session: SESSION }).unwrap();
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(tunnel.relay.wait_until_down(), Down::Closed);
}

/// Every command is taken at once, however it falls together with what the pump is doing: none
/// waits for the pump's longest sleep.
#[test]
fn no_command_waits_for_another_wake_up() {
    let (sender, receiver) = events().unwrap();
    let pump = pump::spawn(pump::probe().unwrap(), sender).unwrap();
    let end = End { pump, events: receiver };
    let started = Instant::now();
    for round in 0..20_000 {
        // Two in quick succession, at ever other distances.
        end.pump.send(Command::Report).unwrap();
        (0..round % 97).for_each(|_| std::hint::spin_loop());
        end.pump.send(Command::Report).unwrap();
        for _ in 0..2 {
            end.wait_for("Report", |event| matches!(event, Event::Report(_)).then_some(()));
        }
    }
    assert!(started.elapsed() < DEADLINE, "a command waited");
    end.pump.send(Command::Stop).unwrap();
}

/// A peer whose queue of connections is full: the kernel drops what else comes, so that connects
/// get no answer.
fn silent_peer() -> (Vec<socket2::Socket>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        filler.connect(&address).ok();
        kept.push(filler);
    }
    (kept, address.as_socket().unwrap())
}

/// An internal peer that answers no connect keeps its own callers waiting, and nobody else.
#[test]
fn a_peer_that_is_down_takes_no_other_with_it() {
    let tunnel = tunnel(internal_peer(echo));
    let (_silent, target) = silent_peer();
    let down = ContactId(6);
    let serve = Command::Serve { session: SESSION, contact: down, peer: "down".into(), target };
    tunnel.forwarder.pump.send(serve).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let listen = Command::Listen { session: SESSION, contact: down, peer: "down".into(), listener };
    tunnel.relay.pump.send(listen).unwrap();
    let mut stream = connect(&tunnel);
    let mut callers = Vec::new();
    for round in 0..200 {
        let mut caller = TcpStream::connect(address).unwrap();
        caller.write_all(&[1; 900]).unwrap();
        callers.push(caller);
        // In between, so that each caller's request comes in a receive of its own.
        let sent = pattern(100, round);
        assert!(exchange(&mut stream, &sent) == sent);
    }
    drop(callers);
}

/// A session that is closed while its carrier is busy ends all the same.
#[test]
fn a_busy_session_closes_at_once() {
    let tunnel = tunnel(internal_peer(|mut stream: TcpStream| {
        let flood = vec![0; 1 << 20];
        while stream.write_all(&flood).is_ok() {}
    }));
    let mut streams: Vec<_> = (0..4).map(|_| connect(&tunnel)).collect();
    streams.iter_mut().for_each(|stream| stream.read_exact(&mut [0; 100_000]).unwrap());
    let close = Command::Close { session: SESSION, why: "now".into() };
    tunnel.forwarder.pump.send(close).unwrap();
    assert_eq!(tunnel.forwarder.wait_until_down(), Down::Closed);
    tunnel.relay.wait_until_down();
}

/// What had crossed when a drained session ended is still handed out.
#[test]
fn a_drained_session_loses_nothing_that_was_accepted() {
    const LEN: usize = 8 << 20;
    let tunnel = tunnel(internal_peer(|mut stream: TcpStream| {
        stream.write_all(&pattern(LEN, 3)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
    }));
    let mut stream = connect(&tunnel);
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    tunnel.forwarder.pump.send(Command::Drain { session: SESSION }).unwrap();
    let mut rest = Vec::new();
    // A reader that takes its time, so that much still waits when both ends have said all.
    for _ in 0..LEN / 100_000 {
        let mut part = vec![0; 50_000];
        let len = stream.read(&mut part).unwrap();
        rest.extend_from_slice(&part[..len]);
        thread::yield_now();
    }
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest == pattern(LEN, 3)[1000..], "{} bytes of {}", rest.len() + 1000, LEN);
    assert_eq!(tunnel.forwarder.wait_until_down(), Down::Closed);
}
