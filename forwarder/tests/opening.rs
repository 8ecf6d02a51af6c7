//! How flows come about, through two pumps: to contact points, to names, from connections that the
//! control plane has; and who is turned away.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{
    Answer, Command, Destination, Event, GoawayReason, Listening, Open, Protocol, ProxyHeader,
    ProxyVersion, Quota, Replies, ResetReason, Service, Target, Volume,
};
use adit::net;
use adit::sources::Sources;
use adit_proto::id::{ContactId, FlowId};

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with the tests of the tunnel")]
mod pumps;

use pumps::{
    CONTACT, DEADLINE, End, SESSION, Tunnel, connect, echo, exchange, internal_peer, pattern,
    service, tunnel,
};

fn name() -> Destination {
    Destination::Name("db".into())
}

/// Where internal peers connect to reach `to`.
fn listener_inside(tunnel: &Tunnel, to: Destination, sources: Sources) -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    tunnel.forwarder.listen(listener, to, sources);
    stream
}

fn wait_opened(end: &End) -> (FlowId, Open) {
    end.wait_for("Opened", |event| match event {
        Event::Opened { flow, open, .. } => Some((flow, open)),
        _ => None,
    })
}

fn answer(end: &End, flow: FlowId, answer: Answer) {
    end.pump.send(Command::Answer { session: SESSION, flow, answer }).unwrap();
}

/// Gives `stream` to the forwarder's pump, as the control plane would.
fn open_for(tunnel: &Tunnel, stream: TcpStream, replies: Option<Replies>) {
    let open = Open {
        contact: ContactId(9),
        source: stream.peer_addr().unwrap(),
        protocol: Protocol::Tcp,
        to: name(),
    };
    let (session, peer) = (SESSION, "peer".into());
    let listening = replies.map(Listening::Caller);
    let command = Command::Open { session, open, peer, stream: stream.into(), listening };
    tunnel.forwarder.pump.send(command).unwrap();
}

fn is_reset(mut stream: TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// What is sent before the relay has judged the flow arrives once it has, in order and whole.
#[test]
fn a_flow_to_a_name_carries_what_was_sent_before_the_judgement() {
    let tunnel = tunnel(internal_peer(echo));
    let mut inside = listener_inside(&tunnel, name(), Sources::any());
    let early = pattern(100_000, 3);
    inside.write_all(&early).unwrap();
    let (flow, open) = wait_opened(&tunnel.relay);
    assert_eq!(open.to, name());
    assert_eq!(open.source, inside.local_addr().unwrap());
    let (near, mut far) = net::pair().unwrap();
    answer(&tunnel.relay, flow, Answer::Join(near.into()));
    let mut received = vec![0; early.len()];
    far.read_exact(&mut received).unwrap();
    assert!(received == early);
    far.write_all(b"reply").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    inside.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "reply");
}

/// A flow that leads to an address is dialled by the relay.
#[test]
fn a_flow_to_an_address_is_dialled() {
    let tunnel = tunnel(internal_peer(echo));
    let to = Destination::Address("192.0.2.1:80".into());
    let mut inside = listener_inside(&tunnel, to.clone(), Sources::any());
    let (flow, open) = wait_opened(&tunnel.relay);
    assert_eq!(open.to, to);
    answer(&tunnel.relay, flow, Answer::Dial(Target::Tcp(internal_peer(echo))));
    let sent = pattern(300_000, 5);
    assert!(exchange(&mut inside, &sent) == sent);
}

