//! Frames survive the wire; what is not a frame is a typed error.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test may panic, and is no interface"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_proto::frame::{
    Credit, Datagram, Destination, Frame, FrameError, Frames, Goaway, GoawayReason, Hello, Kind,
    Open, PathCipher, PathOffer, Poll, Protocol, Refused, Registered, Registration, ResetReason,
};
use adit_proto::id::{ContactId, FlowId, SessionId};
use adit_proto::limits::{FRAME_HEADER, PAYLOAD_MAX, TEXT_MAX};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "[ -~äöü€]{0,60}"
}

fn hello() -> impl Strategy<Value = Hello> {
    (
        any::<u16>(),
        any::<[u8; 16]>(),
        any::<[u64; 5]>(),
        any::<u32>(),
        proptest::option::of(any::<(u32, u16, [u8; 32])>()),
    )
        .prop_map(
            |(
                version,
                session,
                [epoch, received, replays_from, grant, flow_window],
                grace,
                path,
            )| {
                Hello {
                    version,
                    session: SessionId(session),
                    epoch,
                    received,
                    replays_from,
                    grant,
                    flow_window,
                    grace: Duration::from_millis(grace.into()),
                    path: path.map(|(id, port, secret)| {
                        let cipher = PathCipher::Aes128Gcm;
                        PathOffer { id, port, cipher, secret }
                    }),
                }
            },
        )
}

fn registration() -> impl Strategy<Value = Registration> {
    (any::<bool>(), any::<u16>(), "[a-zA-Z0-9._-]{1,64}").prop_map(|(udp, port, name)| {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        Registration { protocol, port, name }
    })
}

fn open() -> impl Strategy<Value = Open> {
    let to = prop_oneof![
        Just(Destination::Contact),
        "[a-zA-Z0-9._-]{1,64}".prop_map(Destination::Name),
        text().prop_map(Destination::Address),
    ];
    (any::<u32>(), any::<IpAddr>(), any::<u16>(), to).prop_map(|(contact, ip, port, to)| Open {
        contact: ContactId(contact),
        source: SocketAddr::new(ip, port),
        protocol: if contact % 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
        to,
    })
}

/// Any frame but the two that borrow.
fn frame() -> impl Strategy<Value = Frame<'static>> {
    let id = any::<u32>();
    prop_oneof![
        hello().prop_map(Frame::Hello),
        hello().prop_map(Frame::Welcome),
        (id, registration()).prop_map(|(id, r)| Frame::Register(ContactId(id), r)),
        (any::<u32>(), any::<u32>(), text()).prop_map(|(id, lease, address)| {
            let lease = Duration::from_secs(lease.into());
            Frame::Registered(ContactId(id), Registered { lease, address })
        }),
        (any::<u32>(), any::<bool>(), text()).prop_map(|(id, may_retry, text)| Frame::Refused(
            ContactId(id),
            Refused { may_retry, text }
        )),
        any::<u32>().prop_map(|id| Frame::Unregister(ContactId(id))),
        (any::<u32>(), open()).prop_map(|(id, open)| Frame::Open(FlowId(id), open)),
        any::<u32>().prop_map(|id| Frame::Accept(FlowId(id))),
        any::<u32>().prop_map(|id| Frame::Fin(FlowId(id))),
        any::<u32>().prop_map(|id| Frame::Reset(FlowId(id), ResetReason::ConnectRefused)),
        any::<(u32, u64, u64)>()
            .prop_map(|(id, limit, taken)| Frame::Credit(FlowId(id), Credit { limit, taken })),
        any::<(u64, u64)>().prop_map(|(records, bytes)| Frame::Poll(Poll { records, bytes })),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        any::<u32>().prop_map(|id| Frame::Blocked(FlowId(id))),
        (goaway_reason(), text(), text()).prop_map(|(reason, text, place)| Frame::Goaway(Goaway {
            reason,
            text,
            place
        })),
    ]
}

fn goaway_reason() -> impl Strategy<Value = GoawayReason> {
    prop_oneof![
        Just(GoawayReason::Draining),
        Just(GoawayReason::Ending),
        Just(GoawayReason::Superseded),
        Just(GoawayReason::Revoked),
    ]
}

fn encode(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut content = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut content));
    content
}

