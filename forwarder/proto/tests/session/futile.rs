//! Frames that change nothing have a budget, whatever they are; frames that do have none.

use adit_proto::frame::{Credit, Datagram, header};
use adit_proto::limits::{CONTENT_MAX, FUTILE_FRAMES_MAX, FUTILE_FRAMES_PER_S};

use super::pair::open_udp;
use super::*;

/// What a hostile peer may try.
const FRAMES: u64 = 1_000_000;

/// Every kind of frame that may change nothing, for a flow that is not there where it names one.
fn futile() -> Vec<Frame<'static>> {
    let gone = FlowId(1_000_000);
    vec![
        Frame::Pad(0),
        Frame::Ping(7),
        Frame::Pong(7),
        Frame::Poll(Poll { records: 0, bytes: 0 }),
        Frame::Accept(gone),
        Frame::Fin(gone),
        Frame::Reset(gone, ResetReason::Peer),
        Frame::Credit(gone, Credit { limit: 1, taken: 1 }),
        Frame::Blocked(gone),
    ]
}

/// Records full of `frame`, one for each millisecond; returns how many frames were taken, and how it
/// ended.
fn flood(frame: &Frame<'_>, a_record: usize) -> (u64, Result<(), SessionError>) {
    let mut pair = Pair::new();
    let content = encode(&vec![frame.clone(); a_record]);
    let mut sent = 0;
    while sent < FRAMES {
        pair.now = pair.now + Duration::from_millis(1);
        let taken = pair.relay.session.handle_record(&content, pair.now, &mut Vec::new());
        if taken.is_err() {
            return (sent, taken);
        }
        sent += a_record as u64;
    }
    (sent, Ok(()))
}

/// A million frames that change nothing end the session soon after a quarter of them, whichever they
/// are; so do empty records.
#[test]
fn a_million_empty_frames_end_the_session() {
    for frame in futile() {
        let a_record = CONTENT_MAX / encode(std::slice::from_ref(&frame)).len();
        let (sent, ended) = flood(&frame, a_record);
        assert_eq!(ended, Err(SessionError::Futile), "{frame:?}");
        assert!(sent < FUTILE_FRAMES_MAX * 3 / 2, "{sent} of {frame:?}");
    }
    let mut pair = Pair::new();
    let mut records = (0..FRAMES).map(|_| pair.relay.receive_content(&[], pair.now));
    assert_eq!(records.find(Result::is_err), Some(Err(SessionError::Futile)));
}

/// The control: as many are taken at the pace of probes.
#[test]
fn empty_frames_at_the_pace_of_probes_are_taken() {
    let mut pair = Pair::new();
    let a_record = usize::try_from(FUTILE_FRAMES_PER_S / 10).unwrap();
    for frame in futile() {
        let content = encode(&vec![frame; a_record]);
        for _ in 0..1_000 {
            pair.now = pair.now + Duration::from_millis(100);
            pair.relay.receive_content(&content, pair.now).unwrap();
        }
    }
}

/// The control: as many are taken with something between them.
#[test]
fn empty_frames_between_others_are_taken() {
    let mut pair = Pair::new();
    let flow = pair.open();
    let mut records = Vec::new();
    for frame in futile().into_iter().filter(|frame| frame.kind().is_reliable()) {
        records.push(encode(&[frame.clone(), Frame::Data(flow, b"x"), frame]));
    }
    for (sent, content) in records.iter().cycle().take(2 * FUTILE_FRAMES_MAX as usize).enumerate() {
        pair.relay.receive_content(content, pair.now).unwrap();
        pair.relay.events.clear();
        if sent % 4_096 == 0 {
            // It grants more.
            pair.relay.transmit(pair.now);
        }
    }
}

/// The other end only answers: flows that this end opens and that come to nothing are no fault of it,
/// however many there are.
#[test]
fn answers_to_own_flows_are_not_futile() {
    const AT_ONCE: u64 = 1_000;
    for open in [open, open_udp] {
        let mut pair = Pair::new();
        for _ in 0..2 * FUTILE_FRAMES_MAX / AT_ONCE {
            let open = |_| pair.relay.session.open_flow(open(), pair.now).unwrap();
            let flows: Vec<_> = (0..AT_ONCE).map(open).collect();
            pair.exchange();
            flows.iter().for_each(|flow| pair.forwarder.session.accept_flow(*flow));
            pair.exchange();
            for flow in flows {
                pair.relay.session.handle_reset(flow, ResetReason::Peer);
            }
            pair.exchange();
            pair.forwarder.events.clear();
            pair.relay.events.clear();
        }
    }
}

/// Bytes of a flow that is gone make up for nothing.
#[test]
fn bytes_of_no_flow_redeem_nothing() {
    let mut pair = Pair::new();
    let gone = FlowId(1_000_000);
    let content = encode(&[Frame::Data(gone, b"x"), Frame::Accept(gone)]);
    let mut records =
        (0..2 * FUTILE_FRAMES_MAX).map(|_| pair.relay.receive_content(&content, pair.now));
    assert_eq!(records.find(Result::is_err), Some(Err(SessionError::Futile)));
}

/// Credits and acknowledgements that say something new are no futile frames.
#[test]
fn credit_that_grows_is_not_futile() {
    let mut pair = Pair::new();
    let flow = pair.open();
    for limit in 0..2 * FUTILE_FRAMES_MAX {
        let credit = Credit { limit: FLOW_WINDOW + limit + 1, taken: 0 };
        pair.relay.receive_content(&encode(&[Frame::Credit(flow, credit)]), pair.now).unwrap();
    }
}

/// Every kind of frame, cut at every byte, with its header as it was and with a header that fits:
/// each is read or refused, and a session that gets it goes on or ends with an error of its own.
#[test]
fn every_frame_cut_at_every_byte_is_read_or_refused() {
    let hello = End::new(Side::Forwarder).session.hello();
    let datagram = Datagram::Whole { segment: 2, payload: b"datagrams" };
    let mut frames = futile();
    frames.extend([
        Frame::Hello(hello.clone()),
        Frame::Welcome(hello),
        Frame::Open(FlowId(2), open()),
        Frame::Data(FlowId(1), b"data"),
        Frame::Datagram(FlowId(1), datagram),
    ]);
    for frame in &frames {
        let whole = encode(std::slice::from_ref(frame));
        for cut in 1..whole.len() {
            let mut content = whole[..cut].to_vec();
            assert_eq!(forwarder_hears_bytes(&content), Err(FrameError::Truncated.into()));
            if let Some(body) = content.len().checked_sub(8) {
                let body = u16::try_from(body).unwrap();
                content[2..4].copy_from_slice(&body.to_be_bytes());
                forwarder_hears_bytes(&content).ok();
            }
        }
    }
}

/// A frame that claims to be as long as its field can say, with every other field at its end too.
#[test]
fn a_frame_that_claims_to_be_endless_is_truncated() {
    for kind in [Kind::Data, Kind::Datagram, Kind::Pad, Kind::Open, Kind::Register] {
        let content = header(kind, 0, u16::MAX, u32::MAX);
        assert_eq!(forwarder_hears_bytes(&content), Err(FrameError::Truncated.into()));
    }
    assert!(forwarder_hears_bytes(&[0xff; 64]).is_err());
}

fn forwarder_hears_bytes(content: &[u8]) -> Result<(), SessionError> {
    let mut pair = Pair::new();
    pair.forwarder.receive_content(content, pair.now)
}
