//! Whether memory grows: a straight line through what was seen of it.

use std::time::Duration;

/// What was seen, as sums: all that a straight line needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    first_min: Option<f64>,
    last_min: f64,
    count: f64,
    minutes: f64,
    kib: f64,
    minutes_squared: f64,
    minutes_kib: f64,
}

impl Memory {
    /// So many bytes at that time.
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 52 bits of KiB")]
    pub(super) fn add(&mut self, at: Duration, bytes: u64) {
        let (minutes, kib) = (at.as_secs_f64() / 60.0, bytes as f64 / 1_024.0);
        // Relative to the first: the squares stay small.
        let minutes = minutes - *self.first_min.get_or_insert(minutes);
        self.last_min = minutes;
        self.count += 1.0;
        self.minutes += minutes;
        self.kib += kib;
        self.minutes_squared += minutes * minutes;
        self.minutes_kib += minutes * kib;
    }

    /// On average.
    pub(super) fn mean_kib(&self) -> f64 {
        self.kib / self.count.max(1.0)
    }

    /// Of the line with the least squares.
    pub(super) fn slope_kib_per_min(&self) -> f64 {
        let spread = self.count * self.minutes_squared - self.minutes * self.minutes;
        if spread <= 0.0 {
            return 0.0;
        }
        (self.count * self.minutes_kib - self.minutes * self.kib) / spread
    }

    /// By how much the line rises from its first to its last point.
    pub(super) fn growth_kib(&self) -> f64 {
        self.slope_kib_per_min() * self.last_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kib_at: impl Fn(u64) -> u64) -> Memory {
        let mut memory = Memory::default();
        (30..90).for_each(|second| memory.add(Duration::from_secs(second), kib_at(second) * 1_024));
        memory
    }

    /// A leak shows in slope and growth, and what goes up and down does not.
    #[test]
    fn a_leak_shows_and_a_swing_does_not() {
        let leak = seen(|second| 10_000 + 2 * second);
        assert!((leak.slope_kib_per_min() - 120.0).abs() < 0.1, "{leak:?}");
        assert!((leak.growth_kib() - 118.0).abs() < 0.1, "{leak:?}");
        let swing = seen(|second| 10_000 + 500 * (second % 2));
        assert!(swing.growth_kib().abs() < 50.0, "{swing:?}");
        assert!(Memory::default().growth_kib().abs() < f64::EPSILON);
    }
}
