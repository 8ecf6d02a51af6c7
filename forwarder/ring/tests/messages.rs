//! Datagrams on the real kernel.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic, and is no interface")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use adit_ring::{
    Completion, Envelope, Features, Group, Layout, MESSAGE_ROOM, Message, Ring, Slice, Socket,
    Token,
};
use nix::errno::Errno;

const LAYOUT: Layout =
    Layout { headroom: 0, payload: MESSAGE_ROOM + 65_536, tailroom: 0, buffers: 16, published: 8 };
const DEADLINE: Duration = Duration::from_secs(20);
const TOKEN: Token = Token(3);

fn ring() -> (Ring, Group) {
    let mut ring = Ring::new(Features { bundles: false }).unwrap();
    let group = ring.add_group(LAYOUT).unwrap();
    (ring, group)
}

fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn given(socket: UdpSocket) -> Socket {
    Socket::from(OwnedFd::from(socket))
}

fn next(ring: &mut Ring) -> Completion {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some((token, completion)) = ring.next_completion() {
            assert_eq!(token, TOKEN);
            return completion;
        }
        assert!(Instant::now() < deadline, "nothing came in {DEADLINE:?}");
        ring.submit_and_wait(Some(Duration::from_millis(50))).unwrap();
    }
}

fn message(ring: &mut Ring) -> Message {
    match next(ring) {
        Completion::Message { result: Ok(message), .. } => message,
        other => panic!("{other:?}"),
    }
}

fn payload(message: &Message) -> &[u8] {
    &message.buffer.bytes()[message.payload.clone()]
}

/// Datagrams of any size come whole, each with its sender.
#[test]
fn datagrams_come_with_their_senders() {
    let (mut ring, group) = ring();
    let (socket, to) = bound();
    let socket = given(socket);
    ring.recv_messages(&socket, group, TOKEN);
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    for len in [0, 1, 64, 1_500, 65_507] {
        for _ in 0..2 {
            let (sender, from) = bound();
            let sent = vec![7; len];
            sender.send_to(&sent, to).unwrap();
            let Completion::Message { result: Ok(message), more } = next(&mut ring) else {
                panic!("no message")
            };
            // An empty datagram looks to the kernel like the end of a stream.
            assert_eq!(more, len > 0);
            if !more {
                ring.recv_messages(&socket, group, TOKEN);
            }
            assert_eq!((message.source, message.segment, message.is_cut), (Some(from), 0, false));
            assert_eq!(payload(&message), sent);
        }
    }
}

/// Equal datagrams that are sent at once arrive at once.
#[test]
fn equal_datagrams_travel_together() {
    let (mut ring, group) = ring();
    let (receiver, to) = bound();
    let receiver = given(receiver);
    receiver.set_gro().unwrap();
    ring.recv_messages(&receiver, group, TOKEN);
    let (sender, _) = bound();
    let envelope = Envelope { to: Some(to), from: None, segment: Some(1_200) };
    let sent: Vec<u8> = (0..40 * 1_200_u32).map(|n| n.to_le_bytes()[0]).collect();
    let slices = vec![Slice::from(sent[..7_000].to_vec()), Slice::from(sent[7_000..].to_vec())];
    ring.send_message(&given(sender), envelope, slices, TOKEN);
    let mut received = Vec::new();
    while received.len() < sent.len() {
        match next(&mut ring) {
            Completion::Sent { result, .. } => assert_eq!(result.unwrap(), sent.len()),
            Completion::Message { result, .. } => {
                let message = result.unwrap();
                assert_eq!(message.segment, 1_200);
                received.extend_from_slice(payload(&message));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(received == sent);
}

/// A socket of every address answers from the one that was asked, whatever its family.
#[test]
fn answers_come_from_the_address_that_was_asked() {
    for any in [Ipv4Addr::UNSPECIFIED.into(), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).ip()] {
        let (mut ring, group) = ring();
        let socket = UdpSocket::bind((any, 0)).unwrap();
        let asked =
            SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), socket.local_addr().unwrap().port()));
        let socket = given(socket);
        socket.set_packet_info().unwrap();
        ring.recv_messages(&socket, group, TOKEN);
        ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
        let (client, from) = bound();
        client.send_to(b"who?", asked).unwrap();
        let message = message(&mut ring);
        assert_eq!((message.source, message.local), (Some(from), Some(asked.ip())));
        let envelope = Envelope { to: message.source, from: message.local, segment: None };
        ring.send_message(&socket, envelope, vec![Slice::from(b"me".to_vec())], TOKEN);
        assert!(matches!(next(&mut ring), Completion::Sent { result: Ok(2), .. }));
        let mut answer = [0; 8];
        assert_eq!(client.recv_from(&mut answer).unwrap(), (2, asked));
    }
}

/// When there is no buffer the receive ends, says so, and goes on when it is armed again.
#[test]
fn a_dry_group_is_a_state() {
    let (mut ring, group) = ring();
    let (socket, to) = bound();
    let (socket, (sender, _)) = (given(socket), bound());
    ring.recv_messages(&socket, group, TOKEN);
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    let mut held = Vec::new();
    for n in 0..20 {
        sender.send_to(&[n], to).unwrap();
    }
    loop {
        match next(&mut ring) {
            Completion::Message { result: Ok(message), more } => {
                held.push(payload(&message)[0]);
                // The group has twice as many buffers as the kernel may hold.
                std::mem::forget(message);
                if !more {
                    ring.recv_messages(&socket, group, TOKEN);
                }
            }
            Completion::Message { result: Err(error), more: false } => {
                assert_eq!(error.raw_os_error(), Some(Errno::ENOBUFS as i32));
                if ring.pool(group).available() == 0 {
                    break;
                }
                ring.recv_messages(&socket, group, TOKEN);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held, (0..16).collect::<Vec<_>>());
}

/// Sockets that share a port get the datagrams whose first word is theirs.
#[test]
fn the_first_word_chooses_among_sockets() {
    let share = |port| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        UdpSocket::from(socket)
    };
    let first = share(0);
    let to = first.local_addr().unwrap();
    let second = share(to.port());
    given(first.try_clone().unwrap()).steer(2).unwrap();
    let (sender, _) = bound();
    for word in 0..50_u32 {
        sender.send_to(&word.to_be_bytes(), to).unwrap();
        let receiver = if word % 2 == 0 { &first } else { &second };
        let mut bytes = [0; 4];
        receiver.recv_from(&mut bytes).unwrap();
        assert_eq!(u32::from_be_bytes(bytes), word);
    }
}

/// What is too long for the way is an error, and what was sent comes back.
#[test]
fn a_datagram_that_is_too_long_is_refused() {
    let (mut ring, _) = ring();
    let (_receiver, to) = bound();
    let (sender, _) = bound();
    let sender = given(sender);
    sender.set_path_mtu_probing().unwrap();
    let envelope = Envelope { to: Some(to), ..Envelope::default() };
    ring.send_message(&sender, envelope, vec![Slice::from(vec![0; 65_508])], TOKEN);
    match next(&mut ring) {
        Completion::Sent { result: Err(error), slices } => {
            assert_eq!(error.raw_os_error(), Some(Errno::EMSGSIZE as i32));
            assert_eq!(slices.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}
