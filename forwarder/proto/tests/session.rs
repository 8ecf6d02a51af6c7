//! Two sessions, a carrier that loses nothing, and a clock that the test moves.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test may panic, and is no interface"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use adit_proto::frame::{Frame, FrameError, Kind, Poll, ResetReason};
use adit_proto::id::{FlowId, SessionId, Side, Time};
use adit_proto::limits::{FLOW_WINDOW, PAYLOAD_MAX, POLL_DELAY, VERSION};
use adit_proto::session::{Event, SessionError, parse_greeting};
use proptest::prelude::*;

#[path = "session/corpus.rs"]
mod corpus;
#[path = "session/datagrams.rs"]
mod datagrams;
#[path = "session/futile.rs"]
mod futile;
#[path = "session/keys.rs"]
mod keys;
#[path = "session/mutants.rs"]
mod mutants;
#[path = "session/pair.rs"]
mod pair;
#[path = "session/paths.rs"]
mod paths;
#[path = "session/polls.rs"]
mod polls;
#[path = "session/resume.rs"]
mod resume;
#[path = "session/shares.rs"]
mod shares;

use corpus::encode;
use keys::chunk;
use pair::{End, Pair, open};

/// A fresh forwarder hears what `frames` say.
fn forwarder_hears(frames: &[Frame<'_>]) -> Result<(), SessionError> {
    let mut pair = Pair::new();
    pair.forwarder.receive_content(&encode(frames), pair.now)
}

/// A greeting of another version is refused before it concerns any session.
#[test]
fn another_version_is_refused() {
    let mut hello = End::new(Side::Forwarder).session.hello();
    hello.version += 1;
    let read = parse_greeting(&encode(&[Frame::Hello(hello)]), Side::Forwarder);
    assert_eq!(read, Err(SessionError::Version(VERSION + 1)));
}

/// The first record of a carrier is a greeting, whole and alone.
#[test]
fn nothing_but_a_greeting_opens_a_carrier() {
    let hello = End::new(Side::Forwarder).session.hello();
    let greets = |frames: &[Frame<'_>]| parse_greeting(&encode(frames), Side::Forwarder);
    assert_eq!(greets(&[Frame::Hello(hello.clone())]), Ok(hello.clone()));
    let early = greets(&[Frame::Data(FlowId(1), b"x")]);
    assert_eq!(early, Err(SessionError::Unexpected(Kind::Data)));
    let more = greets(&[Frame::Hello(hello.clone()), Frame::Ping(1)]);
    assert_eq!(more, Err(SessionError::Unexpected(Kind::Ping)));
    let wrong_way = greets(&[Frame::Welcome(hello)]);
    assert_eq!(wrong_way, Err(SessionError::Unexpected(Kind::Welcome)));
    assert_eq!(greets(&[]), Err(FrameError::Truncated.into()));
}

/// Each way of breaking the protocol has its own typed end.
#[test]
fn each_breach_is_typed() {
    let flow = FlowId(2);
    let opened = || Frame::Open(flow, open());
    let mixed = [Frame::Ping(1), Frame::Accept(flow)];
    assert_eq!(forwarder_hears(&mixed), Err(SessionError::Mixed));
    let ahead = [Frame::Poll(Poll { records: 1_000, bytes: 0 })];
    assert!(matches!(forwarder_hears(&ahead), Err(SessionError::Acknowledged { .. })));
    assert_eq!(forwarder_hears(&[opened(), opened()]), Err(SessionError::FlowTaken(flow)));
    let ours = Frame::Open(FlowId(1), open());
    assert_eq!(forwarder_hears(&[ours]), Err(SessionError::FlowTaken(FlowId(1))));
    let late = [opened(), Frame::Fin(flow), Frame::Data(flow, b"x")];
    assert_eq!(forwarder_hears(&late), Err(SessionError::Credit(flow)));
    let twice = [opened(), Frame::Fin(flow), Frame::Fin(flow)];
    assert_eq!(forwarder_hears(&twice), Err(SessionError::Unexpected(Kind::Fin)));
    let unknown = [Frame::Data(FlowId(40), b"x"), Frame::Reset(FlowId(40), ResetReason::Peer)];
    assert_eq!(forwarder_hears(&unknown), Ok(()));
}

/// A flow that goes past its credit ends the session, whatever its records look like.
#[test]
fn a_flow_beyond_its_credit_is_found_out() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.forwarder.stalled = true;
    let payload = vec![0; 16_000];
    let content = encode(&[Frame::Data(flow, &payload)]);
    let records = usize::try_from(FLOW_WINDOW).unwrap() / payload.len();
    for _ in 0..records {
        pair.forwarder.receive_content(&content, pair.now).unwrap();
    }
    let beyond = pair.forwarder.receive_content(&content, pair.now);
    assert_eq!(beyond, Err(SessionError::Credit(flow)));
}

/// Records are kept until acknowledged, and let go of soon after the line goes quiet.
#[test]
fn retention_ends_with_the_acknowledgement() {
    let mut pair = Pair::new();
    let flow = pair.open();
    assert_eq!(pair.relay.write(flow, &[1; 100]), 100);
    pair.exchange();
    assert!(pair.relay.session.records_retained() > 0);
    pair.wait(2 * POLL_DELAY);
    assert_eq!(pair.relay.session.records_retained(), 0);
    assert_eq!(pair.forwarder.session.records_retained(), 0);
}

/// Each direction ends by itself, and with both the flow is forgotten.
#[test]
fn half_close_works_both_ways() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.relay.write(flow, b"request");
    pair.relay.session.handle_end(flow);
    pair.exchange();
    assert!(pair.forwarder.events.contains(&Event::Finished(flow)));
    pair.forwarder.write(flow, b"answer");
    pair.forwarder.session.handle_end(flow);
    pair.exchange();
    assert_eq!(pair.relay.delivered[&flow], b"answer");
    assert!(pair.relay.events.contains(&Event::Finished(flow)));
    assert_eq!((pair.relay.session.flows(), pair.forwarder.session.flows()), (0, 0));
}

