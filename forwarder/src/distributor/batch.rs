//! Datagrams on their way out of one socket, gathered for one send (`UDP_SEGMENT`, udp(7)).

use adit_proto::limits::{DATAGRAM_MAX, DATAGRAM_SEGMENTS_MAX};
use adit_ring::{Slice, SliceList};

/// Equal datagrams, of which the last may be shorter.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    slices: SliceList,
    segment: usize,
    bytes: usize,
    /// The last one was shorter, or it stands alone.
    is_closed: bool,
}

/// A batch as it is sent.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) slices: SliceList,
    /// The size of each datagram but the last; `None` of a single one.
    pub(crate) segment: Option<u16>,
}

impl Batch {
    /// Adds datagrams of `segment` bytes each, of which the last may be shorter, or a single one when
    /// that is 0; hands the slice back when the batch has to be sent first.
    pub(crate) fn push(&mut self, segment: usize, slice: Slice) -> Option<Slice> {
        let len = slice.len();
        let size = if segment == 0 { len } else { segment };
        if self.slices.is_empty() {
            (self.segment, self.bytes) = (size, len);
            self.is_closed = len == 0 || !len.is_multiple_of(size);
            self.slices.push(slice);
            return None;
        }
        let is_equal = size == self.segment || len < self.segment && len == size;
        let bytes = self.bytes + len;
        let fits =
            bytes <= DATAGRAM_MAX && bytes.div_ceil(self.segment.max(1)) <= DATAGRAM_SEGMENTS_MAX;
        if self.is_closed || len == 0 || !is_equal || !fits {
            return Some(slice);
        }
        self.bytes = bytes;
        self.is_closed = !len.is_multiple_of(self.segment);
        self.slices.push(slice);
        None
    }

    /// What is to be sent.
    pub(crate) fn poll_send(&mut self) -> Option<Gathered> {
        if self.slices.is_empty() {
            return None;
        }
        let slices = std::mem::take(&mut self.slices);
        let is_single = self.bytes <= self.segment;
        let segment = u16::try_from(self.segment).ok().filter(|_| !is_single);
        Some(Gathered { slices, segment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(len: usize) -> Slice {
        Slice::from(vec![7; len])
    }

    /// Cuts a send as the kernel does.
    fn sizes(gathered: &Gathered) -> Vec<usize> {
        let mut bytes: usize = gathered.slices.iter().map(|slice| slice.len()).sum();
        let Some(segment) = gathered.segment else { return vec![bytes] };
        let mut sizes = Vec::new();
        while bytes > 0 {
            sizes.push(bytes.min(segment.into()));
            bytes -= bytes.min(segment.into());
        }
        sizes
    }

    /// Whatever comes, each datagram leaves with its own size and in its order, and no send has more
    /// than the kernel takes.
    #[test]
    fn datagrams_keep_their_sizes() {
        let inputs =
            [(100, 100), (0, 100), (100, 250), (0, 50), (0, 0), (1_200, 60_000), (1_200, 12_000)];
        let (mut batch, mut sent, mut expected) = (Batch::default(), Vec::new(), Vec::new());
        for (segment, len) in inputs {
            let mut left: usize = len;
            loop {
                let size = if segment == 0 { left } else { left.min(segment) };
                expected.push(size);
                left -= size;
                if left == 0 {
                    break;
                }
            }
            if let Some(slice) = batch.push(segment, slice(len)) {
                sent.extend(batch.poll_send().iter().flat_map(sizes));
                assert!(batch.push(segment, slice).is_none());
            }
        }
        sent.extend(batch.poll_send().iter().flat_map(sizes));
        assert_eq!(sent, expected);
        assert!(batch.poll_send().is_none());
    }

    /// Many equal datagrams go in one send, as many as the kernel takes.
    #[test]
    fn equal_datagrams_are_gathered() {
        let mut batch = Batch::default();
        let taken = (0..200).take_while(|_| batch.push(0, slice(64)).is_none()).count();
        assert_eq!(taken, DATAGRAM_SEGMENTS_MAX);
    }
}
