//! Flows of datagrams: whole, unaltered, at most once, and never in the way of the rest.

use std::time::Duration;

use adit_proto::frame::{Credit, Datagram};
use adit_proto::limits::{
    CARRIER_SEND_MAX, CONTROL_QUEUED_MAX, DATAGRAM_AGE_MAX, DATAGRAM_COST, DATAGRAM_FLOWS_MAX,
    DATAGRAM_MAX, DATAGRAM_OPENS_QUEUED_MAX, DATAGRAM_SEGMENTS_MAX, DATAGRAMS_QUEUED_MAX,
    DETACHED_FLOWS_MAX, JOIN_TIME_MAX, RECORD_MAX, SESSION_WINDOW,
};
use adit_proto::session::OpenError;

use super::pair::open_udp;
use super::*;

/// A flow of datagrams that the relay opened and the forwarder accepted.
fn pair_with_datagrams() -> (Pair, FlowId) {
    let mut pair = Pair::new();
    let flow = open_datagrams(&mut pair);
    (pair, flow)
}

/// As [`Pair::open`], of datagrams.
pub(crate) fn open_datagrams(pair: &mut Pair) -> FlowId {
    let flow = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    pair.exchange();
    assert!(pair.forwarder.events.contains(&Event::Opened(flow, open_udp())));
    pair.forwarder.session.accept_flow(flow);
    pair.exchange();
    assert!(pair.relay.events.contains(&Event::Accepted(flow)));
    flow
}

/// What came of one flow.
pub(crate) fn received(end: &End, flow: FlowId) -> Vec<&[u8]> {
    let of_flow = end.datagrams.iter().filter(|(id, _)| *id == flow);
    of_flow.map(|(_, datagram)| datagram.as_slice()).collect()
}

/// Datagrams of `len` bytes that can be told apart.
pub(crate) fn numbered(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at) as u8).collect()
}

/// Empty ones, the longest, and those about as long as a record arrive as they were, in order.
#[test]
fn datagrams_of_any_length_arrive_in_order() {
    let (mut pair, flow) = pair_with_datagrams();
    pair.wait(2 * POLL_DELAY);
    let lengths = [0, 1, 16_373, 16_374, 16_375, 16_384, 40_000, DATAGRAM_MAX, 0, 9, DATAGRAM_MAX];
    let sent: Vec<_> =
        lengths.into_iter().enumerate().map(|(number, len)| numbered(number, len)).collect();
    for datagram in &sent {
        pair.relay.session.handle_datagrams(flow, 0, datagram, pair.now);
        pair.forwarder.session.handle_datagrams(flow, 0, datagram, pair.now);
    }
    pair.exchange();
    for end in [&pair.forwarder, &pair.relay] {
        assert_eq!(received(end, flow), sent);
        let counters = end.session.datagram_counters();
        assert_eq!((counters.sent, counters.received), (11, 11));
        assert_eq!(counters.bytes_sent, counters.bytes_received);
        assert_eq!((end.session.datagrams_queued(), end.session.records_retained()), (0, 0));
    }
}

/// A batch is cut only between its datagrams, and keeps their sizes.
#[test]
fn a_batch_stays_a_batch() {
    let (mut pair, flow) = pair_with_datagrams();
    let batch = numbered(1, 30 * 1_400 + 7);
    pair.relay.session.handle_datagrams(flow, 1_400, &batch, pair.now);
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), batch.chunks(1_400).collect::<Vec<_>>());
    let of_batch = |event: &&Event| matches!(event, Event::Datagrams { segment: 1_400, .. });
    assert_eq!(pair.forwarder.events.iter().filter(of_batch).count(), 3);
    // More in one frame than one send takes comes as several.
    let tiny = numbered(2, 5_000);
    pair.relay.session.handle_datagrams(flow, 2, &tiny, pair.now);
    let crafted = Frame::Datagram(flow, Datagram::Whole { segment: 2, payload: &tiny });
    pair.forwarder.receive_content(&encode(&[crafted]), pair.now).unwrap();
    pair.exchange();
    for event in &pair.forwarder.events {
        if let Event::Datagrams { segment, range, .. } = event {
            let batch_max = usize::from(*segment) * DATAGRAM_SEGMENTS_MAX;
            assert!(*segment == 0 || range.len() <= batch_max, "{event:?}");
        }
    }
    assert_eq!(received(&pair.forwarder, flow).len(), 31 + 2 * 2_500);
}

