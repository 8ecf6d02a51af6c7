//! Frames: the unit inside the tunnel. `docs/protocol.md` has the table of their bytes.
//!
//! A header of 8 bytes (kind `u8`, flags `u8`, length `u16`, flow `u32`, network byte order) and
//! `length` bytes of body. A record holds whole frames, all of them reliable or none.

mod body;
mod control;

use bytes::{Buf, BufMut};

pub use body::{
    Credit, Datagram, Destination, Goaway, GoawayReason, Hello, Open, PathCipher, PathOffer, Poll,
    Protocol, Refused, Registered, Registration, is_name,
};
pub use control::ControlFrame;

use crate::id::{ContactId, FlowId};
use crate::limits::FRAME_HEADER;

/// What a frame's first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the `Frame` variant of the same name")]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Register = 3,
    Registered = 4,
    Refused = 5,
    Unregister = 6,
    Open = 7,
    Accept = 8,
    Fin = 9,
    Reset = 10,
    Data = 11,
    Datagram = 12,
    Credit = 13,
    Poll = 14,
    Ping = 15,
    Pong = 16,
    Goaway = 17,
    Blocked = 18,
    Pad = 19,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Hello,
        Self::Welcome,
        Self::Register,
        Self::Registered,
        Self::Refused,
        Self::Unregister,
        Self::Open,
        Self::Accept,
        Self::Fin,
        Self::Reset,
        Self::Data,
        Self::Datagram,
        Self::Credit,
        Self::Poll,
        Self::Ping,
        Self::Pong,
        Self::Goaway,
        Self::Blocked,
        Self::Pad,
    ];

    fn from_wire(kind: u8) -> Result<Self, FrameError> {
        Self::ALL.into_iter().find(|k| *k as u8 == kind).ok_or(FrameError::UnknownKind(kind))
    }

    /// Whether records of this kind are counted, retained and acknowledged.
    pub fn is_reliable(self) -> bool {
        !matches!(
            self,
            Self::Hello
                | Self::Welcome
                | Self::Datagram
                | Self::Poll
                | Self::Ping
                | Self::Pong
                | Self::Pad
        )
    }
}

/// Why a flow was reset; `RESET` carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResetReason {
    /// The socket at the sender's end was reset by its own peer.
    Peer = 1,
    /// The internal peer refused the connection.
    ConnectRefused = 2,
    /// The internal peer could not be reached.
    ConnectFailed = 3,
    /// Nothing is registered under the contact point that `OPEN` named.
    NoContact = 4,
    /// A limit on flows is reached.
    Limit = 5,
    /// The session or the daemon is ending.
    Ending = 6,
    /// The source may not use what is registered.
    Forbidden = 7,
    /// No datagram has gone either way for too long.
    Idle = 8,
}

impl ResetReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Peer,
        Self::ConnectRefused,
        Self::ConnectFailed,
        Self::NoContact,
        Self::Limit,
        Self::Ending,
        Self::Forbidden,
        Self::Idle,
    ];

    fn from_wire(reason: u8) -> Self {
        Self::ALL.into_iter().find(|known| *known as u8 == reason).unwrap_or(Self::Peer)
    }
}

/// One frame. `DATA` and `DATAGRAM` borrow their payload from the record; the rest is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Opens or resumes a session; the forwarder's first frame.
    Hello(Hello),
    /// Answers `HELLO`; the relay's first frame.
    Welcome(Hello),
    /// Asks for a contact point.
    Register(ContactId, Registration),
    /// Grants it.
    Registered(ContactId, Registered),
    /// Refuses it.
    Refused(ContactId, Refused),
    /// Gives a contact point up.
    Unregister(ContactId),
    /// Opens a flow to what is registered under a contact point.
    Open(FlowId, Open),
    /// The flow's socket at the far end is connected.
    Accept(FlowId),
    /// No more data from this side; the other direction goes on.
    Fin(FlowId),
    /// The flow is gone in both directions.
    Reset(FlowId, ResetReason),
    /// A flow's bytes.
    Data(FlowId, &'a [u8]),
    /// A UDP flow's datagrams.
    Datagram(FlowId, Datagram<'a>),
    /// How far the flow may send, in bytes since its opening, and what was taken.
    Credit(FlowId, Credit),
    /// The flow has more to send than it may: the other end says at once what was taken.
    Blocked(FlowId),
    /// What was received so far and how far the session may send.
    Poll(Poll),
    /// A probe; the other end returns the same number.
    Ping(u64),
    /// The answer to a probe.
    Pong(u64),
    /// The sender drains, or ends the session.
    Goaway(Goaway),
    /// As many bytes that mean nothing: they make a packet as long as one that is to be probed.
    Pad(u16),
}

/// Why a peer's bytes are not frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The record ends within a frame.
    #[error("a frame is cut short by the end of its record")]
    Truncated,
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The body is longer or shorter than its kind has it, or holds what may not be there.
    #[error("malformed {0:?} frame")]
    Malformed(Kind),
}

