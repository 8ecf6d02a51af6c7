//! Which packets have been opened: none is opened twice (RFC 6479).

use crate::limits::PATH_WINDOW;

const WORD: u64 = u64::BITS as u64;
/// One word more than the window, so that the word being cleared never holds a counter that counts.
const WORDS: usize = (PATH_WINDOW / WORD) as usize + 1;

/// The counters that were seen, of the latest [`PATH_WINDOW`].
#[derive(Debug)]
pub(super) struct Window {
    /// One above the highest counter seen.
    end: u64,
    words: [u64; WORDS],
}

impl Window {
    pub(super) fn new() -> Self {
        Self { end: 0, words: [0; WORDS] }
    }

    /// A window to which every counter below `end` counts as seen.
    pub(super) fn beginning_at(end: u64) -> Self {
        let mut words = [u64::MAX; WORDS];
        // Those of the last word that are still to come are fresh, in whatever order.
        let last = end.saturating_sub(1);
        words[index(last)] = if end == 0 { 0 } else { u64::MAX >> (WORD - 1 - last % WORD) };
        Self { end, words }
    }

    /// One above the highest counter seen.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether a packet with this counter may still be opened.
    pub(super) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.end {
            return true;
        }
        self.end - counter <= PATH_WINDOW && self.words[index(counter)] & bit(counter) == 0
    }

    /// Notes a counter that is fresh and whose packet is authentic; says whether it is the newest.
    pub(super) fn insert(&mut self, counter: u64) -> bool {
        let is_newest = counter >= self.end;
        if is_newest {
            let last = self.end.saturating_sub(1) / WORD;
            let crossed = (counter / WORD - last).min(WORDS as u64);
            for word in 1..=crossed {
                self.words[index((counter / WORD - crossed + word) * WORD)] = 0;
            }
            self.end = counter.saturating_add(1);
        }
        self.words[index(counter)] |= bit(counter);
        is_newest
    }
}

fn index(counter: u64) -> usize {
    (counter / WORD % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any order of counters, the window agrees with a set of all that were seen.
        #[test]
        fn no_counter_is_fresh_twice(steps in prop::collection::vec(
            prop_oneof![-2_200_i64..2_200, -70_i64..70, Just(1), 0_i64..1_000_000], 1..2_000)
        ) {
            let (mut window, mut seen) = (Window::new(), BTreeSet::new());
            let mut highest = 0_u64;
            for step in steps {
                let counter = highest.saturating_add_signed(step);
                let is_newest = seen.last().is_none_or(|last| counter > *last);
                let is_fresh = !seen.contains(&counter)
                    && (is_newest || highest + 1 - counter <= PATH_WINDOW);
                prop_assert_eq!(window.is_fresh(counter), is_fresh);
                if is_fresh {
                    prop_assert_eq!(window.insert(counter), is_newest);
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }

    /// What another process may have seen is not taken again, and what comes later is.
    #[test]
    fn a_window_that_goes_on_takes_nothing_older() {
        for end in [0, 1, 63, 64, 65, 5_000] {
            let mut window = Window::beginning_at(end);
            assert!((0..end).all(|counter| !window.is_fresh(counter)), "{end}");
            for counter in end..end + 3 * PATH_WINDOW {
                assert!(window.is_fresh(counter) && window.insert(counter), "{end} {counter}");
                assert!(!window.is_fresh(counter));
            }
        }
    }

    /// The last counter there is ends the window, and nothing overflows.
    #[test]
    fn the_last_counter_is_taken_once() {
        let mut window = Window::new();
        assert!(window.is_fresh(u64::MAX - 1) && window.insert(u64::MAX - 1));
        assert!(!window.is_fresh(u64::MAX - 1) && window.is_fresh(u64::MAX - 2));
    }
}