/// A reset at one end is one at the other, at once, whatever waits.
#[test]
fn a_reset_crosses_and_drops_what_waits() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.relay.write(flow, &[9; 100_000]);
    pair.relay.session.handle_reset(flow, ResetReason::Peer);
    pair.exchange();
    assert!(pair.forwarder.events.contains(&Event::Reset(flow, ResetReason::Peer)));
    assert_eq!((pair.relay.session.flows(), pair.forwarder.session.flows()), (0, 0));
}

/// A socket that takes nothing stops its own sender at the credit, and no other flow.
#[test]
fn a_stalled_flow_stops_only_its_own_sender() {
    let mut pair = Pair::new();
    let (stalled, other) = (pair.open(), pair.open());
    pair.forwarder.stalled = true;
    let mut written = 0;
    for _ in 0..100 {
        written += pair.relay.write(stalled, &[0; 100_000]);
        pair.exchange();
    }
    assert!(written as u64 <= FLOW_WINDOW);
    assert_eq!(pair.relay.session.room(stalled), 0);
    assert_eq!(pair.relay.write(other, &[1; 1000]), 1000);
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&other], [1; 1000]);
    pair.forwarder.take_what_waits(pair.now);
    pair.exchange();
    assert_eq!(pair.relay.session.poll_readable(), Some(stalled));
    assert!(pair.relay.session.room(stalled) > 0);
}

/// An idle session keeps itself alive and knows its round trip.
#[test]
fn an_idle_session_lives_on() {
    let mut pair = Pair::new();
    for _ in 0..1000 {
        pair.wait(Duration::from_secs(1));
    }
    assert_eq!(pair.relay.session.round_trip(), Duration::from_millis(2));
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Write { flow: usize, len: usize, from_relay: bool },
    End { flow: usize, at_relay: bool },
    Stall(bool),
    Take,
    Exchange,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Open),
        (any::<usize>(), 1_usize..60_000, any::<bool>())
            .prop_map(|(flow, len, from_relay)| Step::Write { flow, len, from_relay }),
        (any::<usize>(), any::<bool>()).prop_map(|(flow, at_relay)| Step::End { flow, at_relay }),
        any::<bool>().prop_map(Step::Stall),
        Just(Step::Take),
        Just(Step::Exchange),
        (1_u64..2_000).prop_map(Step::Wait),
    ]
}

/// What a model of the flows expects.
#[derive(Default)]
struct Expected {
    flows: Vec<FlowId>,
    sent: BTreeMap<(FlowId, bool), Vec<u8>>,
    ended: BTreeMap<(FlowId, bool), bool>,
}

