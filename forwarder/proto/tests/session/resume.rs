//! A session outlives its carriers: nothing is lost with one, and nothing comes twice.

use std::time::Duration;

use adit_proto::frame::{Hello, Poll, ResetReason};
use adit_proto::limits::{
    CARRIER_SEND_MAX, CARRIER_SEND_PIECES, DETACHED_FLOWS_MAX, GRACE, RECORD_MAX, SUSPECT_AFTER,
};
use adit_proto::session::{Greeted, OpenError};

use super::*;

/// What is said in [`talk`], each way.
const DOWN: &[u8] = &[b'd'; 1_500];
const UP: &[u8] = &[b'u'; 700];

/// What one flow, already opened, and two more live through. Each step goes on whether or not what
/// it says arrives; `carry` says how far that gets.
fn talk(pair: &mut Pair, flow: FlowId, mut carry: impl FnMut(&mut Pair)) {
    let late = pair.relay.session.open_flow(open(), pair.now).unwrap();
    let failing = pair.forwarder.session.open_flow(open(), pair.now).unwrap();
    assert_eq!((late, failing), (LATE, FAILING));
    carry(pair);
    pair.relay.write(flow, DOWN);
    pair.forwarder.write(failing, UP);
    carry(pair);
    pair.forwarder.session.accept_flow(flow);
    pair.relay.write(late, &DOWN[..10]);
    pair.relay.session.handle_end(flow);
    carry(pair);
    pair.forwarder.write(flow, UP);
    pair.forwarder.session.handle_reset(failing, ResetReason::Peer);
    carry(pair);
    pair.forwarder.write(flow, UP);
    pair.forwarder.session.handle_end(flow);
    carry(pair);
}

const LATE: FlowId = FlowId(4);
const FAILING: FlowId = FlowId(1);

/// A pair, and a flow that the relay opened and the forwarder has not accepted.
fn pair_with_flow() -> (Pair, FlowId) {
    let mut pair = Pair::new();
    let flow = pair.relay.session.open_flow(open(), pair.now).unwrap();
    pair.exchange();
    (pair, flow)
}

/// All of [`talk`] has arrived, once, and nothing is left of it.
fn assert_talked(pair: &mut Pair, flow: FlowId, what: &str) {
    pair.wait(2 * POLL_DELAY);
    let delivered = |end: &End, flow| end.delivered.get(&flow).cloned().unwrap_or_default();
    assert_eq!(delivered(&pair.forwarder, flow), DOWN, "{what}");
    assert_eq!(delivered(&pair.forwarder, LATE), DOWN[..10], "{what}");
    assert_eq!(delivered(&pair.relay, flow), [UP, UP].concat(), "{what}");
    assert_eq!(delivered(&pair.relay, FAILING), UP, "{what}");
    let count = |end: &End, event: &Event| end.events.iter().filter(|e| *e == event).count();
    for (end, event) in [
        (&pair.forwarder, Event::Opened(LATE, open())),
        (&pair.relay, Event::Opened(FAILING, open())),
        (&pair.relay, Event::Accepted(flow)),
        (&pair.forwarder, Event::Finished(flow)),
        (&pair.relay, Event::Finished(flow)),
        (&pair.relay, Event::Reset(FAILING, ResetReason::Peer)),
    ] {
        assert_eq!(count(end, &event), 1, "{what}: {event:?}");
    }
    for end in [&pair.forwarder, &pair.relay] {
        assert_eq!((end.session.flows(), end.session.records_retained()), (1, 0), "{what}");
    }
}

/// Wherever each direction of a carrier is cut, the next one brings what it did not.
#[test]
fn a_cut_at_any_byte_loses_nothing() {
    let (mut pair, flow) = pair_with_flow();
    let mut bytes = (0, 0);
    talk(&mut pair, flow, |pair| {
        let (down, up) = pair.exchange_up_to(usize::MAX, usize::MAX);
        bytes = (bytes.0 + down, bytes.1 + up);
    });
    assert_talked(&mut pair, flow, "uncut");
    let (down, up) = bytes;
    assert!(down > DOWN.len() && up > 3 * UP.len());
    let cuts = (0..=down).map(|cut| (cut, usize::MAX)).chain((0..=up).map(|cut| (usize::MAX, cut)));
    let both = (0..=down.min(up)).map(|cut| (cut, up - cut * up / down.min(up)));
    for (down, up) in cuts.chain(both) {
        let (mut pair, flow) = pair_with_flow();
        let mut left = (down, up);
        talk(&mut pair, flow, |pair| {
            let (down, up) = pair.exchange_up_to(left.0, left.1);
            // Behind a record that did not arrive whole nothing does.
            left.0 = if pair.lost.0 { 0 } else { left.0 - down };
            left.1 = if pair.lost.1 { 0 } else { left.1 - up };
        });
        pair.lose();
        assert_eq!(pair.greet(), Ok(Greeted::Resumed));
        pair.exchange();
        assert_talked(&mut pair, flow, &format!("cut at {down} and {up}"));
    }
}

