//! Frames of every kind, and mutants of them.

use std::time::Duration;

use adit_proto::frame::{
    Credit, Datagram, Destination, Frame, Goaway, GoawayReason, Open, Poll, Protocol, Refused,
    Registered, Registration, ResetReason,
};
use adit_proto::id::{ContactId, FlowId, SessionId, Side, Time};
use adit_proto::limits::{FLOW_WINDOW, GRACE};
use adit_proto::session::Session;

/// One frame of every kind, for a flow that is there where it names one.
pub(crate) fn corpus(flow: FlowId) -> Vec<Frame<'static>> {
    let mut session = Session::<Box<[u8]>>::new(Side::Forwarder, SessionId::NONE, GRACE, Time(0));
    let (contact, hello) = (ContactId(1), session.hello());
    let source = ([192, 0, 2, 1], 1).into();
    let open = |protocol, to| Open { contact, source, protocol, to };
    let (text, address) = (|| "text".to_owned(), || "127.0.0.1:1".to_owned());
    vec![
        Frame::Hello(hello.clone()),
        Frame::Welcome(hello),
        Frame::Register(contact, Registration { protocol: Protocol::Tcp, port: 0, name: text() }),
        Frame::Registered(contact, Registered { lease: Duration::from_secs(1), address: text() }),
        Frame::Refused(contact, Refused { may_retry: true, text: text() }),
        Frame::Unregister(contact),
        Frame::Open(FlowId(1_001), open(Protocol::Tcp, Destination::Name("db".to_owned()))),
        Frame::Open(FlowId(1_003), open(Protocol::Tcp, Destination::Address(address()))),
        Frame::Open(FlowId(1_005), open(Protocol::Tcp, Destination::Contact)),
        Frame::Open(FlowId(1_002), open(Protocol::Udp, Destination::Address(address()))),
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

pub(crate) fn encode(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut content = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut content));
    content
}

/// A few of `frames`, with up to two alterations.
pub(crate) fn mutant(frames: &[Frame<'_>], random: &mut fastrand::Rng) -> Vec<u8> {
    let some: Vec<_> =
        (0..random.usize(1..4)).map(|_| frames[random.usize(..frames.len())].clone()).collect();
    let mut content = encode(&some);
    (0..random.usize(..3)).for_each(|_| alter(&mut content, random));
    content
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
