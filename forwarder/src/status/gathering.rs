//! Collects the pumps' reports for whoever asked.

use std::time::{Duration, Instant};

use super::Ask;
use crate::handoff::Report;

/// How long a pump may take to report before the answer goes without it.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Questions that wait for reports.
#[derive(Debug)]
pub struct Gathering<A = Ask> {
    pumps: usize,
    asks: Vec<A>,
    reports: Vec<Report>,
    until: Option<Instant>,
}

impl<A> Gathering<A> {
    /// For a daemon with so many pumps.
    pub fn new(pumps: usize) -> Self {
        Self { pumps, asks: Vec::new(), reports: Vec::new(), until: None }
    }

    /// Takes a question. `true` asks the caller to ask every pump for a report.
    pub fn handle_ask(&mut self, ask: A, now: Instant) -> bool {
        self.asks.push(ask);
        let is_first = self.until.is_none();
        if is_first {
            self.reports.clear();
            self.until = Some(now + WAIT_MAX);
        }
        is_first
    }

    /// Takes a pump's answer.
    pub fn handle_report(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// When to look again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// The questions and the reports to answer them with, once all are there or overdue.
    pub fn poll_answer(&mut self, now: Instant) -> Option<(Vec<A>, Vec<Report>)> {
        let until = self.until?;
        if self.reports.len() < self.pumps && now < until {
            return None;
        }
        self.until = None;
        Some((std::mem::take(&mut self.asks), std::mem::take(&mut self.reports)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reply;

    /// A pump that does not answer delays the answer of the others, but does not prevent it.
    #[test]
    fn an_answer_goes_out_without_a_silent_pump() {
        let start = Instant::now();
        let mut gathering = Gathering::new(2);
        assert!(gathering.handle_ask(Ask(Reply::new().0), start));
        assert!(!gathering.handle_ask(Ask(Reply::new().0), start));
        gathering.handle_report(Report::default());
        assert!(gathering.poll_answer(start).is_none());
        let (asks, reports) = gathering.poll_answer(start + WAIT_MAX).unwrap();
        assert_eq!((asks.len(), reports.len()), (2, 1));
        assert_eq!(gathering.poll_timeout(), None);
    }

    /// With every report there, nobody waits.
    #[test]
    fn an_answer_goes_out_with_the_last_report() {
        let start = Instant::now();
        let mut gathering = Gathering::new(1);
        gathering.handle_ask(Ask(Reply::new().0), start);
        gathering.handle_report(Report::default());
        assert!(gathering.poll_answer(start).is_some());
    }
}