/// A datagram does not wait behind what streams have queued, and its own flow's OPEN goes first.
#[test]
fn datagrams_go_ahead_of_a_bulk_flow() {
    let (mut pair, flow) = pair_with_datagrams();
    let bulk = pair.open();
    assert!(pair.relay.write(bulk, &[1; 200_000]) > 100_000);
    let opening = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    pair.relay.session.handle_datagrams(opening, 0, b"early", pair.now);
    pair.relay.session.handle_datagrams(flow, 0, b"ahead", pair.now);
    pair.forwarder.events.clear();
    let records = pair.relay.transmit(pair.now);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    let first: Vec<_> = pair.forwarder.events.iter().take(4).collect();
    assert!(matches!(first[0], Event::Datagrams { flow: id, .. } if *id == flow), "{first:?}");
    assert!(matches!(first[1], Event::Opened(id, _) if *id == opening), "{first:?}");
    assert!(matches!(first[2], Event::Datagrams { flow: id, .. } if *id == opening), "{first:?}");
    assert!(matches!(first[3], Event::Data(id, _) if *id == bulk), "{first:?}");
}

/// However many datagrams wait, streams get a quarter of each turn but for parts of records, or one
/// record if that is more.
#[test]
fn a_flood_of_datagrams_leaves_streams_their_part() {
    let (mut pair, flow) = pair_with_datagrams();
    let bulk = pair.open();
    for turn_bytes in [RECORD_MAX, 4 * RECORD_MAX, CARRIER_SEND_MAX / 2] {
        pair.relay.write(bulk, &[1; 250_000]);
        for number in 0..500 {
            pair.relay.session.handle_datagrams(flow, 0, &numbered(number, 1_200), pair.now);
        }
        let before = pair.relay.session.counters().bytes_sent;
        let of_datagrams = pair.relay.session.datagram_counters().bytes_sent;
        let records = pair.relay.transmit_up_to(turn_bytes, pair.now);
        let streams = pair.relay.session.counters().bytes_sent - before;
        assert!(streams as usize >= (turn_bytes / 4).saturating_sub(2 * RECORD_MAX), "{streams}");
        assert!(streams > 0);
        assert!(pair.relay.session.datagram_counters().bytes_sent > of_datagrams);
        records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
        pair.exchange();
    }
}

/// A session whose streams may send no more still sends datagrams, as many as the turn takes.
#[test]
fn datagrams_need_no_grant() {
    let (mut pair, flow) = pair_with_datagrams();
    shares::exhaust(&mut pair);
    assert_eq!(pair.relay.session.counters().bytes_sent, SESSION_WINDOW);
    for number in 0..200 {
        pair.relay.session.handle_datagrams(flow, 0, &numbered(number, 1_000), pair.now);
    }
    let records = pair.relay.transmit(pair.now);
    assert_eq!(pair.relay.session.datagrams_queued(), 0);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    assert_eq!(received(&pair.forwarder, flow).len(), 200);
}

/// What cannot be sent is dropped, the oldest first, and each cause has its count.
#[test]
fn each_drop_is_counted_with_its_cause() {
    let (mut pair, flow) = pair_with_datagrams();
    let counters = |pair: &Pair| pair.relay.session.datagram_counters();
    let queued_max = DATAGRAMS_QUEUED_MAX / (1_000 + DATAGRAM_COST);
    for number in 0..queued_max + 10 {
        pair.relay.session.handle_datagrams(flow, 0, &numbered(number, 1_000), pair.now);
    }
    assert_eq!(pair.relay.session.datagrams_queued(), queued_max);
    assert_eq!(counters(&pair).dropped_overflow, 10);
    pair.now = pair.now + DATAGRAM_AGE_MAX + Duration::from_millis(1);
    pair.relay.session.handle_datagrams(flow, 0, b"new", pair.now);
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), [b"new"]);
    let aged = counters(&pair).dropped_aged as usize;
    assert_eq!(aged + counters(&pair).dropped_overflow as usize, queued_max + 10);
    pair.relay.session.handle_datagrams(flow, 0, &[0; DATAGRAM_MAX + 1], pair.now);
    assert_eq!(counters(&pair).dropped_oversize, 1);
    pair.relay.session.handle_datagrams(flow, 2, b"aabbc", pair.now);
    pair.relay.session.handle_reset(flow, ResetReason::Peer);
    pair.relay.session.handle_datagrams(flow, 0, b"late", pair.now);
    pair.forwarder.session.handle_datagrams(flow, 2, b"aabbc", pair.now);
    pair.exchange();
    assert_eq!(counters(&pair).dropped_ended, 4);
    assert_eq!(counters(&pair).dropped_unknown, 3);
    assert_eq!(counters(&pair).sent, 1);
    assert_eq!((pair.relay.session.flows(), pair.forwarder.session.flows()), (0, 0));
}

