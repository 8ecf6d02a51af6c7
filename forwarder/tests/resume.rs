//! Flows outlive the carriers of their session, through two pumps.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{Down, GoawayReason, SessionKey};
use adit::key::PrivateKey;
use adit_proto::frame::{Frame, Hello};
use adit_proto::id::{SessionId, Side};
use adit_proto::limits::{FLOW_WINDOW, VERSION};
use adit_proto::session::seal_greeting;

#[path = "resume/bare.rs"]
mod bare;
#[path = "tunnel/pumps.rs"]
mod pumps;

use pumps::{
    DEADLINE, End, SESSION, carriers, connect, echo, exchange, internal_peer, pattern, tunnel,
    tunnel_with,
};

/// Carriers are cut again and again under eight busy flows; every byte crosses once, in order.
#[test]
fn flows_survive_the_loss_of_fifty_carriers() {
    let mut tunnel = tunnel(internal_peer(echo));
    let streams: Vec<_> = (0..8).map(|_| connect(&tunnel)).collect();
    let is_over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let work = streams.into_iter().enumerate().map(|(seed, mut stream)| {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut rounds = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let sent = pattern(3_000_000 + seed * 1_000, seed + rounds);
                    assert!(exchange(&mut stream, &sent) == sent);
                    rounds += 1;
                }
                rounds
            })
        });
        let work: Vec<_> = work.collect();
        for _ in 0..50 {
            tunnel.cut();
            tunnel.forwarder.wait_until_lost();
            tunnel.relay.wait_until_lost();
            tunnel.carry();
            assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
        }
        is_over.store(true, Ordering::Relaxed);
        work.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
    });
    assert!(rounds >= 8);
    let report = tunnel.relay.report();
    assert_eq!((report.sessions.len(), report.sessions[0].resumptions), (1, 50));
}

/// What happens to flows while there is no carrier comes out right when there is one: new ones
/// open, ends and resets are passed on.
#[test]
fn what_happens_without_a_carrier_is_made_up_for() {
    let mut tunnel = tunnel(internal_peer(echo));
    let (mut ending, mut dying) = (connect(&tunnel), connect(&tunnel));
    exchange(&mut ending, b"x");
    exchange(&mut dying, b"x");
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.relay.wait_until_lost();
    let mut late = connect(&tunnel);
    late.write_all(b"called while there was no tunnel").unwrap();
    ending.write_all(b"last words").unwrap();
    ending.shutdown(Shutdown::Write).unwrap();
    socket2::SockRef::from(&dying).set_linger(Some(Duration::ZERO)).unwrap();
    drop(dying);
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
    let mut answer = vec![0; 32];
    late.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"called while there was no tunnel");
    let mut rest = String::new();
    ending.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last words");
    drop(late);
    while tunnel.forwarder.report().sessions[0].flows > 0 {
        thread::yield_now();
    }
}

/// When no carrier comes in time both ends say so to their peers, by resets.
#[test]
fn the_end_of_the_grace_resets_flows_at_both_ends() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let target = internal_peer(move |mut stream: TcpStream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"y").unwrap();
        sender.send(stream.read(&mut [0]).unwrap_err().kind()).unwrap();
    });
    let tunnel = tunnel_with(target, Duration::from_secs(1));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"x"), b"y");
    tunnel.cut();
    assert_eq!(tunnel.forwarder.wait_until_down(), Down::Grace);
    assert_eq!(tunnel.relay.wait_until_down(), Down::Grace);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), ErrorKind::ConnectionReset);
}

/// A relay that has lost its memory begins anew at once, and the forwarder's flows are reset.
#[test]
fn an_unknown_session_begins_anew_and_resets_what_ran() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut tunnel = tunnel(internal_peer(move |mut stream: TcpStream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"y").unwrap();
        sender.send(stream.read(&mut [0]).unwrap_err().kind()).unwrap();
    }));
    let mut stream = connect(&tunnel);
    assert_eq!(exchange(&mut stream, b"x"), b"y");
    tunnel.relay = End::new(Side::Relay);
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.carry();
    assert!(!tunnel.forwarder.wait_until_up(), "it must not claim to have been resumed");
    assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), ErrorKind::ConnectionReset);
}

