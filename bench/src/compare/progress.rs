//! How far a long run has come.

use std::time::{Duration, Instant};

/// What was expected, and what it took so far.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Seconds that all runs were estimated to take, and those that are done.
    all: f64,
    done: f64,
}

impl Progress {
    /// Says what to expect.
    pub(super) fn new(seconds: f64) -> Self {
        eprintln!("about {:.0} minutes, on a quiet machine", (seconds / 60.0).ceil());
        Self { begun: Instant::now(), all: seconds, done: 0.0 }
    }

    /// Begins the line of a run, which the run itself ends.
    pub(super) fn step(&mut self, name: &str) {
        let percent = 100.0 * self.done / self.all.max(1.0);
        let left = left(self.begun.elapsed(), self.done, self.all);
        let left = left.map_or(String::new(), |left| format!(", {:.0} s left", left.as_secs_f64()));
        eprint!("[{percent:.0} %{left}] {name}, ");
    }

    /// A run that was estimated to take so many seconds is over.
    pub(super) fn done(&mut self, seconds: f64) {
        self.done += seconds;
    }
}

/// What is left if the rest is as far from its estimate as what is done; too little done tells nothing.
fn left(took: Duration, done: f64, all: f64) -> Option<Duration> {
    let pace = (done > 0.02 * all).then(|| took.as_secs_f64() / done)?;
    Some(Duration::from_secs_f64(((all - done) * pace).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine at half the speed takes twice as long for the rest as well.
    #[test]
    fn what_is_left_keeps_the_pace() {
        assert_eq!(left(Duration::from_secs(40), 20.0, 100.0), Some(Duration::from_secs(160)));
        assert_eq!(left(Duration::from_secs(40), 0.0, 100.0), None);
        assert_eq!(left(Duration::from_secs(40), 120.0, 100.0), Some(Duration::ZERO));
    }
}