fn run(pair: &mut Pair, expected: &mut Expected, step: Step, filler: u8) {
    match step {
        Step::Open => {
            let flow = pair.open();
            expected.flows.push(flow);
        }
        Step::Write { flow, len, from_relay } => {
            let Some(&flow) = expected.flows.get(flow % expected.flows.len().max(1)) else {
                return;
            };
            if expected.ended.contains_key(&(flow, from_relay)) {
                return;
            }
            let end = if from_relay { &mut pair.relay } else { &mut pair.forwarder };
            let bytes: Vec<u8> = (0..len).map(|n| filler.wrapping_add(n as u8)).collect();
            let written = end.write(flow, &bytes);
            expected.sent.entry((flow, from_relay)).or_default().extend(&bytes[..written]);
        }
        Step::End { flow, at_relay } => {
            let Some(&flow) = expected.flows.get(flow % expected.flows.len().max(1)) else {
                return;
            };
            let end = if at_relay { &mut pair.relay } else { &mut pair.forwarder };
            end.session.handle_end(flow);
            expected.ended.insert((flow, at_relay), true);
        }
        Step::Stall(at_relay) => {
            let end = if at_relay { &mut pair.relay } else { &mut pair.forwarder };
            end.stalled = true;
        }
        Step::Take => {
            pair.relay.take_what_waits(pair.now);
            pair.forwarder.take_what_waits(pair.now);
        }
        Step::Exchange => pair.exchange(),
        Step::Wait(ms) => pair.wait(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written in whatever order, each flow delivers exactly that, in order, and
    /// nothing is left over once everybody has ended.
    #[test]
    fn every_flow_delivers_what_was_sent(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        let mut expected = Expected::default();
        for (n, step) in steps.into_iter().enumerate() {
            run(&mut pair, &mut expected, step, n as u8);
        }
        run(&mut pair, &mut expected, Step::Take, 0);
        for flow in expected.flows.clone() {
            pair.relay.session.handle_end(flow);
            pair.forwarder.session.handle_end(flow);
        }
        pair.exchange();
        pair.wait(2 * POLL_DELAY);
        for ((flow, from_relay), sent) in expected.sent {
            let end = if from_relay { &pair.forwarder } else { &pair.relay };
            prop_assert_eq!(end.delivered.get(&flow).map_or(&[][..], |d| d), &sent[..]);
        }
        for end in [&pair.relay, &pair.forwarder] {
            prop_assert_eq!(end.session.flows(), 0);
            prop_assert_eq!(end.session.records_retained(), 0);
            prop_assert_eq!(end.session.bytes_waiting(), 0);
        }
    }

    /// Content from a hostile peer is an error or events, never a panic.
    #[test]
    fn hostile_content_never_panics(content in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let mut pair = Pair::new();
        pair.forwarder.receive_content(&content, pair.now).ok();
    }
}

/// What was read beyond the credit is not sent before the credit comes, and then is; the end waits
/// for it too.
#[test]
fn what_was_read_beyond_the_credit_waits_for_it() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.forwarder.stalled = true;
    let parts = usize::try_from(FLOW_WINDOW).unwrap() / PAYLOAD_MAX + 8;
    (0..parts).for_each(|_| pair.relay.session.handle_input(flow, chunk(&[5; PAYLOAD_MAX])));
    pair.relay.session.handle_end(flow);
    pair.exchange();
    assert!(pair.forwarder.delivered[&flow].len() as u64 <= FLOW_WINDOW);
    assert!(!pair.forwarder.events.contains(&Event::Finished(flow)));
    pair.forwarder.take_what_waits(pair.now);
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&flow].len(), parts * PAYLOAD_MAX);
    assert_eq!(pair.forwarder.events.last(), Some(&Event::Finished(flow)));
}

/// Hundreds of flows that nobody reads leave room in the grant for one that is read.
#[test]
fn stalled_flows_leave_room_for_the_others() {
    let mut pair = Pair::new();
    let stalled: Vec<FlowId> = (0..400).map(|_| pair.open()).collect();
    let live = pair.open();
    pair.forwarder.stalled = true;
    for flow in stalled {
        pair.relay.write(flow, &[0; 300_000]);
        pair.exchange();
    }
    // What comes for the live flow is taken, whatever waits for the others.
    let sent = [7; 400_000];
    let mut written = 0;
    for _ in 0..1000 {
        written += pair.relay.write(live, &sent[written..]);
        pair.exchange();
        if let Some(len) = pair.forwarder.untaken.remove(&live) {
            pair.forwarder.session.handle_taken(live, len, pair.now);
        }
        pair.wait(POLL_DELAY);
    }
    assert_eq!(pair.forwarder.delivered[&live].len(), sent.len());
}

/// An empty DATA frame costs no credit, so it is refused.
#[test]
fn empty_data_is_refused() {
    let empty = [Frame::Open(FlowId(2), open()), Frame::Data(FlowId(2), b"")];
    let malformed = FrameError::Malformed(Kind::Data);
    assert_eq!(forwarder_hears(&empty), Err(SessionError::Frame(malformed)));
}

/// An end that answers probes and never acknowledges does not hold the other's memory for ever.
#[test]
fn withheld_acknowledgements_end_the_session() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.wait(2 * POLL_DELAY);
    pair.relay.write(flow, b"never acknowledged");
    pair.relay.transmit(pair.now);
    let mut ended = None;
    for _ in 0..60 {
        pair.now = pair.now + Duration::from_secs(1);
        // Some record arrives all the time, so the probes are not missed.
        pair.relay.receive_content(&encode(&[Frame::Ping(1)]), pair.now).unwrap();
        if let Err(error) = pair.relay.session.handle_timeout(pair.now) {
            ended.get_or_insert(error);
        }
        pair.relay.transmit(pair.now);
    }
    assert_eq!(ended, Some(SessionError::Unacknowledged));
}