/// The newest session of a key wins; the other forwarder is told why.
#[test]
fn a_second_forwarder_with_the_key_supersedes_the_first() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let second = End::new(Side::Forwarder);
    let (for_forwarder, for_relay, _cut) = carriers();
    tunnel.relay.carry(SessionKey(9), for_relay);
    second.carry(SESSION, for_forwarder);
    assert!(!second.wait_until_up());
    let told = tunnel.forwarder.wait_until_down();
    assert!(matches!(told, Down::Goaway(GoawayReason::Superseded, _)), "{told:?}");
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The first session goes when its forwarder has had its last word.
    let deadline = Instant::now() + DEADLINE;
    while tunnel.relay.report().sessions.len() > 1 {
        assert!(Instant::now() < deadline, "the first session is still there");
        thread::yield_now();
    }
}

/// A carrier that is offered to a session that has a good one changes nothing.
#[test]
fn a_carrier_that_answers_is_not_replaced() {
    let mut tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    tunnel.carry();
    assert_eq!(tunnel.forwarder.wait_until_dropped(), Down::Spare);
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
    assert_eq!(tunnel.relay.report().sessions[0].resumptions, 0);
}

fn hello(session: SessionId, epoch: u64, received: u64) -> Hello {
    Hello {
        version: VERSION,
        session,
        epoch,
        received,
        replays_from: 0,
        grant: 1 << 26,
        flow_window: FLOW_WINDOW,
        grace: Duration::ZERO,
        path: None,
    }
}

/// A carrier of the relay's on which `hello` has been said.
fn said(hello: Hello) -> (adit::handoff::Carrier, TcpStream) {
    let (mut for_forwarder, for_relay, cut) = carriers();
    let record = seal_greeting(&Frame::Hello(hello), &mut for_forwarder.records.sealer).unwrap();
    TcpStream::from(for_forwarder.stream).write_all(&record).unwrap();
    (for_relay, cut)
}

/// The session's wire name, as nobody but its two ends should know it.
fn wire_id(tunnel: &pumps::Tunnel) -> SessionId {
    tunnel.relay.id().expect("the relay has said it")
}

/// Another key that knows a session's name gets a session of its own, and the owner keeps theirs.
#[test]
fn a_session_is_resumed_by_its_own_key_alone() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let stranger = PrivateKey::generate().unwrap().public();
    for round in 0..200 {
        let (carrier, _cut) = said(hello(wire_id(&tunnel), 1_000 + round, 0));
        tunnel.relay.carry_of(stranger, SessionKey(100 + round), carrier);
        assert!(!tunnel.relay.wait_until_up());
    }
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
}

/// The same ten thousand times: whoever the stranger is, the owner's session does not notice.
#[test]
fn ten_thousand_resumes_by_other_keys_change_nothing() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let owners = |report: adit::handoff::Report| {
        let of_owner = report.sessions.into_iter().find(|session| session.key == SESSION.0);
        let session = of_owner.expect("the owner's session lives");
        (session.id, session.carrier, session.resumptions, session.flows)
    };
    let before = owners(tunnel.relay.report());
    let strangers: Vec<_> = (0..10).map(|_| PrivateKey::generate().unwrap().public()).collect();
    for (round, stranger) in (0..10_000).zip(strangers.into_iter().cycle()) {
        let (carrier, _other_end) = bare::said(hello(wire_id(&tunnel), 1_000 + round, 0));
        tunnel.relay.carry_of(stranger, SessionKey(100 + round), carrier);
        assert!(!tunnel.relay.wait_until_up());
        if round % 1_000 == 0 {
            assert_eq!(exchange(&mut stream, b"still here"), b"still here");
        }
    }
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
    assert_eq!(owners(tunnel.relay.report()), before);
}