/// Empty datagrams take up room in the queue like others.
#[test]
fn empty_datagrams_are_bounded_too() {
    let (mut pair, flow) = pair_with_datagrams();
    for _ in 0..DATAGRAMS_QUEUED_MAX / DATAGRAM_COST + 5 {
        pair.relay.session.handle_datagrams(flow, 0, b"", pair.now);
    }
    assert_eq!(pair.relay.session.datagrams_queued(), DATAGRAMS_QUEUED_MAX / DATAGRAM_COST);
    assert_eq!(pair.relay.session.datagram_counters().dropped_overflow, 5);
}

/// A datagram of which a part is lost with its carrier is dropped whole, and counted.
#[test]
fn a_datagram_without_all_its_parts_is_dropped() {
    let (mut pair, flow) = pair_with_datagrams();
    pair.relay.session.handle_datagrams(flow, 0, &numbered(1, 40_000), pair.now);
    let records = pair.relay.transmit_up_to(RECORD_MAX, pair.now);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    drop(pair.relay.transmit_up_to(RECORD_MAX, pair.now));
    pair.lose();
    pair.greet().unwrap();
    pair.relay.session.handle_datagrams(flow, 0, &numbered(2, 40_000), pair.now);
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), [numbered(2, 40_000)]);
    pair.wait(JOIN_TIME_MAX + Duration::from_millis(1));
    assert_eq!(pair.forwarder.session.datagram_counters().dropped_incomplete, 1);
}

/// Neither protocol's frames may name a flow of the other.
#[test]
fn a_flow_of_the_wrong_protocol_ends_the_session() {
    let flow = FlowId(2);
    let credit = Credit { limit: 1, taken: 0 };
    let datagram = Datagram::Whole { segment: 0, payload: b"x" };
    let wrong = Err(SessionError::WrongProtocol(flow));
    for frame in [
        Frame::Data(flow, b"x"),
        Frame::Fin(flow),
        Frame::Credit(flow, credit),
        Frame::Blocked(flow),
    ] {
        assert_eq!(forwarder_hears(&[Frame::Open(flow, open_udp()), frame]), wrong);
    }
    let mut pair = Pair::new();
    let flow = pair.open();
    let content = encode(&[Frame::Datagram(flow, datagram)]);
    assert_eq!(pair.forwarder.receive_content(&content, pair.now), wrong);
    let taken = [Frame::Open(flow, open_udp()), Frame::Open(flow, open())];
    assert_eq!(forwarder_hears(&taken), Err(SessionError::FlowTaken(flow)));
}

/// Sources that flood the relay while the carrier takes nothing end neither the session nor what
/// streams may open.
#[test]
fn a_flood_of_sources_does_not_end_the_session() {
    let mut pair = Pair::new();
    let mut refused = 0;
    for _ in 0..2 * CONTROL_QUEUED_MAX {
        match pair.relay.session.open_flow(open_udp(), pair.now) {
            Ok(flow) => {
                pair.relay.session.handle_datagrams(flow, 0, b"flood", pair.now);
                pair.relay.session.handle_reset(flow, ResetReason::Limit);
            }
            Err(error) => {
                assert_eq!(error, OpenError::Limit);
                refused += 1;
            }
        }
    }
    assert!(refused >= 2 * CONTROL_QUEUED_MAX - DATAGRAM_OPENS_QUEUED_MAX);
    assert!(pair.relay.session.open_flow(open(), pair.now).is_ok());
    pair.exchange();
    assert_eq!((pair.relay.session.flows(), pair.forwarder.session.flows()), (1, 1));
}

/// As many sources as there are leave room for streams.
#[test]
fn datagram_flows_leave_room_for_streams() {
    let mut pair = Pair::new();
    let mut opened = 0;
    while pair.relay.session.open_flow(open_udp(), pair.now).is_ok() {
        opened += 1;
        if opened % 10_000 == 0 {
            pair.exchange();
        }
    }
    assert_eq!(opened, DATAGRAM_FLOWS_MAX);
    assert!(pair.relay.session.open_flow(open(), pair.now).is_ok());
    pair.exchange();
    assert_eq!(pair.forwarder.session.flows(), DATAGRAM_FLOWS_MAX + 1);
}