impl Frame<'_> {
    /// The frame without what it borrows; `None` of those that do.
    pub(crate) fn into_owned(self) -> Option<Frame<'static>> {
        Some(match self {
            Self::Data(..) | Self::Datagram(..) => return None,
            Self::Hello(hello) => Frame::Hello(hello),
            Self::Welcome(welcome) => Frame::Welcome(welcome),
            Self::Register(id, registration) => Frame::Register(id, registration),
            Self::Registered(id, registered) => Frame::Registered(id, registered),
            Self::Refused(id, refused) => Frame::Refused(id, refused),
            Self::Unregister(id) => Frame::Unregister(id),
            Self::Open(id, open) => Frame::Open(id, open),
            Self::Accept(id) => Frame::Accept(id),
            Self::Fin(id) => Frame::Fin(id),
            Self::Reset(id, reason) => Frame::Reset(id, reason),
            Self::Credit(id, credit) => Frame::Credit(id, credit),
            Self::Blocked(id) => Frame::Blocked(id),
            Self::Poll(poll) => Frame::Poll(poll),
            Self::Ping(number) => Frame::Ping(number),
            Self::Pong(number) => Frame::Pong(number),
            Self::Goaway(goaway) => Frame::Goaway(goaway),
            Self::Pad(len) => Frame::Pad(len),
        })
    }

    /// The frame's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Register(..) => Kind::Register,
            Self::Registered(..) => Kind::Registered,
            Self::Refused(..) => Kind::Refused,
            Self::Unregister(_) => Kind::Unregister,
            Self::Open(..) => Kind::Open,
            Self::Accept(_) => Kind::Accept,
            Self::Fin(_) => Kind::Fin,
            Self::Reset(..) => Kind::Reset,
            Self::Data(..) => Kind::Data,
            Self::Datagram(..) => Kind::Datagram,
            Self::Credit(..) => Kind::Credit,
            Self::Poll(_) => Kind::Poll,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(_) => Kind::Pong,
            Self::Goaway(_) => Kind::Goaway,
            Self::Blocked(_) => Kind::Blocked,
            Self::Pad(_) => Kind::Pad,
        }
    }

    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When the body is longer than a record: every body is bounded by `limits` before it is
    /// built, so that would be a bug of ours.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&header(self.kind(), self.flags(), 0, self.flow()));
        self.encode_body(out);
        Self::set_length(out, start);
    }

    /// Writes into the frame that begins at `start` how long it is, now that its body is behind it.
    pub(crate) fn set_length(out: &mut [u8], start: usize) {
        let length = u16::try_from(out.len() - start - FRAME_HEADER)
            .expect("invariant: bodies are bounded by limits");
        out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn flags(&self) -> u8 {
        match self {
            Self::Datagram(_, datagram) => datagram.flags(),
            _ => 0,
        }
    }

    fn flow(&self) -> u32 {
        match self {
            Self::Register(ContactId(id), _)
            | Self::Registered(ContactId(id), _)
            | Self::Refused(ContactId(id), _)
            | Self::Unregister(ContactId(id))
            | Self::Open(FlowId(id), _)
            | Self::Accept(FlowId(id))
            | Self::Fin(FlowId(id))
            | Self::Reset(FlowId(id), _)
            | Self::Data(FlowId(id), _)
            | Self::Datagram(FlowId(id), _)
            | Self::Blocked(FlowId(id))
            | Self::Credit(FlowId(id), _) => *id,
            _ => 0,
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) | Self::Welcome(hello) => hello.encode(out),
            Self::Register(_, registration) => registration.encode(out),
            Self::Registered(_, registered) => registered.encode(out),
            Self::Refused(_, refused) => refused.encode(out),
            Self::Open(_, open) => open.encode(out),
            Self::Reset(_, reason) => out.put_u8(*reason as u8),
            Self::Data(_, payload) => out.put_slice(payload),
            Self::Datagram(_, datagram) => datagram.encode(out),
            Self::Credit(_, credit) => credit.encode(out),
            Self::Poll(poll) => poll.encode(out),
            Self::Ping(number) | Self::Pong(number) => out.put_u64(*number),
            Self::Goaway(goaway) => goaway.encode(out),
            Self::Pad(len) => out.put_bytes(0, usize::from(*len)),
            Self::Unregister(_) | Self::Accept(_) | Self::Fin(_) | Self::Blocked(_) => {}
        }
    }
}

