//! Randomness that a seed decides, and nothing else.

use std::time::Duration;

/// `splitmix64`: small, and good enough to draw faults from.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Less than `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Between `low` and `high` microseconds; short ones are as likely as long ones.
    pub(crate) fn micros(&mut self, low: u64, high: u64) -> Duration {
        let mut span = high - low + 1;
        for _ in 0..self.below(4) {
            span = span / 8 + 1;
        }
        Duration::from_micros(low + self.draw() % span)
    }

    /// Up to `high`; a few bytes are as likely as many.
    pub(crate) fn size(&mut self, high: usize) -> usize {
        let shift = self.below(high.ilog2() as usize + 1);
        self.below((high >> shift) + 1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}

/// A number that shows no trace of the order of its arguments' values.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