/// A flow that is refused is reset, and a later answer to it changes nothing.
#[test]
fn a_refused_flow_is_reset_once() {
    let tunnel = tunnel(internal_peer(echo));
    let inside = listener_inside(&tunnel, name(), Sources::any());
    let (flow, _) = wait_opened(&tunnel.relay);
    answer(&tunnel.relay, flow, Answer::Refuse(ResetReason::NoContact));
    assert!(is_reset(inside));
    let (near, mut far) = net::pair().unwrap();
    answer(&tunnel.relay, flow, Answer::Join(near.into()));
    // A clean end would look as if somebody had come and gone.
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A forwarder is never led by its relay to a name or an address of the relay's choice.
#[test]
fn a_relay_cannot_open_what_is_not_registered() {
    let tunnel = tunnel(internal_peer(echo));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let outside = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    tunnel.relay.listen(listener, Destination::Address("127.0.0.1:22".into()), Sources::any());
    // The forwarder's control plane is asked, and has but one answer.
    let (flow, _) = wait_opened(&tunnel.forwarder);
    answer(&tunnel.forwarder, flow, Answer::Refuse(ResetReason::NoContact));
    assert!(is_reset(outside));
}

/// Whoever is not among the sources of a listener, or of a service, is reset and counted.
#[test]
fn sources_that_are_not_let_in_are_reset_and_counted() {
    let tunnel = tunnel(internal_peer(echo));
    assert!(is_reset(listener_inside(&tunnel, name(), Sources::none())));
    let report = tunnel.forwarder.report();
    assert_eq!(report.sessions[0].flows_forbidden, 1);
    let sources = Arc::new(Sources::none());
    tunnel.serve_at(CONTACT, Service { sources, ..service(internal_peer(echo)) });
    assert!(is_reset(connect(&tunnel)));
    assert_eq!(tunnel.forwarder.report().sessions[0].flows_forbidden, 2);
}

fn limit(quota: Quota) -> Command {
    Command::Limit { session: SESSION, quota, volume: Volume::Left }
}

/// More flows at once than the owner may have are reset and counted; one that ends makes room.
#[test]
fn flows_over_the_quota_are_reset_and_counted() {
    let tunnel = tunnel(internal_peer(echo));
    let quota = Quota { flows_max: Some(2), ..Quota::default() };
    tunnel.relay.pump.send(limit(quota)).unwrap();
    let mut held: Vec<_> = (0..2).map(|_| connect(&tunnel)).collect();
    held.iter_mut().for_each(|stream| assert_eq!(exchange(stream, b"here"), b"here"));
    assert!(is_reset(connect(&tunnel)));
    assert_eq!(tunnel.relay.report().sessions[0].flows_over_quota, 1);
    held.pop();
    let deadline = Instant::now() + DEADLINE;
    while tunnel.relay.report().sessions[0].flows > 1 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(exchange(&mut connect(&tunnel), b"again"), b"again");
}

/// Bytes beyond the rate wait, whole and in order, and no connection is lost by it.
#[test]
fn bytes_over_the_quota_wait() {
    let tunnel = tunnel(internal_peer(echo));
    let quota = Quota { bytes_per_s: Some(1_000_000), ..Quota::default() };
    tunnel.relay.pump.send(limit(quota)).unwrap();
    let mut stream = connect(&tunnel);
    let (begun, sent) = (Instant::now(), pattern(500_000, 7));
    assert!(exchange(&mut stream, &sent) == sent);
    // Both directions count: a million bytes at a million a second, less the burst.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    let quota = Quota::default();
    tunnel.relay.pump.send(limit(quota)).unwrap();
    assert!(exchange(&mut stream, &sent) == sent);
}

/// What an owner has moved is told, both ways together. One that may move nothing more loses its flows
/// and gets no others, and this is counted by its name; once it may again, all is as before.
#[test]
fn an_owner_that_is_spent_moves_nothing() {
    let tunnel = tunnel(internal_peer(echo));
    let quota = Quota::default();
    tunnel.relay.pump.send(limit(quota)).unwrap();
    let mut held = connect(&tunnel);
    assert_eq!(exchange(&mut held, &pattern(10_000, 3)), pattern(10_000, 3));
    tunnel.relay.pump.send(Command::Moved).unwrap();
    let moved = tunnel.relay.wait_for("Moved", |event| match event {
        Event::Moved(moved) => Some(moved),
        _ => None,
    });
    assert!(matches!(moved[..], [(_, 20_000)]), "{moved:?}");
    let spent = Command::Limit { session: SESSION, quota, volume: Volume::Spent };
    tunnel.relay.pump.send(spent).unwrap();
    assert!(is_reset(held));
    assert!(is_reset(connect(&tunnel)));
    let report = tunnel.relay.report();
    assert_eq!((report.sessions[0].flows, report.sessions[0].flows_over_quota), (0, 1));
    assert_eq!(report.contacts[0].limited["bytes_per_month"], 2);
    tunnel.relay.pump.send(limit(quota)).unwrap();
    assert_eq!(exchange(&mut connect(&tunnel), b"again"), b"again");
    let (session, reason, why) = (SESSION, GoawayReason::Ending, String::new());
    tunnel.relay.pump.send(Command::Close { session, reason, why }).unwrap();
    let told = tunnel.relay.wait_for("the rest, before the end", |event| match event {
        Event::Moved(moved) => Some(moved[0].1),
        Event::Down { .. } => Some(0),
        _ => None,
    });
    assert_eq!(told, 10);
}

/// The internal peer is told who calls, ahead of the first byte.
#[test]
fn a_service_is_told_who_calls() {
    let tunnel = tunnel(internal_peer(echo));
    let proxy = Some(ProxyHeader { version: ProxyVersion::V1, contact: Some(tunnel.contact) });
    tunnel.serve_at(CONTACT, Service { proxy, ..service(internal_peer(echo)) });
    let mut stream = connect(&tunnel);
    let (from, to) = (stream.local_addr().unwrap(), tunnel.contact);
    let expected =
        format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    stream.write_all(b"hello").unwrap();
    let mut echoed = vec![0; expected.len() + 5];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(String::from_utf8(echoed).unwrap(), format!("{expected}hello"));
}

/// A service may be a socket in the file system.
#[test]
fn a_service_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut bytes) = (stream.unwrap(), Vec::new());
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let tunnel = tunnel(internal_peer(echo));
    tunnel.serve_at(CONTACT, service(Target::Unix(path)));
    let mut stream = connect(&tunnel);
    let (sent, mut received) = (pattern(200_000, 9), Vec::new());
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == sent);
}

