//! A packet's bytes: `id u32 | counter u64 | sealed frames | tag 16`, and what can be wrong.

use thiserror::Error;

use crate::frame::{Frame, FrameError, Frames, Kind};
use crate::limits::{FRAME_HEADER, PATH_GENERATION_BITS, PATH_PACKET_MAX};

/// A packet's id and counter, in front of the content; the AEAD authenticates them.
pub const PACKET_HEADER: usize = 4 + 8;
/// The AEAD tag behind the content.
pub const PACKET_TRAILER: usize = 16;

/// The shortest packet of a path's own: one `PING` or `PONG`.
pub(super) const PACKET_OWN: usize = PACKET_HEADER + FRAME_HEADER + 8 + PACKET_TRAILER;

// A generation stays below the 2^24.5 records that RFC 8446 §5.5 lets an AES-GCM key seal.
const _: () = assert!(PATH_GENERATION_BITS <= 24);

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// No room for header and trailer, or more than the longest packet.
    #[error(
        "a packet of {0} bytes was given to be sealed: it has a header of {PACKET_HEADER}, a \
         trailer of {PACKET_TRAILER} and {PATH_PACKET_MAX} bytes in all at most"
    )]
    Length(usize),
    /// 2^64 packets.
    #[error("the path has no packet numbers left: the session has to end")]
    Exhausted,
    /// The cipher itself refused.
    #[error("the cipher refused to seal the packet")]
    Cipher,
}

/// Why a packet was dropped. Anybody can send such a packet: it is counted and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Shorter than header and trailer.
    #[error("packet of {0} bytes, shorter than a header and a tag")]
    TooShort(usize),
    /// Another path's, or nobody's.
    #[error("packet for the path {0:08x}, which is not this one")]
    OtherId(u32),
    /// Seen before, or too old to tell.
    #[error("packet {0} was seen before, or is older than the replay window")]
    Replayed(u64),
    /// The tag does not fit.
    #[error("packet does not authenticate: altered, or under another key")]
    Forged,
    /// Authentic, but its content is not frames: the other end is at fault.
    #[error("the other end's packet is malformed: {0}")]
    Malformed(FrameError),
    /// Authentic, but its frames do not belong into a packet: the other end is at fault.
    #[error("the other end put a {0:?} frame into a packet")]
    Unexpected(Kind),
}

/// The id and the counter in a packet's header.
pub(super) fn parse_header(header: [u8; PACKET_HEADER]) -> (u32, u64) {
    let [i0, i1, i2, i3, counter @ ..] = header;
    (u32::from_be_bytes([i0, i1, i2, i3]), u64::from_be_bytes(counter))
}

pub(super) fn header(id: u32, counter: u64) -> [u8; PACKET_HEADER] {
    let mut header = [0; PACKET_HEADER];
    header[..4].copy_from_slice(&id.to_be_bytes());
    header[4..].copy_from_slice(&counter.to_be_bytes());
    header
}

/// What a packet's content says to the path itself. Of several probes only the last is answered:
/// what goes back is never more than what came.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) ping: Option<u64>,
    pub(super) pong: Option<u64>,
    /// There are datagrams beside that.
    pub(super) has_datagrams: bool,
}

/// Reads a whole content before anything is done about it.
pub(super) fn parse_own(content: &[u8]) -> Result<Own, PacketError> {
    let mut own = Own::default();
    for frame in Frames::new(content) {
        match frame.map_err(PacketError::Malformed)? {
            Frame::Ping(number) => own.ping = Some(number),
            Frame::Pong(number) => own.pong = Some(number),
            Frame::Datagram(..) => own.has_datagrams = true,
            Frame::Pad(_) => {}
            other => return Err(PacketError::Unexpected(other.kind())),
        }
    }
    Ok(own)
}

/// Appends a packet with these frames to `out`, not yet sealed, `size` bytes long if they are
/// shorter than that.
pub(super) fn append(frames: &[Frame<'_>], size: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + PACKET_HEADER, 0);
    frames.iter().for_each(|frame| frame.encode(out));
    let len = out.len() - start + PACKET_TRAILER;
    let pad = size.min(PATH_PACKET_MAX).checked_sub(len + FRAME_HEADER);
    if let Some(Ok(pad)) = pad.map(u16::try_from) {
        Frame::Pad(pad).encode(out);
    }
    out.resize(out.len() + PACKET_TRAILER, 0);
}
