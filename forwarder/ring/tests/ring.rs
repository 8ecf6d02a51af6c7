//! The ring on the real kernel.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test may panic, and is no interface"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use adit_ring::{
    Completion, Features, Group, Layout, Memory, Ring, SendHow, Slice, Socket, Target, Token, probe,
};

const LAYOUT: Layout =
    Layout { headroom: 13, payload: 16_376, tailroom: 17, buffers: 64, published: 32 };
const DEADLINE: Duration = Duration::from_secs(20);

fn ring(bundles: bool) -> (Ring, Group) {
    let mut ring = Ring::new(Features { bundles }).unwrap();
    let group = ring.add_group(LAYOUT).unwrap();
    (ring, group)
}

/// An ordinary stream, and the other end of it for a ring.
fn pair() -> (TcpStream, Socket) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (stream, OwnedFd::from(other).into())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Turns the ring until `take` says that it has seen what it wanted.
fn run(ring: &mut Ring, mut take: impl FnMut(&mut Ring, Token, Completion) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        ring.submit_and_wait(Some(Duration::from_millis(50))).unwrap();
        while let Some((token, completion)) = ring.next_completion() {
            if take(ring, token, completion) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "it did not happen in {DEADLINE:?}");
    }
}

fn receives_in_order(bundles: bool) {
    const LEN: usize = 8 << 20;
    let (mut ring, group) = ring(bundles);
    let (mut stream, socket) = pair();
    let writing = thread::spawn(move || stream.write_all(&pattern(LEN)).unwrap());
    let mut received = Vec::new();
    ring.recv(&socket, group, 16, Token(7));
    run(&mut ring, |ring, token, completion| {
        let Completion::Received(Ok(buffers)) = completion else { panic!("{completion:?}") };
        assert_eq!(token, Token(7));
        if buffers.is_empty() {
            return true;
        }
        for buffer in buffers {
            received.extend_from_slice(&buffer.bytes()[buffer.payload()]);
        }
        ring.recv(&socket, group, 16, Token(7));
        false
    });
    writing.join().unwrap();
    assert!(received == pattern(LEN), "bytes were lost or mixed up");
    assert_eq!(ring.pool(group).held(), 0);
}

/// A probe on a kernel that can run these tests succeeds.
#[test]
fn the_probe_finds_a_ring() {
    probe().unwrap();
}

/// Every byte arrives once and in order, when one receive fills several buffers.
#[test]
fn bundles_arrive_in_order() {
    if probe().unwrap().bundles {
        receives_in_order(true);
    }
}

/// The same, one buffer at a time.
#[test]
fn single_receives_arrive_in_order() {
    receives_in_order(false);
}

