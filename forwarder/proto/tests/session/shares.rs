//! The grant is shared: who is not read, or gone, holds up nobody else.

use adit_proto::limits::{CARRIER_SEND_SHARED_MAX, RECORD_MAX, SESSION_WINDOW, SHARED_FOR};

use super::*;

/// Ten thousand flows that nobody reads stay within the grant, and one that is read moves beside
/// them.
#[test]
fn ten_thousand_stalled_flows_leave_one_that_is_read_moving() {
    let mut pair = Pair::new();
    pair.forwarder.stalled = true;
    let payload = vec![0; 300_000];
    for _ in 0..10_000 {
        let flow = pair.relay.session.open_flow(open(), pair.now).unwrap();
        pair.relay.write(flow, &payload);
        pair.exchange();
        pair.forwarder.delivered.clear();
    }
    let waiting = pair.forwarder.session.bytes_waiting();
    assert!(waiting < SESSION_WINDOW, "{waiting} bytes wait");
    let live = pair.relay.session.open_flow(open(), pair.now).unwrap();
    let (mut written, mut rounds) = (0, 0);
    while written < 8 << 20 && rounds < 2_000 {
        rounds += 1;
        written += pair.relay.write(live, &payload);
        pair.exchange();
        pair.forwarder.take_of(live, pair.now);
        pair.exchange();
    }
    pair.exchange();
    assert_eq!(pair.forwarder.delivered[&live].len(), written);
    assert!(rounds < 1_000, "{written} bytes took {rounds} rounds");
}

/// A reader that keeps up gets a window that fits it, though others hold more than half of the grant.
#[test]
fn a_window_grows_beside_what_waits() {
    let mut pair = Pair::new();
    pair.forwarder.stalled = true;
    while pair.forwarder.session.bytes_waiting() < SESSION_WINDOW / 8 * 5 {
        let flow = pair.open();
        for _ in 0..FLOW_WINDOW / PAYLOAD_MAX as u64 {
            pair.relay.session.handle_input(flow, chunk(&vec![0; PAYLOAD_MAX]));
        }
        pair.exchange();
    }
    let (live, window) = (pair.open(), usize::try_from(FLOW_WINDOW).unwrap());
    let payload = vec![0; 2 * window];
    let mut written = 0;
    for _ in 0..2_000 {
        written = pair.relay.write(live, &payload);
        // The first window is no whole number of full payloads.
        let rest = window.saturating_sub(written);
        if rest > 0 && rest < PAYLOAD_MAX {
            pair.relay.session.handle_input(live, chunk(&vec![0; rest]));
        }
        pair.exchange();
        pair.forwarder.take_of(live, pair.now);
        pair.exchange();
    }
    assert!(written > window, "{written} bytes fit into the window");
}

/// Takes up all of the grant with flows that are not read; returns them.
pub(super) fn exhaust(pair: &mut Pair) -> Vec<FlowId> {
    pair.forwarder.stalled = true;
    let mut stalled = Vec::new();
    let mut left = SESSION_WINDOW;
    // A kernel may fill more buffers than it was asked to.
    while left > 0 {
        let flow = pair.open();
        for _ in 0..FLOW_WINDOW / PAYLOAD_MAX as u64 {
            let len = left.min(PAYLOAD_MAX as u64);
            if len > 0 {
                pair.relay.session.handle_input(flow, chunk(&vec![0; len as usize]));
            }
            left -= len;
        }
        pair.exchange();
        stalled.push(flow);
    }
    assert_eq!(pair.forwarder.session.bytes_waiting(), SESSION_WINDOW);
    stalled
}

/// Which of `flows` may be read again, all that are asked to try having nothing to say.
fn woken(pair: &mut Pair, flows: &[FlowId]) -> usize {
    let mut awake = std::collections::BTreeSet::new();
    for _ in 0..400 {
        while let Some(flow) = pair.relay.session.poll_readable() {
            if flows.contains(&flow) && pair.relay.session.room(flow) > 0 {
                awake.insert(flow);
            }
        }
        pair.wait(POLL_DELAY);
    }
    awake.len()
}

/// Flows that found the grant taken up are all woken when it is not, though those woken first
/// have nothing to say and move nothing.
#[test]
fn every_flow_wakes_when_the_grant_comes_back() {
    let mut pair = Pair::new();
    exhaust(&mut pair);
    let waiting: Vec<FlowId> = (0..300).map(|_| pair.open()).collect();
    waiting.iter().for_each(|flow| assert_eq!(pair.relay.session.room(*flow), 0));
    pair.forwarder.take_what_waits(pair.now);
    pair.exchange();
    assert_eq!(woken(&mut pair, &waiting), waiting.len());
}

/// Nor do flows that are gone stand before them.
#[test]
fn flows_that_are_gone_take_no_turn_at_the_grant() {
    let mut pair = Pair::new();
    let stalled = exhaust(&mut pair);
    let gone: Vec<FlowId> = (0..100).map(|_| pair.open()).collect();
    let waiting = pair.open();
    for flow in gone.iter().chain([&waiting]) {
        assert_eq!(pair.relay.session.room(*flow), 0);
    }
    gone.iter().for_each(|flow| pair.relay.session.handle_reset(*flow, ResetReason::Peer));
    // Just one of those that were not read goes on.
    pair.forwarder.take_of(stalled[0], pair.now);
    pair.exchange();
    assert_eq!(woken(&mut pair, &[waiting]), 1);
}

/// Beside a flow that says little, a bulk flow sends and reads ahead little at once; when that one
/// has been silent for a while, as much as before.
#[test]
fn bulk_makes_way_for_a_flow_that_says_little() {
    let mut pair = Pair::new();
    let (bulk, little) = (pair.open(), pair.open());
    let sent = |pair: &mut Pair, most: usize| -> usize {
        pair.relay.transmit_up_to(most, pair.now).iter().map(Vec::len).sum()
    };
    let written = pair.relay.write(bulk, &[7; 250_000]);
    assert_eq!(written, 250_000);
    pair.relay.write(little, &[7; 20]);
    assert!(sent(&mut pair, 40_000) < 80_000);
    assert_eq!(pair.relay.session.room(bulk), 0);
    assert!(sent(&mut pair, 250_000) < CARRIER_SEND_SHARED_MAX + RECORD_MAX);
    pair.now = pair.now + SHARED_FOR;
    assert!(sent(&mut pair, 250_000) > CARRIER_SEND_SHARED_MAX + RECORD_MAX);
}

/// Bulk flows whose last piece happens to be small are not taken for flows that say little.
#[test]
fn the_rest_of_a_large_message_is_not_a_small_one() {
    let mut pair = Pair::new();
    let flows = [pair.open(), pair.open()];
    for _ in 0..50 {
        pair.relay.write(flows[0], &[7; 3 * PAYLOAD_MAX + 64]);
        pair.relay.write(flows[1], &[7; 8 * PAYLOAD_MAX]);
        pair.exchange();
        pair.now = pair.now + SHARED_FOR / 4;
    }
    pair.relay.write(flows[0], &[7; 200_000]);
    let sent: usize = pair.relay.transmit(pair.now).iter().map(Vec::len).sum();
    assert!(sent > 200_000, "{sent}");
}
