//! Many rows, some at once.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Finding, Row, examine};

/// A row with what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The row.
    pub row: Row,
    /// What was found.
    pub finding: Finding,
}

/// What happens while a suite runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A row begins.
    Begun(Row),
    /// A row is over; so many are, and so many there are.
    Over(&'a Examined, usize, usize),
}

/// Rows to play.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Which.
    pub rows: Vec<Row>,
    /// How many at once.
    pub jobs: usize,
    /// A shell script for each gateway, after its preset's rules.
    pub rules: Option<String>,
}

impl Suite {
    /// Plays all of them; what was found is in the order of the rows. Those that compare speeds which
    /// no line limits come last, one by one: beside others the machine would be what is compared.
    #[must_use]
    pub fn run(&self, tell: impl Fn(Progress<'_>) + Sync) -> Vec<Examined> {
        let over = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        // The last rows of the table are the faults, which last longest and mostly wait: first
        // begun, they are over when the others are.
        let (timed, others): (Vec<_>, Vec<_>) =
            self.rows.iter().copied().enumerate().rev().partition(|(_, row)| row.is_timed());
        for (rows, jobs) in [(others, self.jobs.max(1)), (timed, 1)] {
            let next = AtomicUsize::new(0);
            let play = || {
                while let Some(&(index, row)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    tell(Progress::Begun(row));
                    let examined = Examined { row, finding: examine(&row, self.rules.as_deref()) };
                    let over = over.fetch_add(1, Ordering::Relaxed) + 1;
                    tell(Progress::Over(&examined, over, self.rows.len()));
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((index, examined));
                }
            };
            thread::scope(|scope| {
                for _ in 0..jobs {
                    scope.spawn(play);
                }
            });
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, examined)| examined).collect()
    }
}