/// On a line so narrow that a turn is one record, each kind still gets its part.
#[test]
fn a_turn_of_one_record_starves_nobody() {
    let (mut pair, flow) = pair_with_datagrams();
    let bulk = pair.open();
    pair.relay.write(bulk, &[1; 200_000]);
    let opening = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    for number in 0..10 {
        pair.relay.session.handle_datagrams(flow, 0, &numbered(number, 100), pair.now);
        pair.relay.session.handle_datagrams(opening, 0, &numbered(number, 100), pair.now);
        let before = pair.relay.session.counters().bytes_sent;
        let records = pair.relay.transmit_up_to(RECORD_MAX, pair.now);
        assert!(pair.relay.session.counters().bytes_sent > before);
        records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
        assert_eq!(received(&pair.forwarder, flow).len(), number + 1);
        assert_eq!(received(&pair.forwarder, opening).len(), number + 1);
    }
}

/// Room that is made for datagrams lets no stream go ahead of its own OPEN, which had none.
#[test]
fn no_stream_overtakes_its_open() {
    let mut pair = Pair::new();
    let first = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    pair.relay.session.handle_datagrams(first, 0, b"x", pair.now);
    for _ in 0..2_000 {
        pair.relay.session.open_flow(open(), pair.now).unwrap();
    }
    let flow = pair.relay.session.open_flow(open(), pair.now).unwrap();
    pair.relay.write(flow, b"behind its OPEN");
    for _ in 0..10 {
        let records = pair.relay.transmit_up_to(RECORD_MAX, pair.now);
        records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    }
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&flow], b"behind its OPEN");
    assert_eq!(received(&pair.forwarder, first), [b"x"]);
}

/// A flow that is opened in an outage is heard of with the next carrier, one that is reset before
/// never is; what is still young goes behind its OPEN.
#[test]
fn flows_open_during_an_outage() {
    let (mut pair, before) = pair_with_datagrams();
    pair.lose();
    let open_flow = |pair: &mut Pair| pair.relay.session.open_flow(open_udp(), pair.now);
    let (flow, gone) = (open_flow(&mut pair).unwrap(), open_flow(&mut pair).unwrap());
    pair.relay.session.handle_datagrams(gone, 0, b"gone", pair.now);
    pair.relay.session.handle_reset(gone, ResetReason::Peer);
    pair.relay.session.handle_datagrams(flow, 0, b"old", pair.now);
    pair.now = pair.now + DATAGRAM_AGE_MAX + Duration::from_millis(1);
    pair.relay.session.handle_datagrams(flow, 0, b"young", pair.now);
    pair.relay.session.handle_datagrams(before, 0, b"ahead", pair.now);
    assert!(pair.relay.transmit(pair.now).is_empty());
    for _ in 1..DETACHED_FLOWS_MAX / 2 {
        open_flow(&mut pair).unwrap();
    }
    assert_eq!(open_flow(&mut pair), Err(OpenError::Detached));
    pair.greet().unwrap();
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), [b"young"]);
    assert_eq!(received(&pair.forwarder, before), [b"ahead"]);
    assert!(!pair.forwarder.events.contains(&Event::Opened(gone, open_udp())));
    assert_eq!(pair.forwarder.session.flows(), DETACHED_FLOWS_MAX / 2 + 1);
    assert_eq!(pair.relay.session.datagram_counters().dropped_aged, 1);
    assert!(open_flow(&mut pair).is_ok());
}

/// What waits when ACCEPT comes stays ahead of what comes after.
#[test]
fn acceptance_does_not_reorder() {
    let mut pair = Pair::new();
    let flow = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    let blocked = pair.relay.session.open_flow(open_udp(), pair.now).unwrap();
    let records = pair.relay.transmit(pair.now);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    pair.relay.session.handle_datagrams(blocked, 0, b"other", pair.now);
    pair.relay.session.handle_datagrams(flow, 0, b"1", pair.now);
    pair.forwarder.session.accept_flow(flow);
    let records = pair.forwarder.transmit(pair.now);
    records.into_iter().for_each(|r| pair.relay.receive(r, pair.now).unwrap());
    pair.relay.session.handle_datagrams(flow, 0, b"2", pair.now);
    pair.exchange();
    pair.relay.session.handle_datagrams(flow, 0, b"3", pair.now);
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), [b"1", b"2", b"3"]);
    assert_eq!(received(&pair.forwarder, blocked), [b"other"]);
}

