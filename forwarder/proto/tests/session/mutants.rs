//! Mutants of every frame, in numbers for which handshakes would be too slow.

use adit_proto::frame::{
    Credit, Datagram, Destination, Goaway, GoawayReason, Open, Protocol, Refused, Registered,
    Registration,
};
use adit_proto::id::ContactId;

use super::*;

/// Records, each of a few frames, of which a few bytes are altered.
const MUTANTS: u64 = 100_000;

/// One frame of every kind, for a flow that is there where it names one.
fn corpus(flow: FlowId) -> Vec<Frame<'static>> {
    let (contact, hello) = (ContactId(1), End::new(Side::Forwarder).session.hello());
    let text = || "text".to_owned();
    let to = |to, protocol| Open { to, protocol, ..open() };
    vec![
        Frame::Hello(hello.clone()),
        Frame::Welcome(hello),
        Frame::Register(contact, Registration { protocol: Protocol::Tcp, port: 0, name: text() }),
        Frame::Registered(contact, Registered { lease: Duration::from_secs(1), address: text() }),
        Frame::Refused(contact, Refused { may_retry: true, text: text() }),
        Frame::Unregister(contact),
        Frame::Open(FlowId(1_001), to(Destination::Name(text()), Protocol::Tcp)),
        Frame::Open(FlowId(1_002), to(Destination::Address(text()), Protocol::Udp)),
        Frame::Accept(flow),
        Frame::Fin(flow),
        Frame::Reset(flow, ResetReason::Peer),
        Frame::Data(flow, b"some bytes of a flow"),
        Frame::Datagram(flow, Datagram::Whole { segment: 4, payload: b"datagrams" }),
        Frame::Credit(flow, Credit { limit: FLOW_WINDOW + 1, taken: 0 }),
        Frame::Blocked(flow),
        Frame::Poll(Poll { records: 0, bytes: 1 << 27 }),
        Frame::Ping(7),
        Frame::Pong(7),
        Frame::Pad(9),
        Frame::Goaway(Goaway { reason: GoawayReason::Draining, text: text(), place: text() }),
    ]
}

fn alter(content: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..content.len());
    match random.u8(..6) {
        0 => content[at] ^= 1 << random.u8(..8),
        1 => content[at] = random.u8(..),
        2 => content.truncate(at.max(1)),
        3 => content.insert(at, random.u8(..)),
        4 => content.extend_from_within(at..),
        _ => content[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
    }
}

/// A hundred thousand mutants at either end go on with the session, which can still be spoken on, or
/// end it with an error of its own.
#[test]
fn a_hundred_thousand_mutants_are_taken_or_refused() {
    let mut random = fastrand::Rng::with_seed(1);
    let fresh = || {
        let mut pair = Pair::new();
        let flow = pair.open();
        let corpus = corpus(flow);
        (pair, corpus)
    };
    let (mut pair, mut frames) = fresh();
    let (mut taken, mut refused) = (0, 0);
    for number in 0..MUTANTS {
        let some: Vec<_> =
            (0..random.usize(1..4)).map(|_| frames[random.usize(..frames.len())].clone()).collect();
        let mut content = encode(&some);
        (0..random.usize(..3)).for_each(|_| alter(&mut content, &mut random));
        let now = pair.now;
        let end = if number % 2 == 0 { &mut pair.relay } else { &mut pair.forwarder };
        match end.receive_content(&content, now) {
            Ok(()) => {
                end.transmit(now);
                taken += 1;
            }
            Err(_typed) => {
                (pair, frames) = fresh();
                refused += 1;
            }
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > MUTANTS / 20 && refused > MUTANTS / 20, "{taken} taken, {refused} refused");
}
