//! What becomes of each frame. Reads no clock: the time comes in.

use std::time::Duration;

use super::Link;

/// By how much a reordered frame comes late, over what the others have.
const HELD_BACK: Duration = Duration::from_millis(5);

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is lost, by chance.
    Lost,
    /// It is dropped, for want of room in the rate's queue.
    Overflowed,
    /// It comes out.
    Passes {
        /// When.
        due: Duration,
        /// A second time as well.
        twice: bool,
        /// Later than its turn.
        late: bool,
    },
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Impairment {
    link: Link,
    random: fastrand::Rng,
    /// When the line will have sent all that it was given.
    free: Duration,
    /// When the last frame in order comes out.
    last: Duration,
}

impl Impairment {
    /// The direction number `direction` of `link`; each has chances of its own.
    pub(super) fn new(link: Link, direction: u64) -> Self {
        let random = fastrand::Rng::with_seed(link.seed.wrapping_mul(2).wrapping_add(direction));
        Self { link, random, free: Duration::ZERO, last: Duration::ZERO }
    }

    /// Decides about a frame of `bytes` that came at `now`, a time that only grows.
    pub(super) fn fate(&mut self, now: Duration, bytes: usize) -> Fate {
        if self.happens(self.link.loss) {
            return Fate::Lost;
        }
        let Some(sent) = self.send(now, bytes) else { return Fate::Overflowed };
        let jitter = milliseconds(self.link.jitter_ms * self.random.f64());
        let in_order = (sent + milliseconds(self.link.delay_ms) + jitter).max(self.last);
        let late = self.happens(self.link.reordering);
        let due = if late {
            in_order + HELD_BACK
        } else {
            self.last = in_order;
            in_order
        };
        Fate::Passes { due, twice: self.happens(self.link.duplication), late }
    }

    /// When the line has sent the frame; `None` if it would have to wait for too long.
    fn send(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let Some(rate_mbit) = self.link.rate_mbit else { return Some(now) };
        let begin = self.free.max(now);
        if begin - now > milliseconds(self.link.queue_ms) {
            return None;
        }
        let bits = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0;
        self.free = begin + Duration::from_secs_f64(bits / (rate_mbit * 1e6));
        Some(self.free)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.f64() < share
    }
}

fn milliseconds(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn due(fate: Fate) -> Duration {
        match fate {
            Fate::Passes { due, .. } => due,
            other => panic!("{other:?}"),
        }
    }

    /// Frames of one moment leave one after another, at the rate, until the queue is full.
    #[test]
    fn rate_spaces_frames_and_bounds_their_wait() {
        let link = Link { rate_mbit: Some(8.0), queue_ms: 10.0, delay_ms: 5.0, ..Link::CLEAR };
        let mut line = Impairment::new(link, 0);
        // 1,000 bytes take a millisecond.
        for turn in 1..=11 {
            assert_eq!(due(line.fate(Duration::ZERO, 1_000)), MS * (turn + 5));
        }
        assert_eq!(line.fate(Duration::ZERO, 1_000), Fate::Overflowed);
        assert_eq!(due(line.fate(MS * 2, 1_000)), MS * 17);
    }

    /// Jitter delays, but never changes the order.
    #[test]
    fn jitter_keeps_the_order() {
        let link = Link { delay_ms: 5.0, jitter_ms: 5.0, ..Link::CLEAR };
        let mut line = Impairment::new(link, 0);
        let dues: Vec<_> = (0..1_000).map(|at| due(line.fate(MS * at / 10, 100))).collect();
        assert!(dues.is_sorted());
        assert!(dues.iter().zip(0..).any(|(due, at)| *due > MS * at / 10 + MS * 6));
    }

    /// A frame held back is overtaken by those that follow it.
    #[test]
    fn reordered_frames_are_overtaken() {
        let link = Link { reordering: 0.1, ..Link::CLEAR };
        let mut line = Impairment::new(link, 0);
        let dues: Vec<_> = (0..1_000).map(|at| due(line.fate(MS * at, 100))).collect();
        let overtaken = dues.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((50..150).contains(&overtaken), "{overtaken}");
    }

    /// Chances come out as promised, and the two directions are not each other's copy.
    #[test]
    fn chances_are_kept_in_both_directions_apart() {
        let link = Link { loss: 0.05, duplication: 0.05, ..Link::CLEAR };
        let fates = |direction| {
            let mut line = Impairment::new(link, direction);
            (0..10_000).map(|at| line.fate(MS * at, 100)).collect::<Vec<_>>()
        };
        let lost = |fates: &[Fate]| fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let [outwards, inwards] = [fates(0), fates(1)];
        assert!((400..600).contains(&lost(&outwards)) && outwards != inwards);
        let twice = |fate: &&Fate| matches!(fate, Fate::Passes { twice: true, .. });
        assert!((400..600).contains(&inwards.iter().filter(twice).count()));
    }
}
