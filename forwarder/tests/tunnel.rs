//! What an external peer and an internal peer see of each other, through two pumps.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{Command, Destination, Down, Event, GoawayReason};
use adit::sources::Sources;
use adit_proto::id::{ContactId, Side};

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with the tests of resumption")]
mod pumps;

use pumps::{
    DEADLINE, End, SESSION, connect, echo, exchange, internal_peer, pattern, service, tunnel,
};

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

fn close(why: &str) -> Command {
    Command::Close { session: SESSION, reason: GoawayReason::Ending, why: why.to_owned() }
}

/// A session that is closed resets its flows at both ends and says why.
#[test]
fn a_closed_session_resets_its_flows_and_says_why() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let close = close("time to go");
    tunnel.forwarder.pump.send(close).unwrap();
    assert_eq!(tunnel.forwarder.wait_until_down(), Down::Closed);
    assert_eq!(
        tunnel.relay.wait_until_down(),
        Down::Goaway(GoawayReason::Ending, "time to go".into())
    );
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
    let end = End::new(Side::Relay);
    let started = Instant::now();
    for round in 0..20_000 {
        // Two in quick succession, at ever other distances.
        end.pump.send(Command::Report(Default::default())).unwrap();
        (0..round % 97).for_each(|_| std::hint::spin_loop());
        end.pump.send(Command::Report(Default::default())).unwrap();
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
    tunnel.serve_at(down, service(target));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    tunnel.relay.listen_at(down, listener, Destination::Contact, Sources::any());
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
    let close = close("now");
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
