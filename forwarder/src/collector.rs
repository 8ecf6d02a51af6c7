//! Takes messages in: records from a carrier, opened where they landed, and bytes from flows'
//! sockets, left where they landed.

use std::ops::Range;
use std::rc::Rc;

use adit_proto::flow::Chunk;
use adit_proto::id::Time;
use adit_proto::limits::{GATHERED_MAX, RECORD_ACCEPTED_MAX, SLOT_HEADROOM};
use adit_proto::record::{
    AlertDescription, Opened, Opener, RecordError, RecordLayer, TrafficKeyError,
};
use adit_proto::session::Event;
use adit_ring::{Buffer, Memory};

use crate::handoff::Down;

/// Headroom of a carrier's receive buffers: the tail of a record that the last receive left
/// unfinished is copied in front of what the next one brings, so that every record is contiguous.
pub(crate) const CARRIER_HEADROOM: usize = RECORD_ACCEPTED_MAX;

/// A carrier's receiving side.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// The beginning of a record whose rest has not arrived.
    unfinished: Vec<u8>,
}

/// What one receive brought: where in the memory the content of each record is.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) memory: Rc<Memory>,
    pub(crate) contents: Vec<Range<usize>>,
}

impl Intake {
    /// The beginning of a record whose rest has not arrived.
    pub(crate) fn unfinished(&self) -> &[u8] {
        &self.unfinished
    }

    /// Goes on with such a beginning, of [`RECORD_ACCEPTED_MAX`] bytes at most.
    pub(crate) fn take_over(unfinished: Vec<u8>) -> Self {
        Self { unfinished }
    }

    /// Opens every whole record in `buffer`, whose payload the kernel just filled. The records
    /// before a faulty one count.
    pub(crate) fn handle_received(
        &mut self,
        mut buffer: Buffer,
        records: &mut RecordLayer,
    ) -> (Collected, Result<(), Down>) {
        let end = CARRIER_HEADROOM + buffer.payload_len();
        let start = CARRIER_HEADROOM - self.unfinished.len();
        let bytes = buffer.bytes_mut();
        if let Some(front) = bytes.get_mut(start..CARRIER_HEADROOM) {
            front.copy_from_slice(&self.unfinished);
        }
        self.unfinished.clear();
        let mut contents = Vec::new();
        let result = self.open_all(bytes, start..end, records, &mut contents);
        (Collected { memory: Rc::new(Memory::from(buffer)), contents }, result)
    }

    /// The same for bytes that came with the handshake.
    pub(crate) fn handle_leftover(
        &mut self,
        leftover: Vec<u8>,
        records: &mut RecordLayer,
    ) -> (Collected, Result<(), Down>) {
        let mut bytes = leftover.into_boxed_slice();
        let all = 0..bytes.len();
        let mut contents = Vec::new();
        let result = self.open_all(&mut bytes, all, records, &mut contents);
        (Collected { memory: Rc::new(Memory::from(bytes)), contents }, result)
    }

    fn open_all(
        &mut self,
        bytes: &mut [u8],
        filled: Range<usize>,
        records: &mut RecordLayer,
        contents: &mut Vec<Range<usize>>,
    ) -> Result<(), Down> {
        let mut at = filled.start;
        loop {
            let rest = bytes.get_mut(at..filled.end).unwrap_or_default();
            let len = Opener::record_len(rest).map_err(broken)?;
            let Some(record) = len.and_then(|len| rest.get_mut(..len)) else {
                self.unfinished.extend_from_slice(rest);
                return Ok(());
            };
            let record_len = record.len();
            let opened = records.open(record).map_err(|error| match error {
                RecordError::Keys(TrafficKeyError::Inherited) => Down::Lost(error.to_string()),
                error => broken(error),
            });
            match opened? {
                Opened::Data(content) => contents.push(content.start + at..content.end + at),
                Opened::KeyUpdated | Opened::Ignored => {}
                Opened::CloseNotify => return Err(Down::Lost("the other end closed it".into())),
                Opened::Alert(AlertDescription::AccessDenied) => return Err(Down::Denied),
                Opened::Alert(alert) => return Err(Down::Lost(format!("TLS alert {alert:?}"))),
            }
            at += record_len;
        }
    }
}

impl Collected {
    /// The bytes of one of [`Collected::contents`].
    pub(crate) fn content(&self, range: Range<usize>) -> &[u8] {
        (*self.memory).as_ref().get(range).unwrap_or_default()
    }
}

/// From a record's content to the memory that it lies in.
pub(crate) fn shift(events: &mut [Event], by: usize) {
    for event in events {
        if let Event::Data(_, range) | Event::Datagrams { range, .. } = event {
            *range = range.start + by..range.end + by;
        }
    }
}

pub(crate) fn broken(error: impl std::fmt::Display) -> Down {
    Down::Broken(error.to_string())
}

/// What a flow's socket brought: a small payload is copied out, so that its slot goes back at
/// once; a large one stays where it will be sealed.
pub(crate) fn chunk(buffer: Buffer, at: Time) -> Chunk<Memory> {
    let len = buffer.payload_len();
    let payload = SLOT_HEADROOM..SLOT_HEADROOM + len;
    if len > GATHERED_MAX {
        return Chunk { memory: Memory::from(buffer), payload, at };
    }
    let copy: Box<[u8]> = buffer.bytes().get(payload).unwrap_or_default().into();
    Chunk { memory: Memory::from(copy), payload: 0..len, at }
}