/// A frame's header. A `DATA` payload that already lies in its slot gets only this in front.
pub fn header(kind: Kind, flags: u8, length: u16, flow: u32) -> [u8; FRAME_HEADER] {
    let [l0, l1] = length.to_be_bytes();
    let [f0, f1, f2, f3] = flow.to_be_bytes();
    [kind as u8, flags, l0, l1, f0, f1, f2, f3]
}

/// The frames of one record's content, in order; ends after the first error.
#[derive(Debug)]
pub struct Frames<'a> {
    content: &'a [u8],
    offset: usize,
}

impl<'a> Frames<'a> {
    /// The frames in `content`.
    pub fn new(content: &'a [u8]) -> Self {
        Self { content, offset: 0 }
    }

    /// How many bytes of the content are behind the reader. After a `DATA` frame its payload is
    /// what lies just before.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn parse(&mut self) -> Result<Frame<'a>, FrameError> {
        let mut rest = self.content.get(self.offset..).ok_or(FrameError::Truncated)?;
        if rest.len() < FRAME_HEADER {
            return Err(FrameError::Truncated);
        }
        let kind = rest.get_u8();
        let flags = rest.get_u8();
        let length = usize::from(rest.get_u16());
        let flow = rest.get_u32();
        let body = rest.get(..length).ok_or(FrameError::Truncated)?;
        let kind = Kind::from_wire(kind)?;
        let frame = parse_body(kind, flags, flow, body).ok_or(FrameError::Malformed(kind))?;
        self.offset += FRAME_HEADER + length;
        Ok(frame)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.content.len() {
            return None;
        }
        let frame = self.parse();
        if frame.is_err() {
            self.offset = self.content.len();
        }
        Some(frame)
    }
}

/// `None` when the body is not exactly what its kind has it.
fn parse_body(kind: Kind, flags: u8, id: u32, mut body: &[u8]) -> Option<Frame<'_>> {
    if flags != 0 && kind != Kind::Datagram {
        return None;
    }
    let frame = match kind {
        Kind::Data => return Some(Frame::Data(FlowId(id), body)),
        Kind::Pad => return Some(Frame::Pad(u16::try_from(body.len()).ok()?)),
        Kind::Datagram => {
            return Some(Frame::Datagram(FlowId(id), Datagram::parse(flags, body)?));
        }
        Kind::Hello => Frame::Hello(Hello::parse(&mut body)?),
        Kind::Welcome => Frame::Welcome(Hello::parse(&mut body)?),
        Kind::Register => Frame::Register(ContactId(id), Registration::parse(&mut body)?),
        Kind::Registered => Frame::Registered(ContactId(id), Registered::parse(&mut body)?),
        Kind::Refused => Frame::Refused(ContactId(id), Refused::parse(&mut body)?),
        Kind::Unregister => Frame::Unregister(ContactId(id)),
        Kind::Open => Frame::Open(FlowId(id), Open::parse(&mut body)?),
        Kind::Accept => Frame::Accept(FlowId(id)),
        Kind::Fin => Frame::Fin(FlowId(id)),
        Kind::Reset => Frame::Reset(FlowId(id), ResetReason::from_wire(body.try_get_u8().ok()?)),
        Kind::Credit => Frame::Credit(FlowId(id), Credit::parse(&mut body)?),
        Kind::Poll => Frame::Poll(Poll::parse(&mut body)?),
        Kind::Ping => Frame::Ping(body.try_get_u64().ok()?),
        Kind::Pong => Frame::Pong(body.try_get_u64().ok()?),
        Kind::Goaway => Frame::Goaway(Goaway::parse(&mut body)?),
        Kind::Blocked => Frame::Blocked(FlowId(id)),
    };
    body.is_empty().then_some(frame)
}