/// A length that reaches past its record is an error, wherever the record is cut.
#[test]
fn a_frame_cut_anywhere_is_truncated() {
    let source = SocketAddr::from(([1, 2, 3, 4], 5));
    let to = Destination::Address("192.0.2.7:80".into());
    let open = Open { contact: ContactId(1), source, protocol: Protocol::Tcp, to };
    let whole = encode(&[Frame::Open(FlowId(2), open)]);
    for cut in 1..whole.len() {
        let frames: Vec<_> = Frames::new(&whole[..cut]).collect();
        assert_eq!(frames, [Err(FrameError::Truncated)], "cut at {cut}");
    }
}

/// A body with a byte too many is malformed, not ignored.
#[test]
fn a_frame_with_a_tail_is_malformed() {
    let mut content = encode(&[Frame::Ping(7)]);
    content.push(0);
    content[3] += 1;
    let frames: Vec<_> = Frames::new(&content).collect();
    assert_eq!(frames, [Err(FrameError::Malformed(Kind::Ping))]);
}

/// Kinds and flags that this version does not know are refused.
#[test]
fn unknown_kinds_and_flags_are_refused() {
    for kind in (0..=u8::MAX).filter(|kind| !(1..=19).contains(kind)) {
        let content = [kind, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Frames::new(&content).next(), Some(Err(FrameError::UnknownKind(kind))));
    }
    let flagged = [Kind::Fin as u8, 1, 0, 0, 0, 0, 0, 1];
    assert_eq!(Frames::new(&flagged).next(), Some(Err(FrameError::Malformed(Kind::Fin))));
}

/// Names reach the other side's terminal: nothing but plain letters, digits and `-_.`.
#[test]
fn names_with_control_characters_are_refused() {
    for name in ["", "a\nb", "\u{1b}[31m", "a b", &"x".repeat(65)] {
        let registration =
            Registration { protocol: Protocol::Tcp, port: 80, name: name.to_owned() };
        let content = encode(&[Frame::Register(ContactId(1), registration)]);
        let frame = Frames::new(&content).next();
        assert_eq!(frame, Some(Err(FrameError::Malformed(Kind::Register))), "{name:?}");
    }
}

/// Our own long text is cut at a character, so that the other end can read it.
#[test]
fn long_text_is_cut_between_characters() {
    let goaway =
        Goaway { reason: GoawayReason::Ending, text: "ä".repeat(TEXT_MAX), place: String::new() };
    let content = encode(&[Frame::Goaway(goaway)]);
    let Some(Ok(Frame::Goaway(read))) = Frames::new(&content).next() else { panic!() };
    assert_eq!(read.text, "ä".repeat(TEXT_MAX / 2));
}

proptest! {
    /// What is encoded is read back, in order, however many share the record.
    #[test]
    fn frames_round_trip(frames in proptest::collection::vec(frame(), 0..20)) {
        let content = encode(&frames);
        let read: Result<Vec<_>, _> = Frames::new(&content).collect();
        prop_assert_eq!(read.unwrap(), frames);
    }

    /// A payload lies just before the reader's offset.
    #[test]
    fn payloads_lie_where_the_reader_says(
        payload in proptest::collection::vec(any::<u8>(), 0..PAYLOAD_MAX),
        segment: u16,
    ) {
        let datagram = Datagram::Whole { segment, payload: &payload[..payload.len() / 2] };
        let content = encode(&[
            Frame::Fin(FlowId(1)),
            Frame::Data(FlowId(2), &payload[..payload.len() / 2]),
            Frame::Datagram(FlowId(3), datagram),
        ]);
        let mut frames = Frames::new(&content);
        frames.next();
        prop_assert_eq!(frames.next(), Some(Ok(Frame::Data(FlowId(2), &payload[..payload.len() / 2]))));
        let end = frames.offset();
        prop_assert_eq!(&content[end - payload.len() / 2..end], &payload[..payload.len() / 2]);
        prop_assert_eq!(frames.next(), Some(Ok(Frame::Datagram(FlowId(3), datagram))));
    }

    /// Any bytes are frames or one error at the end; the reader always moves on.
    #[test]
    fn any_bytes_are_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut frames = Frames::new(&content);
        let mut offset = 0;
        while let Some(frame) = frames.next() {
            prop_assert!(frames.offset() >= offset + FRAME_HEADER || frame.is_err());
            offset = frames.offset();
        }
        prop_assert_eq!(frames.offset(), content.len());
    }
}
