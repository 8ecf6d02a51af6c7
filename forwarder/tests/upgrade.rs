//! A pump takes over from another one, as those of two processes do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use adit::handoff::{Command, Down, Event, GoawayReason, SessionKey};
use adit::key::PrivateKey;
use adit_proto::id::Side;

#[path = "tunnel/pumps.rs"]
#[expect(dead_code, reason = "shared with the tests of the tunnel")]
mod pumps;

use pumps::{End, SESSION, carriers, connect, echo, exchange, internal_peer, pattern, tunnel};

/// Lets both stand still, and `heir` take over what `end` has; neither goes on yet.
fn take_over(heir: &End, end: &End) {
    for end in [heir, end] {
        end.pump.send(Command::Freeze).unwrap();
        end.wait_for("Quiet", |event| matches!(event, Event::Quiet).then_some(()));
    }
    end.pump.send(Command::Pack(0)).unwrap();
    let parcel = end.wait_for("Packed", |event| match event {
        Event::Packed { packed, .. } => Some(packed.unwrap()),
        _ => None,
    });
    heir.pump.send(Command::Restore(parcel)).unwrap();
    let restored = heir.wait_for("Restored", |event| match event {
        Event::Restored(restored) => Some(restored),
        _ => None,
    });
    restored.unwrap();
}

/// Ends one that stands still, and waits until its thread has let go of everything.
fn stop(end: &End) {
    while end.pump.send(Command::Stop).is_ok() {
        thread::yield_now();
    }
}

/// Whichever of the two goes on, the other one has touched nothing: what came meanwhile arrives, and what
/// ended meanwhile ends.
#[test]
fn either_pump_goes_on_as_if_it_were_alone() {
    for is_taken_over in [false, true] {
        let mut tunnel = tunnel(internal_peer(echo));
        let (mut stream, mut ending) = (connect(&tunnel), connect(&tunnel));
        for stream in [&mut stream, &mut ending] {
            assert_eq!(exchange(stream, b"before"), b"before");
        }
        let heir = End::new(Side::Forwarder);
        take_over(&heir, &tunnel.forwarder);
        tunnel.relay.wait_until_lost();
        stream.write_all(b"meanwhile").unwrap();
        ending.write_all(b"last words").unwrap();
        ending.shutdown(Shutdown::Write).unwrap();
        if is_taken_over {
            stop(&std::mem::replace(&mut tunnel.forwarder, heir));
        } else {
            stop(&heir);
        }
        tunnel.forwarder.pump.send(Command::Thaw).unwrap();
        tunnel.carry();
        assert!(tunnel.forwarder.wait_until_up() && tunnel.relay.wait_until_up());
        let mut answer = vec![0; 9];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, b"meanwhile");
        let sent = pattern(300_000, 1);
        assert!(exchange(&mut stream, &sent) == sent);
        let mut rest = String::new();
        ending.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last words");
    }
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
    take_over(&heir, &relay);
    second.wait_until_lost();
    stop(&relay);
    heir.pump.send(Command::Thaw).unwrap();
    let _late = offer(&heir, 3, &first);
    let why = first.wait_until_down();
    assert!(matches!(why, Down::Goaway(GoawayReason::Superseded, _)), "{why:?}");
    let _again = offer(&heir, 4, &second);
    assert!(second.wait_until_up() && heir.wait_until_up());
}