/// Many sockets that share a group never get each other's bytes.
#[test]
fn sockets_that_share_a_group_keep_their_bytes_apart() {
    const LEN: usize = 300_000;
    let bundles = probe().unwrap().bundles;
    let (mut ring, group) = ring(bundles);
    let pairs: Vec<_> = (0..20_u8).map(|n| (n, pair())).collect();
    let mut sockets = Vec::new();
    let mut writers = Vec::new();
    for (n, (mut stream, socket)) in pairs {
        writers.push(thread::spawn(move || stream.write_all(&vec![n; LEN]).unwrap()));
        ring.recv(&socket, group, 8, Token(n.into()));
        sockets.push(socket);
    }
    let mut received = vec![0; sockets.len()];
    run(&mut ring, |ring, token, completion| {
        let n = token.0 as usize;
        match completion {
            Completion::Received(Ok(buffers)) => {
                for buffer in buffers {
                    let bytes = &buffer.bytes()[buffer.payload()];
                    assert!(bytes.iter().all(|b| usize::from(*b) == n));
                    received[n] += bytes.len();
                }
            }
            Completion::Received(Err(error)) => assert_eq!(error.raw_os_error(), Some(105)),
            other => panic!("{other:?}"),
        }
        if received[n] < LEN {
            ring.recv(&sockets[n], group, 8, token);
        }
        received.iter().all(|len| *len == LEN)
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

/// A receive fills no more buffers than it was asked to, however much has come: the rest stays in
/// the kernel, where it holds the sender back.
#[test]
fn a_bundle_fills_no_more_than_it_may() {
    let (mut ring, group) = ring(probe().unwrap().bundles);
    let (mut stream, socket) = pair();
    stream.write_all(&pattern(40 * LAYOUT.payload)).unwrap();
    ring.recv(&socket, group, 4, Token(1));
    run(&mut ring, |_, _, completion| {
        let Completion::Received(Ok(buffers)) = completion else { panic!("{completion:?}") };
        assert!((1..=4).contains(&buffers.len()), "{}", buffers.len());
        true
    });
}

/// With every buffer held, a receive says so; with one back, it goes on.
#[test]
fn an_empty_group_is_a_state() {
    let mut ring = Ring::new(Features { bundles: false }).unwrap();
    let group = ring.add_group(Layout { buffers: 2, published: 2, ..LAYOUT }).unwrap();
    let (mut stream, socket) = pair();
    stream.write_all(&pattern(10 * LAYOUT.payload)).unwrap();
    let mut held = Vec::new();
    ring.recv(&socket, group, 1, Token(1));
    run(&mut ring, |ring, _, completion| match completion {
        Completion::Received(Ok(buffers)) => {
            held.extend(buffers);
            ring.recv(&socket, group, 1, Token(1));
            false
        }
        Completion::Received(Err(error)) => {
            assert_eq!(error.raw_os_error(), Some(105), "ENOBUFS");
            true
        }
        other => panic!("{other:?}"),
    });
    assert_eq!((held.len(), ring.pool(group).held()), (2, 2));
    held.clear();
    ring.recv(&socket, group, 1, Token(1));
    run(
        &mut ring,
        |_, _, completion| matches!(completion, Completion::Received(Ok(b)) if b.len() == 1),
    );
}

/// A buffer that comes back is the next to go out: the hot set stays small.
#[test]
fn the_pool_is_last_in_first_out() {
    let (ring, group) = ring(false);
    let pool = ring.pool(group).clone();
    let mut first = pool.take().unwrap();
    first.bytes_mut()[0] = 42;
    let second = pool.take().unwrap();
    drop(first);
    assert_eq!(pool.take().unwrap().bytes()[0], 42);
    drop(second);
}

/// Many slices leave as one message, whole, against a reader that is slower than the sender.
#[test]
fn a_whole_send_arrives_whole() {
    let (mut ring, _) = ring(false);
    let (mut stream, socket) = pair();
    let bytes = pattern(8 << 20);
    let memory = Rc::new(Memory::from(bytes.clone().into_boxed_slice()));
    let slices = bytes
        .chunks(16_001)
        .scan(0, |at, chunk| {
            *at += chunk.len();
            Some(Slice::from_memory(&memory, *at - chunk.len()..*at))
        })
        .collect();
    let reading = thread::spawn(move || {
        let mut received = vec![0; 8 << 20];
        for part in received.chunks_mut(10_000) {
            stream.read_exact(part).unwrap();
        }
        received
    });
    ring.send(&socket, slices, SendHow::Whole, Token(1));
    run(&mut ring, |_, _, completion| {
        let Completion::Sent { result, slices } = completion else { panic!("{completion:?}") };
        assert_eq!(result.unwrap(), 8 << 20);
        assert_eq!(slices.len(), bytes.len().div_ceil(16_001));
        true
    });
    assert!(reading.join().unwrap() == bytes);
    assert_eq!(Rc::strong_count(&memory), 1);
}

/// A send that takes what there is room for never waits: it is short, and then refused.
#[test]
fn a_send_now_never_waits_for_a_stalled_reader() {
    let (mut ring, _) = ring(false);
    let (_stalled, socket) = pair();
    let send = |ring: &mut Ring| {
        ring.send(&socket, vec![Slice::from(vec![0; 1 << 20])], SendHow::Now, Token(1));
    };
    send(&mut ring);
    run(&mut ring, |ring, _, completion| {
        let Completion::Sent { result, .. } = completion else { panic!("{completion:?}") };
        match result {
            Ok(_) => {
                send(ring);
                false
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    });
}

/// A full socket tells when there is room again.
#[test]
fn a_full_socket_becomes_writable() {
    let (mut ring, _) = ring(false);
    let (stream, socket) = pair();
    let send = |ring: &mut Ring| {
        ring.send(&socket, vec![Slice::from(vec![0; 1 << 20])], SendHow::Now, Token(1));
    };
    send(&mut ring);
    let mut reading = None;
    run(&mut ring, |ring, _, completion| match completion {
        Completion::Sent { result: Ok(_), .. } => {
            send(ring);
            false
        }
        Completion::Sent { result: Err(_), .. } => {
            ring.poll_writable(&socket, Token(2));
            let mut stream = stream.try_clone().unwrap();
            reading = Some(thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink())));
            false
        }
        Completion::Writable(result) => {
            result.unwrap();
            true
        }
        other => panic!("{other:?}"),
    });
    socket.shutdown_both().unwrap();
    reading.unwrap().join().unwrap().unwrap();
}

/// One accept takes a hundred connections.
#[test]
fn one_accept_takes_many_connections() {
    let (mut ring, _) = ring(false);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let socket = Socket::from(OwnedFd::from(listener));
    ring.accept(&socket, Token(1));
    let connecting = thread::spawn(move || {
        (0..100).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
    });
    let mut accepted = Vec::new();
    run(&mut ring, |_, _, completion| {
        let Completion::Accepted(Ok(socket), true) = completion else { panic!("{completion:?}") };
        accepted.push(socket);
        accepted.len() == 100
    });
    let mut clients: Vec<_> =
        connecting.join().unwrap().iter().map(|c| c.local_addr().unwrap()).collect();
    let mut peers: Vec<_> = accepted.iter().map(|s| s.peer_address().unwrap()).collect();
    clients.sort();
    peers.sort();
    assert_eq!(clients, peers);
}

/// A refused connect says so.
#[test]
fn a_refused_connect_is_an_error() {
    let (mut ring, _) = ring(false);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let target = Target::from(address);
    let socket = target.socket().unwrap();
    ring.connect(&socket, &target, Token(3)).unwrap();
    run(&mut ring, |_, _, completion| {
        let Completion::Connected(Err(error)) = completion else { panic!("{completion:?}") };
        error.kind() == ErrorKind::ConnectionRefused
    });
}

/// A socket in the file system is connected to like any other, and a path that the kernel cannot take
/// is refused before it is tried.
#[test]
fn a_path_is_connected_to_when_it_fits() {
    let (mut ring, _) = ring(false);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peer.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = Target::Unix(path).socket().unwrap();
    let far = Target::Unix(folder.path().join("x".repeat(200)));
    assert!(ring.connect(&socket, &far, Token(3)).is_err());
    ring.connect(&socket, &Target::Unix(folder.path().join("peer.sock")), Token(3)).unwrap();
    run(&mut ring, |_, _, completion| matches!(completion, Completion::Connected(Ok(()))));
}

/// The descriptor is closed after the last completion, not before: the other end sees the end of
/// the stream only then, and the completion still comes.
#[test]
fn a_cancelled_socket_closes_after_its_last_completion() {
    let (mut ring, group) = ring(false);
    let (mut stream, socket) = pair();
    ring.recv(&socket, group, 1, Token(9));
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    ring.cancel(&socket);
    drop(socket);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    run(&mut ring, |_, token, completion| {
        let Completion::Received(Err(error)) = completion else { panic!("{completion:?}") };
        assert_eq!(token, Token(9));
        error.raw_os_error() == Some(125)
    });
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Another thread ends the ring's wait, any number of times.
#[test]
fn a_waker_ends_the_wait() {
    let (mut ring, _) = ring(false);
    for _ in 0..100 {
        let waker = ring.waker();
        let waking = thread::spawn(move || waker.wake());
        run(&mut ring, |_, _, completion| matches!(completion, Completion::Woken));
        waking.join().unwrap();
    }
}

/// Ten thousand round trips leave nothing behind.
#[test]
fn the_steady_state_keeps_nothing() {
    let (mut ring, group) = ring(probe().unwrap().bundles);
    let (mut stream, socket) = pair();
    stream.set_nodelay(true).unwrap();
    let base = ring.in_flight();
    let echoing = thread::spawn(move || {
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
    });
    let mut rounds = 0;
    ring.send(&socket, vec![Slice::from(vec![1])], SendHow::Whole, Token(1));
    ring.recv(&socket, group, 16, Token(2));
    run(&mut ring, |ring, _, completion| {
        if let Completion::Received(result) = completion {
            assert_eq!(result.unwrap().len(), 1);
            rounds += 1;
            if rounds < 10_000 {
                ring.send(&socket, vec![Slice::from(vec![1])], SendHow::Whole, Token(1));
                ring.recv(&socket, group, 16, Token(2));
            }
        }
        rounds == 10_000 && ring.in_flight() == base
    });
    assert_eq!(ring.pool(group).held(), 0);
    socket.shutdown_both().unwrap();
    echoing.join().unwrap();
}

/// A ring that is dropped with operations in flight lets go of everything, and its sockets close.
#[test]
fn a_dropped_ring_lets_go() {
    let (mut ring, group) = ring(false);
    let (mut stream, socket) = pair();
    ring.recv(&socket, group, 1, Token(1));
    ring.send(&socket, vec![Slice::from(vec![0; 64 << 20])], SendHow::Whole, Token(2));
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    let pool = ring.pool(group).clone();
    let kept = pool.take().unwrap();
    drop(socket);
    drop(ring);
    assert_eq!(kept.bytes()[0], 0);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    std::io::copy(&mut stream, &mut std::io::sink()).ok();
}

/// Whatever the kernel has is given back on demand, and then it has nothing.
#[test]
fn all_operations_are_called_back() {
    let (mut ring, group) = ring(false);
    let (_stream, socket) = pair();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listener = Socket::from(OwnedFd::from(listener));
    ring.recv(&socket, group, 1, Token(1));
    ring.accept(&listener, Token(2));
    assert!(!ring.is_quiet());
    ring.cancel_all();
    let mut left = 2;
    run(&mut ring, |_, _, completion| {
        let error = match completion {
            Completion::Received(Err(error)) | Completion::Accepted(Err(error), false) => error,
            Completion::Woken => return false,
            other => panic!("{other:?}"),
        };
        assert_eq!(error.raw_os_error(), Some(nix::libc::ECANCELED));
        left -= 1;
        left == 0
    });
    let deadline = Instant::now() + DEADLINE;
    while !ring.is_quiet() {
        assert!(Instant::now() < deadline, "{} operations are left", ring.in_flight());
        ring.submit_and_wait(Some(Duration::from_millis(10))).unwrap();
        while ring.next_completion().is_some() {}
    }
}
