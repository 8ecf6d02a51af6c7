//! Bytes that look random and are known from a key, so that both ends can tell any wrong one.

/// Which way a flow's bytes go: each has a pattern of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the swarm to the exchange.
    There,
    /// From the exchange to the swarm.
    Back,
}

/// An endless stream of bytes, handed out piece by piece.
#[derive(Debug)]
pub(super) struct Pattern {
    key: u64,
    offset: u64,
    words: Vec<u8>,
}

impl Pattern {
    pub(super) fn new(seed: u64, way: Way) -> Self {
        let salt = match way {
            Way::There => 0x7468_6572_6500,
            Way::Back => 0x6261_636b_0000,
        };
        Self { key: mix(seed ^ salt), offset: 0, words: Vec::new() }
    }

    /// How many bytes were handed out.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `length` bytes.
    pub(super) fn next(&mut self, length: usize) -> &[u8] {
        let (first, skipped) = (self.offset / 8, self.offset % 8);
        self.offset += length as u64;
        self.words.clear();
        for word in first..self.offset.div_ceil(8) {
            self.words.extend_from_slice(&mix(self.key ^ word).to_be_bytes());
        }
        let skipped = usize::from(u8::try_from(skipped).unwrap_or(0));
        &self.words[skipped..skipped + length]
    }
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
pub(super) fn mix(input: u64) -> u64 {
    let z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the stream is cut into pieces, it is the same stream.
    #[test]
    fn pieces_make_the_same_stream() {
        let whole = Pattern::new(7, Way::There).next(1000).to_vec();
        let mut pattern = Pattern::new(7, Way::There);
        let mut pieces = Vec::new();
        for length in [1, 7, 8, 0, 9, 100, 3, 872] {
            pieces.extend_from_slice(pattern.next(length));
        }
        assert_eq!(pieces, whole);
        assert_ne!(Pattern::new(7, Way::Back).next(1000), whole);
    }
}