/// A carrier that comes late, after a newer one, is let go; the newer one goes on.
#[test]
fn a_stale_carrier_changes_nothing() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    let (carrier, _cut) = said(hello(wire_id(&tunnel), 1, 0));
    tunnel.relay.carry(SessionKey(9), carrier);
    assert!(matches!(tunnel.relay.wait_until_dropped(), Down::Lost(_)));
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
}

/// Who claims more than was ever sent loses that session, by name, and no other.
#[test]
fn a_claim_beyond_what_was_sent_ends_the_session() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    exchange(&mut stream, b"x");
    let (carrier, _cut) = said(hello(wire_id(&tunnel), 1_000, 1 << 40));
    tunnel.relay.carry(SessionKey(9), carrier);
    assert!(matches!(tunnel.relay.wait_until_down(), Down::Broken(_)));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A carrier that says nothing, or no greeting, costs its session nothing.
#[test]
fn a_carrier_without_a_greeting_is_let_go() {
    let tunnel = tunnel(internal_peer(echo));
    let mut stream = connect(&tunnel);
    let (_silent, for_relay, _cut) = carriers();
    tunnel.relay.carry(SessionKey(8), for_relay);
    assert!(matches!(tunnel.relay.wait_until_dropped(), Down::Lost(_)));
    let (mut for_forwarder, for_relay, _cut) = carriers();
    let record = seal_greeting(&Frame::Ping(1), &mut for_forwarder.records.sealer).unwrap();
    TcpStream::from(for_forwarder.stream).write_all(&record).unwrap();
    tunnel.relay.carry(SessionKey(9), for_relay);
    assert!(matches!(tunnel.relay.wait_until_dropped(), Down::Broken(_)));
    assert_eq!(exchange(&mut stream, b"still here"), b"still here");
}

/// A key that may have several sessions has them beside each other, and each is resumed by its own
/// name; one more takes the place of one that waits for a carrier, and of no other.
#[test]
fn a_key_may_have_as_many_sessions_as_it_is_allowed() {
    let mut relay = End::new(Side::Relay);
    relay.sessions_max = 2;
    let forwarders: Vec<End> = (0..3).map(|_| End::new(Side::Forwarder)).collect();
    let offer = |number: u64, forwarder: &End| {
        let (for_forwarder, for_relay, cut) = carriers();
        relay.carry(SessionKey(number), for_relay);
        forwarder.carry(SESSION, for_forwarder);
        cut
    };
    let join = |number: u64, forwarder: &End| {
        let cut = offer(number, forwarder);
        let is_resumed = forwarder.wait_until_up();
        assert_eq!(relay.wait_until_up(), is_resumed);
        (is_resumed, cut)
    };
    let (_, first) = join(1, &forwarders[0]);
    let (_, second) = join(2, &forwarders[1]);
    first.shutdown(Shutdown::Both).unwrap();
    relay.wait_until_lost();
    forwarders[0].wait_until_lost();
    assert!(join(3, &forwarders[0]).0, "the first is resumed beside the second");
    let _third = offer(4, &forwarders[2]);
    let why = forwarders[2].wait_until_down();
    assert!(matches!(why, Down::Goaway(GoawayReason::Ending, _)), "both have carriers: {why:?}");
    relay.wait_until_dropped();
    second.shutdown(Shutdown::Both).unwrap();
    relay.wait_until_lost();
    forwarders[1].wait_until_lost();
    assert!(!join(5, &forwarders[2]).0, "the second waits for a carrier, and has to go");
    let _late = offer(6, &forwarders[1]);
    let why = forwarders[1].wait_until_down();
    assert!(matches!(why, Down::Goaway(GoawayReason::Superseded, _)), "{why:?}");
}
