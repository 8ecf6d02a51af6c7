//! A pump takes over from another one, as those of two processes do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use adit::handoff::{Command, Down, Event, GoawayReason, SessionKey};
use adit::key::PrivateKey;
use adit_proto::id::Side;
use adit_proto::limits::GRACE;
use socket2::SockRef;

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with the tests of the tunnel")]
mod pumps;

use pumps::{
    DEADLINE, End, SESSION, Tunnel, carriers, connect, echo, exchange, internal_peer, pattern,
    tunnel, tunnel_over,
};

/// One that can take over from `end`.
fn heir_of(end: &End) -> End {
    let mut heir = End::new(end.side);
    heir.key = end.key;
    heir
}

/// Lets one stand still.
fn freeze(end: &End) {
    end.pump.send(Command::Freeze).unwrap();
    end.wait_for("Quiet", |event| matches!(event, Event::Quiet).then_some(()));
}

/// Lets both stand still, and `heir` take over what `end` has, with its carriers or without; neither goes on
/// yet. Whether a session has no carrier any more.
fn take_over(heir: &End, end: &End, keeps_carriers: bool) -> bool {
    freeze(heir);
    freeze(end);
    pass_on(heir, end, keeps_carriers)
}

/// `heir` takes over what `end` has; both stand still.
fn pass_on(heir: &End, end: &End, keeps_carriers: bool) -> bool {
    end.pump.send(Command::Pack(0)).unwrap();
    let parcel = end.wait_for("Packed", |event| match event {
        Event::Packed { packed, .. } => Some(packed.unwrap()),
        _ => None,
    });
    heir.pump.send(Command::Restore { parcel, keeps_carriers }).unwrap();
    let mut is_lost = false;
    let restored = heir.wait_for("Restored", |event| match event {
        Event::Restored(restored) => Some(restored),
        event => {
            is_lost |= matches!(event, Event::Lost { .. });
            None
        }
    });
    restored.unwrap();
    is_lost
}

/// Lets one go on; it does, when this returns.
fn thaw(end: &End) {
    end.pump.send(Command::Thaw).unwrap();
    end.report();
}

/// Ends one that stands still, and waits until its thread has let go of everything.
fn stop(end: &End) {
    while end.pump.send(Command::Stop).is_ok() {
        thread::yield_now();
    }
}

/// How often the relay has another carrier for the session than the first.
fn resumptions(tunnel: &Tunnel) -> u64 {
    tunnel.relay.report().sessions[0].resumptions
}

/// Whichever of the two goes on, the other one has touched nothing: what came meanwhile arrives, and what
/// ended meanwhile ends. The carrier goes on with them, unless the heir has no use for it.
#[test]
fn either_pump_goes_on_as_if_it_were_alone() {
    for (is_taken_over, keeps_carrier) in [(false, true), (true, true), (true, false)] {
        let mut tunnel = tunnel(internal_peer(echo));
        let (mut stream, mut ending) = (connect(&tunnel), connect(&tunnel));
        for stream in [&mut stream, &mut ending] {
            assert_eq!(exchange(stream, b"before"), b"before");
        }
        let heir = heir_of(&tunnel.forwarder);
        let is_lost = take_over(&heir, &tunnel.forwarder, keeps_carrier);
        assert_eq!(is_lost, !keeps_carrier);
        stream.write_all(b"meanwhile").unwrap();
        ending.write_all(b"last words").unwrap();
        ending.shutdown(Shutdown::Write).unwrap();
        if is_taken_over {
            stop(&std::mem::replace(&mut tunnel.forwarder, heir));
        } else {
            stop(&heir);
        }
        thaw(&tunnel.forwarder);
        if is_lost {
            tunnel.carry();
            assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
        }
        let mut answer = vec![0; 9];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, b"meanwhile");
        let sent = pattern(300_000, 1);
        assert!(exchange(&mut stream, &sent) == sent);
        let mut rest = String::new();
        ending.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last words");
        assert_eq!(resumptions(&tunnel), u64::from(is_lost));
    }
}

/// How many bytes of flows have been sealed at this end.
fn sealed(end: &End) -> u64 {
    end.report().sessions[0].bytes_sent
}

/// Waits until the carrier takes no more of this end: its send is under way, and stays so.
fn wait_until_stuck(end: &End) {
    let mut before = (sealed(end), Instant::now());
    while before.1.elapsed() < Duration::from_millis(50) {
        let now = sealed(end);
        if now != before.0 {
            before = (now, Instant::now());
        }
    }
}