/// What the older carrier brings between `HELLO` and `WELCOME` comes again on the newer, and
/// counts once.
#[test]
fn make_before_break_delivers_once() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.wait(2 * POLL_DELAY);
    let hello = pair.forwarder.session.hello();
    for part in [&b"one"[..], b"two", b"three"] {
        pair.relay.write(flow, part);
        pair.forwarder.write(flow, part);
        let (down, up) = (pair.relay.transmit(pair.now), pair.forwarder.transmit(pair.now));
        down.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
        // HELLO overtakes the others: the relay takes nothing of the older carrier after it.
        if part == b"one" {
            up.into_iter().for_each(|r| pair.relay.receive(r, pair.now).unwrap());
        }
    }
    pair.relay.write(flow, b"four");
    let welcome = pair.relay.session.handle_hello(&hello, pair.now).unwrap();
    assert_eq!(pair.forwarder.session.handle_welcome(&welcome, pair.now), Ok(Greeted::Resumed));
    pair.renew();
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&flow], b"onetwothreefour");
    assert_eq!(pair.relay.delivered[&flow], b"onetwothree");
    pair.wait(2 * POLL_DELAY);
    assert_eq!(pair.relay.session.records_retained(), 0);
    assert_eq!(pair.forwarder.session.records_retained(), 0);
}

/// Of two greetings the newer wins, in whatever order they arrive; the older changes nothing.
#[test]
fn an_overtaken_greeting_is_stale() {
    let mut pair = Pair::new();
    let flow = pair.open();
    let older = pair.forwarder.session.hello();
    let newer = pair.forwarder.session.hello();
    let welcome = pair.relay.session.handle_hello(&newer, pair.now).unwrap();
    let stale = SessionError::Stale { offered: older.epoch, present: newer.epoch };
    assert_eq!(pair.relay.session.handle_hello(&older, pair.now), Err(stale));
    assert_eq!(
        pair.relay.session.handle_hello(&newer, pair.now).unwrap_err(),
        SessionError::Stale { offered: newer.epoch, present: newer.epoch }
    );
    assert_eq!(pair.forwarder.session.handle_welcome(&welcome, pair.now), Ok(Greeted::Resumed));
    pair.renew();
    pair.relay.write(flow, b"goes on");
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&flow], b"goes on");
}

/// Counts that cannot be are typed: more received than was sent, or a replay that leaves a gap.
#[test]
fn impossible_counts_are_typed() {
    let mut pair = Pair::new();
    pair.open();
    let hello = pair.forwarder.session.hello();
    let ahead = Hello { received: hello.received + 100, ..hello.clone() };
    let refused = pair.relay.session.handle_hello(&ahead, pair.now);
    assert!(matches!(refused, Err(SessionError::Acknowledged { .. })), "{refused:?}");
    let mut pair = Pair::new();
    pair.open();
    let hello = pair.forwarder.session.hello();
    let welcome = pair.relay.session.handle_hello(&hello, pair.now).unwrap();
    let ahead = Hello { received: welcome.received + 100, ..welcome.clone() };
    let refused = pair.forwarder.session.handle_welcome(&ahead, pair.now);
    assert!(matches!(refused, Err(SessionError::Acknowledged { .. })), "{refused:?}");
    let gap = Hello { replays_from: hello.received + 1, ..welcome };
    let refused = pair.forwarder.session.handle_welcome(&gap, pair.now);
    let (replays_from, received) = (hello.received + 1, hello.received);
    assert_eq!(refused, Err(SessionError::Gap { replays_from, received }));
}

/// A relay that knows no session begins another: the forwarder's flows are gone, and new ones work.
#[test]
fn an_unknown_session_is_started_anew() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.forwarder.write(flow, b"of the old session");
    pair.lose();
    pair.relay = End::with_id(Side::Relay, SessionId([8; 16]));
    assert_eq!(pair.greet(), Ok(Greeted::Started));
    assert_eq!((pair.forwarder.session.flows(), pair.relay.session.flows()), (0, 0));
    assert_eq!(pair.forwarder.session.id(), pair.relay.session.id());
    pair.exchange();
    pair.forwarder.events.clear();
    let flow = pair.open();
    pair.forwarder.write(flow, b"of the new one");
    pair.exchange();
    assert_eq!(pair.relay.delivered[&flow], b"of the new one");
}