/// The end of a session takes its datagrams and their flows with it.
#[test]
fn a_closed_session_sends_no_datagrams() {
    let (mut pair, flow) = pair_with_datagrams();
    pair.relay.session.handle_datagrams(flow, 0, b"x", pair.now);
    pair.relay.session.handle_close(adit_proto::frame::GoawayReason::Ending, "");
    assert_eq!((pair.relay.session.flows(), pair.relay.session.datagrams_queued()), (0, 0));
    pair.exchange();
    assert_eq!(received(&pair.forwarder, flow), [b""; 0]);
}

/// One thing that a test of chance does.
#[derive(Clone, Debug)]
enum Step {
    Send { from_relay: bool, flow: usize, segment: usize, len: usize },
    Turn { bytes: usize },
    Outage,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..40_usize, 0..3_000_usize, 16_300..16_400_usize, 0..=DATAGRAM_MAX];
    let segment = prop_oneof![Just(0_usize), 1..2_000_usize];
    prop_oneof![
        8 => (any::<bool>(), 0..3_usize, segment, len).prop_map(
            |(from_relay, flow, segment, len)| Step::Send { from_relay, flow, segment, len }
        ),
        3 => (1..4 * RECORD_MAX).prop_map(|bytes| Step::Turn { bytes }),
        1 => Just(Step::Outage),
    ]
}

/// Whether `got` is `sent` with some left out.
pub(crate) fn is_subsequence(got: &[&[u8]], sent: &[Vec<u8>]) -> bool {
    let mut sent = sent.iter();
    got.iter().all(|datagram| sent.any(|known| known == datagram))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is handed in comes out whole, unaltered, at most once and in order, and nothing is
    /// missing that was not counted or lost with a carrier.
    #[test]
    fn datagrams_come_out_as_they_went_in(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        let flows: Vec<_> =
            (0..3).map(|_| pair.relay.session.open_flow(open_udp(), pair.now).unwrap()).collect();
        let mut sent = vec![[Vec::new(), Vec::new()]; 3];
        let mut outages = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { from_relay, flow, segment, len } => {
                    let payload = numbered(number, len);
                    let end = if from_relay { &mut pair.relay } else { &mut pair.forwarder };
                    if !from_relay && !end.events.iter().any(
                        |event| matches!(event, Event::Opened(id, _) if *id == flows[flow])
                    ) {
                        continue;
                    }
                    end.session.handle_datagrams(flows[flow], segment, &payload, pair.now);
                    let size = if segment == 0 { len.max(1) } else { segment };
                    let each: Vec<_> = payload.chunks(size).map(<[u8]>::to_vec).collect();
                    let each = if len == 0 { vec![Vec::new()] } else { each };
                    sent[flow][usize::from(from_relay)].extend(each);
                }
                Step::Turn { bytes } => {
                    for record in pair.relay.transmit_up_to(bytes, pair.now) {
                        pair.forwarder.receive(record, pair.now).unwrap();
                    }
                    for record in pair.forwarder.transmit_up_to(bytes, pair.now) {
                        pair.relay.receive(record, pair.now).unwrap();
                    }
                    pair.forwarder.session.accept_flow(flows[number % 3]);
                }
                Step::Outage => {
                    outages += 1;
                    drop(pair.relay.transmit_up_to(RECORD_MAX, pair.now));
                    pair.lose();
                    pair.greet().unwrap();
                }
            }
        }
        pair.exchange();
        for (index, flow) in flows.iter().enumerate() {
            for (end, way) in [(&pair.relay, 0), (&pair.forwarder, 1)] {
                let got = received(end, *flow);
                prop_assert!(is_subsequence(&got, &sent[index][way]));
            }
        }
        let overflow = [&pair.relay, &pair.forwarder]
            .map(|end| end.session.datagram_counters().dropped_overflow);
        if outages == 0 && overflow == [0, 0] {
            let all: usize = sent.iter().flatten().map(Vec::len).sum();
            prop_assert_eq!(pair.relay.datagrams.len() + pair.forwarder.datagrams.len(), all);
        }
    }
}