/// Wherever in its records a carrier is when it is handed over, again and again, from either end, nothing of
/// it is lost, doubled or spoilt, whichever process goes on; it is never replaced, and can still be. The
/// other end takes nothing before, so that each finds a send that has come part of its way.
#[test]
fn a_carrier_is_handed_over_at_any_byte() {
    const BYTES: usize = 100_000_000;
    const ROUNDS: usize = 8;
    /// Less than a flow may send at once.
    const RECEIVE_BUFFER: usize = 32 * 1024;
    let ends = carriers();
    for carrier in [&ends.0, &ends.1] {
        SockRef::from(&carrier.stream).set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    }
    let mut tunnel = tunnel_over(ends, internal_peer(echo), GRACE);
    let mut stream = connect(&tunnel);
    let sent = pattern(BYTES, 1);
    thread::scope(|scope| {
        let busy = scope.spawn(|| exchange(&mut stream, &sent) == sent);
        for round in 0..ROUNDS {
            let (place, other) = match round % 2 {
                0 => (&mut tunnel.forwarder, &tunnel.relay),
                _ => (&mut tunnel.relay, &tunnel.forwarder),
            };
            freeze(other);
            wait_until_stuck(place);
            let heir = heir_of(place);
            assert!(!take_over(&heir, place, true));
            let is_taken_over = round % 4 < 2;
            stop(&if is_taken_over { std::mem::replace(place, heir) } else { heir });
            thaw(place);
            thaw(other);
            let before = sealed(place);
            let deadline = Instant::now() + DEADLINE;
            while sealed(place) < before + 1_000_000 {
                assert!(Instant::now() < deadline, "nothing moves after round {round}");
            }
            assert!(!busy.is_finished(), "all is over in round {round}");
        }
        assert!(busy.join().unwrap());
    });
    assert_eq!(resumptions(&tunnel), 0);
    tunnel.cut();
    tunnel.forwarder.wait_until_lost();
    tunnel.carry();
    assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
    assert_eq!(exchange(&mut stream, b"after"), b"after");
}

/// A session that is told to close while its pump stands still is not handed over.
#[test]
fn a_session_that_ends_meanwhile_is_not_handed_over() {
    let tunnel = tunnel(internal_peer(echo));
    let heir = heir_of(&tunnel.relay);
    freeze(&heir);
    freeze(&tunnel.relay);
    let (session, reason, why) = (SESSION, GoawayReason::Revoked, String::new());
    tunnel.relay.pump.send(Command::Close { session, reason, why }).unwrap();
    pass_on(&heir, &tunnel.relay, true);
    assert!(heir.report().sessions.is_empty());
    let why = tunnel.forwarder.wait_until_lost();
    assert!(matches!(why, Down::Lost(_)), "{why:?}");
}

/// A forwarder whose session was superseded while it was out of reach hears of that from the relay's next
/// process as well, and ends nothing; the newer session goes on.
#[test]
fn a_superseded_session_stays_superseded() {
    let (relay, heir) = (End::new(Side::Relay), End::new(Side::Relay));
    let (first, second) = (End::new(Side::Forwarder), End::new(Side::Forwarder));
    let key = PrivateKey::generate().unwrap().public();
    let offer = |relay: &End, number: u64, forwarder: &End| {
        let (for_forwarder, for_relay, cut) = carriers();
        relay.carry_of(key, SessionKey(number), for_relay);
        forwarder.carry(SESSION, for_forwarder);
        cut
    };
    let cut = offer(&relay, 1, &first);
    assert!(!first.wait_until_up() && !relay.wait_until_up());
    cut.shutdown(Shutdown::Both).unwrap();
    first.wait_until_lost();
    relay.wait_until_lost();
    let _second = offer(&relay, 2, &second);
    assert!(!second.wait_until_up() && !relay.wait_until_up());
    assert!(!take_over(&heir, &relay, true));
    stop(&relay);
    thaw(&heir);
    let _late = offer(&heir, 3, &first);
    let why = first.wait_until_down();
    assert!(matches!(why, Down::Goaway(GoawayReason::Superseded, _)), "{why:?}");
    assert!(second.report().sessions[0].resumptions == 0 && heir.report().sessions.len() == 1);
}