/// A socket that takes, late, what an older session brought disturbs neither the grant nor a flow
/// of the new session under the same id.
#[test]
fn what_is_taken_late_of_an_older_session_does_no_harm() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.forwarder.stalled = true;
    pair.relay.write(flow, &[1; 50_000]);
    pair.exchange();
    pair.lose();
    pair.relay = End::with_id(Side::Relay, SessionId([8; 16]));
    assert_eq!(pair.greet(), Ok(Greeted::Started));
    pair.exchange();
    pair.forwarder.events.clear();
    assert_eq!(pair.open(), flow);
    pair.forwarder.take_what_waits(pair.now);
    assert_eq!(pair.forwarder.session.bytes_waiting(), 0);
    pair.relay.write(flow, &[2; 50_000]);
    pair.exchange();
    assert_eq!(pair.forwarder.session.bytes_waiting(), 0);
    assert!(pair.relay.session.room(flow) > 0);
}

/// A carrier that is lost in the middle of a replay leaves the rest, and the new, for the next.
#[test]
fn a_replay_survives_the_loss_of_its_carrier() {
    let mut pair = Pair::new();
    let flow = pair.open();
    let sent: Vec<u8> = (0..240_000_u32).map(|n| (n >> 8) as u8 ^ n as u8).collect();
    assert_eq!(pair.relay.write(flow, &sent[..200_000]), 200_000);
    pair.relay.transmit(pair.now);
    for n in 0..12 {
        pair.lose();
        assert_eq!(pair.greet(), Ok(Greeted::Resumed));
        // Two of the records that are replayed arrive, the others are lost on the way.
        let records = pair.relay.transmit_up_to(3 * RECORD_MAX, pair.now);
        records.into_iter().take(2).for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
        pair.relay.write(flow, &sent[200_000 + n * 1_000..200_000 + (n + 1) * 1_000]);
    }
    assert!(pair.forwarder.delivered[&flow].len() < sent.len() - 40_000);
    pair.relay.write(flow, &sent[212_000..]);
    pair.lose();
    assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    pair.exchange();
    assert!(pair.forwarder.delivered[&flow] == sent);
}

/// Fifty carriers, one after the other, each cut with something under way.
#[test]
fn fifty_resumes_in_a_row_lose_nothing() {
    let mut pair = Pair::new();
    let flow = pair.open();
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for n in 0..50_u8 {
        let (more, answer) = ([n; 3_000], [!n; 300]);
        pair.relay.write(flow, &more);
        pair.forwarder.write(flow, &answer);
        down.extend(more);
        up.extend(answer);
        pair.exchange_up_to(usize::from(n) * 70, usize::from(n) * 7);
        pair.lose();
        assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    }
    pair.exchange();
    assert!(pair.forwarder.delivered[&flow] == down);
    assert!(pair.relay.delivered[&flow] == up);
}

/// A session waits for its grace, no shorter and no longer.
#[test]
fn a_session_without_a_carrier_ends_with_its_grace() {
    let mut pair = Pair::new();
    pair.lose();
    for session in [&mut pair.forwarder.session, &mut pair.relay.session] {
        let over = session.poll_timeout();
        assert_eq!(over, pair.now + GRACE);
        assert_eq!(session.handle_timeout(Time(over.0 - 1)), Ok(()));
        assert_eq!(session.handle_timeout(over), Err(SessionError::Grace));
    }
}

/// Without a carrier a bounded number of flows can be opened, and the next one brings them.
#[test]
fn flows_opened_without_a_carrier_are_bounded_and_come_with_the_next() {
    let mut pair = Pair::new();
    pair.lose();
    let relay = &mut pair.relay.session;
    let flows: Vec<_> =
        (0..DETACHED_FLOWS_MAX).map(|_| relay.open_flow(open(), pair.now).unwrap()).collect();
    assert_eq!(relay.open_flow(open(), pair.now), Err(OpenError::Detached));
    // Who gives up makes room, and leaves nothing to be sent.
    flows.iter().for_each(|flow| relay.handle_reset(*flow, ResetReason::Peer));
    assert!(!relay.owes_control());
    let last = relay.open_flow(open(), pair.now).unwrap();
    pair.relay.write(last, b"with the next");
    assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    pair.exchange();
    assert_eq!(pair.forwarder.session.flows(), 1);
    assert_eq!(pair.forwarder.delivered[&last], b"with the next");
}

