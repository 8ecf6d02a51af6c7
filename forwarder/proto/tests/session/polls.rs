//! A `POLL` is not retained: what it said comes again where it may have been lost.

use adit_proto::limits::{RECORD_MAX, SESSION_WINDOW};
use adit_proto::session::Greeted;

use super::shares::exhaust;
use super::*;

/// `HELLO` says what a `POLL` would have. When it is lost with its carrier, the older one says it.
#[test]
fn a_lost_hello_takes_no_acknowledgement_with_it() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.wait(2 * POLL_DELAY);
    pair.relay.write(flow, &[1; 100]);
    let records = pair.relay.transmit(pair.now);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    pair.forwarder.session.hello();
    pair.wait(2 * POLL_DELAY);
    assert_eq!(pair.relay.session.records_retained(), 0);
}

/// What the older carrier brought is sent again, and forgotten soon after though nothing new
/// follows it.
#[test]
fn a_replay_of_what_is_known_is_acknowledged() {
    let mut pair = Pair::new();
    let flow = pair.open();
    pair.wait(2 * POLL_DELAY);
    let hello = pair.forwarder.session.hello();
    pair.relay.write(flow, &[1; 200_000]);
    let records = pair.relay.transmit(pair.now);
    assert!(records.len() > 10);
    records.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    let welcome = pair.relay.session.handle_hello(&hello, pair.now).unwrap();
    assert_eq!(pair.forwarder.session.handle_welcome(&welcome, pair.now), Ok(Greeted::Resumed));
    pair.renew();
    // The first POLL arrives in the middle of the replay.
    let down = pair.relay.transmit_up_to(3 * RECORD_MAX, pair.now);
    pair.forwarder
        .transmit(pair.now)
        .into_iter()
        .for_each(|r| pair.relay.receive(r, pair.now).unwrap());
    down.into_iter().for_each(|r| pair.forwarder.receive(r, pair.now).unwrap());
    assert!(pair.relay.session.records_retained() > 0);
    pair.exchange();
    pair.wait(2 * POLL_DELAY);
    assert_eq!(pair.relay.session.records_retained(), 0);
    assert_eq!(pair.forwarder.delivered[&flow].len(), 200_000);
}

/// A grant that went on the older carrier after `HELLO` is not taken there; the next carrier
/// brings it.
#[test]
fn a_grant_that_nobody_took_is_said_again() {
    let mut pair = Pair::new();
    exhaust(&mut pair);
    let waiting = pair.open();
    pair.wait(2 * POLL_DELAY);
    assert_eq!(pair.relay.session.room(waiting), 0);
    let hello = pair.forwarder.session.hello();
    pair.forwarder.transmit(pair.now);
    pair.forwarder.take_what_waits(pair.now);
    assert_eq!(pair.forwarder.session.bytes_waiting(), 0);
    pair.forwarder.transmit(pair.now);
    let welcome = pair.relay.session.handle_hello(&hello, pair.now).unwrap();
    assert_eq!(pair.forwarder.session.handle_welcome(&welcome, pair.now), Ok(Greeted::Resumed));
    pair.renew();
    pair.exchange();
    assert!(pair.relay.session.room(waiting) > 0);
    assert_eq!(pair.relay.session.counters().bytes_sent, SESSION_WINDOW);
}