fn replies() -> Replies {
    let refused = |reason| format!("no: {reason:?};").into_bytes();
    Replies::new(b"yes;".to_vec(), refused)
}

/// Who waits to hear of the far end hears it before its bytes, and is not read before.
#[test]
fn a_caller_hears_that_the_far_end_is_there_before_its_bytes() {
    let tunnel = tunnel(internal_peer(echo));
    let (near, mut caller) = net::pair().unwrap();
    open_for(&tunnel, near, Some(replies()));
    let (flow, _) = wait_opened(&tunnel.relay);
    let (joined, mut far) = net::pair().unwrap();
    far.write_all(b"welcome").unwrap();
    answer(&tunnel.relay, flow, Answer::Join(joined.into()));
    let mut heard = [0; 11];
    caller.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"yes;welcome");
}

/// Who waits to hear of the far end hears that there is none, and why.
#[test]
fn a_caller_hears_why_there_is_no_far_end() {
    let tunnel = tunnel(internal_peer(echo));
    let (near, mut caller) = net::pair().unwrap();
    open_for(&tunnel, near, Some(replies()));
    let (flow, _) = wait_opened(&tunnel.relay);
    answer(&tunnel.relay, flow, Answer::Refuse(ResetReason::NoContact));
    let mut heard = String::new();
    caller.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "no: NoContact;");
}

/// Two sessions of one key share its quota, and another carrier does not start it anew.
#[test]
fn the_sessions_of_a_key_share_its_quota() {
    let mut tunnel = tunnel(internal_peer(echo));
    let quota = Quota { flows_max: Some(1), ..Quota::default() };
    tunnel.relay.pump.send(limit(quota)).unwrap();
    let mut held = connect(&tunnel);
    assert_eq!(exchange(&mut held, b"here"), b"here");
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up());
    assert_eq!(exchange(&mut held, b"still"), b"still");
    assert!(is_reset(connect(&tunnel)), "the resumption has made no room");
}

/// What the other end would end the session for is refused at this one, and nobody else notices.
#[test]
fn a_place_that_cannot_be_asked_for_harms_nobody() {
    let tunnel = tunnel(internal_peer(echo));
    let mut bystander = connect(&tunnel);
    assert_eq!(exchange(&mut bystander, b"before"), b"before");
    for address in ["a\u{1}b:80".to_owned(), format!("{}:65535", "x".repeat(300))] {
        let to = Destination::Address(address);
        let (near, mut caller) = net::pair().unwrap();
        let open = Open {
            contact: ContactId(9),
            source: near.peer_addr().unwrap(),
            protocol: Protocol::Tcp,
            to,
        };
        let (session, peer) = (SESSION, "peer".into());
        let listening = Some(Listening::Caller(replies()));
        let command = Command::Open { session, open, peer, stream: near.into(), listening };
        tunnel.forwarder.pump.send(command).unwrap();
        let mut heard = [0; 18];
        caller.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"no: ConnectFailed;");
    }
    assert_eq!(exchange(&mut bystander, b"after"), b"after");
}

/// The control plane hears once whether the far end is there, and why not.
#[test]
fn the_control_plane_hears_whether_the_far_end_is_there() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let tunnel = tunnel(gone);
    let heard = |call: u64| {
        let (near, far) = net::pair().unwrap();
        let source = near.peer_addr().unwrap();
        let open =
            Open { contact: CONTACT, source, protocol: Protocol::Tcp, to: Destination::Contact };
        let (session, peer) = (SESSION, "peer".into());
        let listening = Some(Listening::ControlPlane(call));
        let command = Command::Open { session, open, peer, stream: near.into(), listening };
        tunnel.relay.pump.send(command).unwrap();
        let heard = tunnel.relay.wait_for("Heard", |event| match event {
            Event::Heard { call: about, heard } => Some((about, heard)),
            _ => None,
        });
        assert_eq!(heard.0, call);
        (heard.1, far)
    };
    let (refused, far) = heard(1);
    assert_eq!(refused, Err(ResetReason::ConnectRefused));
    assert!(is_reset(far));
    tunnel.serve(internal_peer(echo));
    let (accepted, mut far) = heard(2);
    assert_eq!(accepted, Ok(()));
    assert_eq!(exchange(&mut far, b"hello"), b"hello");
}