/// A flow that its share holds back goes on when its reader does, whatever became of the carrier
/// that its `BLOCKED` and `CREDIT` were on.
#[test]
fn a_blocked_flow_goes_on_across_a_resume() {
    for cut in 0..4 {
        let mut pair = Pair::new();
        let (first, flow) = fill_the_grant(&mut pair);
        let written = pair.relay.write(flow, &[3; 400_000]);
        assert_eq!(pair.relay.session.room(flow), 0);
        for step in 0..4 {
            if step == cut {
                pair.relay.transmit(pair.now);
                pair.forwarder.transmit(pair.now);
                pair.lose();
                assert_eq!(pair.greet(), Ok(Greeted::Resumed));
            }
            match step {
                1 => pair.forwarder.take_of(flow, pair.now),
                _ => pair.exchange(),
            }
        }
        let is_awake = (0..20).any(|_| {
            pair.forwarder.take_of(flow, pair.now);
            pair.exchange();
            let readable: Vec<_> =
                std::iter::from_fn(|| pair.relay.session.poll_readable()).collect();
            // Only who is named asks again.
            readable.iter().any(|id| pair.relay.session.room(*id) > 0 && *id == flow)
        });
        assert!(is_awake, "cut at {cut}");
        assert_eq!(pair.forwarder.delivered[&flow].len(), written);
        assert!(!first.contains(&flow));
    }
}

/// Flows that are not read take up more than half of the grant; returns them and one more.
fn fill_the_grant(pair: &mut Pair) -> (Vec<FlowId>, FlowId) {
    pair.forwarder.stalled = true;
    let stalled: Vec<FlowId> = (0..200).map(|_| pair.open()).collect();
    for flow in &stalled {
        pair.relay.write(*flow, &[0; 300_000]);
        pair.exchange();
    }
    (stalled, pair.open())
}

/// An end that was suspended resumes: its clock has leapt, the acknowledgement is yet to be read.
#[test]
fn a_leap_of_the_clock_is_not_taken_for_withheld_acknowledgements() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.relay.write(flow, b"not acknowledged yet");
    pair.relay.transmit(pair.now);
    assert!(pair.relay.session.records_retained() > 0);
    for _ in 0..2 {
        pair.now = pair.now + Duration::from_secs(40);
        assert_eq!(pair.relay.session.handle_timeout(pair.now), Ok(()));
    }
    pair.lose();
    assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&flow], b"not acknowledged yet");
}

/// Before `WELCOME` the timer is not due over and over.
#[test]
fn the_timer_rests_while_the_greeting_is_under_way() {
    let mut forwarder = End::new(Side::Forwarder);
    forwarder.session.hello();
    for looks in 0.. {
        let now = forwarder.session.poll_timeout();
        if now.since(Time(0)) > Duration::from_secs(5) {
            assert!(looks < 10, "{looks} looks");
            return;
        }
        assert_eq!(forwarder.session.handle_timeout(now), Ok(()));
    }
}

/// Doubts that come all the time put off neither the suspicion nor the end of a dead carrier.
#[test]
fn doubts_do_not_keep_a_dead_carrier() {
    let mut pair = Pair::new();
    for _ in 0..30 {
        pair.now = pair.now + SUSPECT_AFTER;
        pair.forwarder.session.handle_doubt(pair.now);
        pair.forwarder.transmit(pair.now);
        assert!(pair.forwarder.session.is_suspect());
        if pair.forwarder.session.handle_timeout(pair.now) == Err(SessionError::Silent) {
            return;
        }
    }
    panic!("a dead carrier was kept for {:?}", pair.now);
}

/// A `POLL` of the older carrier that is lost costs nothing: the next carrier repeats it.
#[test]
fn a_lost_poll_is_said_again() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.relay.write(flow, &[1; 100]);
    let records = pair.relay.transmit_up_to(CARRIER_SEND_MAX, pair.now);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    pair.now = pair.now + 2 * POLL_DELAY;
    assert!(!pair.forwarder.transmit(pair.now).is_empty());
    pair.lose();
    assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    assert_eq!(pair.relay.session.records_retained(), 0);
}

/// What acknowledges more than was ever sent ends the session also between resumes.
#[test]
fn a_poll_beyond_what_was_sent_is_typed_after_a_resume() {
    let mut pair = Pair::new();
    pair.lose();
    pair.greet().unwrap();
    let ahead = encode(&[Frame::Poll(Poll { records: 1_000, bytes: 0 })]);
    let refused = pair.relay.receive_content(&ahead, pair.now);
    assert!(matches!(refused, Err(SessionError::Acknowledged { .. })), "{refused:?}");
}

/// However many small records were lost with a carrier, a send has no more pieces than the kernel
/// takes.
#[test]
fn a_replay_of_small_records_fits_the_kernel() {
    let mut pair = Pair::new();
    let flow = pair.open();
    for _ in 0..3_000 {
        pair.relay.write(flow, &[7; 20]);
        assert!(pair.relay.transmit(pair.now).len() <= CARRIER_SEND_PIECES + 8);
    }
    pair.lose();
    assert_eq!(pair.greet(), Ok(Greeted::Resumed));
    loop {
        let records = pair.relay.transmit(pair.now);
        assert!(records.len() <= CARRIER_SEND_PIECES + 8, "{}", records.len());
        if records.is_empty() {
            break;
        }
        records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    }
    assert_eq!(pair.forwarder.delivered[&flow].len(), 60_000);
}
