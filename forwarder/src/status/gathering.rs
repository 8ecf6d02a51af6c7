//! Collects the pumps' reports for whoever asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Ask;
use crate::handoff::{Asked, Report};

/// How long a pump may take to report before the answer goes without it.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Questions that wait for reports.
#[derive(Debug)]
pub struct Gathering<A = Ask> {
    pumps: usize,
    asks: Vec<A>,
    /// Which round the reports are to be of: those of an older one come too late.
    round: u64,
    reports: BTreeMap<usize, Report>,
    until: Option<Instant>,
}

impl<A> Gathering<A> {
    /// For a daemon with so many pumps.
    pub fn new(pumps: usize) -> Self {
        Self { pumps, asks: Vec::new(), round: 0, reports: BTreeMap::new(), until: None }
    }

    /// Takes a question. What is returned asks the caller to ask each pump for a report.
    pub fn handle_ask(&mut self, ask: A, now: Instant) -> Vec<Asked> {
        if self.until.is_none() {
            return self.handle_new_round(ask, now);
        }
        self.asks.push(ask);
        Vec::new()
    }

    /// The same by reports that are yet to be made, also for those who have asked already.
    pub fn handle_new_round(&mut self, ask: A, now: Instant) -> Vec<Asked> {
        self.asks.push(ask);
        self.reports.clear();
        self.until = Some(now + WAIT_MAX);
        self.round += 1;
        (0..self.pumps).map(|pump| Asked { round: self.round, pump }).collect()
    }

    /// Takes a pump's answer.
    pub fn handle_report(&mut self, report: Report) {
        let Asked { round, pump } = report.asked;
        if self.until.is_some() && round == self.round && pump < self.pumps {
            self.reports.insert(pump, report);
        }
    }

    /// When to look again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// How many pumps there are whose report is not among `reports`.
    pub fn silent(&self, reports: &[Report]) -> usize {
        self.pumps.saturating_sub(reports.len())
    }

    /// Whether every pump's report is there.
    pub fn is_complete(&self) -> bool {
        self.reports.len() == self.pumps
    }

    /// The questions and the reports to answer them with, once all are there or overdue.
    pub fn poll_answer(&mut self, now: Instant) -> Option<(Vec<A>, Vec<Report>)> {
        let until = self.until?;
        if !self.is_complete() && now < until {
            return None;
        }
        self.until = None;
        let reports = std::mem::take(&mut self.reports);
        Some((std::mem::take(&mut self.asks), reports.into_values().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reply;

    fn ask() -> Ask {
        Ask::Status(Reply::new().0)
    }

    fn report(asked: Asked) -> Report {
        Report { asked, ..Report::default() }
    }

    /// A pump that does not answer delays the answer of the others, but does not prevent it.
    #[test]
    fn an_answer_goes_out_without_a_silent_pump() {
        let start = Instant::now();
        let mut gathering = Gathering::new(2);
        let asked = gathering.handle_ask(ask(), start);
        assert_eq!(asked.len(), 2);
        assert!(gathering.handle_ask(ask(), start).is_empty());
        gathering.handle_report(report(asked[0]));
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
        let asked = gathering.handle_ask(ask(), start);
        gathering.handle_report(report(asked[0]));
        assert!(gathering.poll_answer(start).is_some());
    }

    /// A report that comes too late for its round stands for nobody's in the next, nor does a pump's
    /// second for another's.
    #[test]
    fn a_late_report_is_not_another_pumps() {
        let start = Instant::now();
        let mut gathering = Gathering::new(2);
        let first = gathering.handle_ask(ask(), start);
        assert!(gathering.poll_answer(start + WAIT_MAX).is_some());
        let second = gathering.handle_ask(ask(), start + WAIT_MAX);
        let round = second.iter().chain(&first[..1]).copied().collect::<Vec<_>>();
        for asked in [round[2], round[0], round[0]] {
            gathering.handle_report(report(asked));
            assert!(gathering.poll_answer(start + WAIT_MAX).is_none());
        }
        gathering.handle_report(report(round[1]));
        let (_, reports) = gathering.poll_answer(start + WAIT_MAX).unwrap();
        assert_eq!(reports.iter().map(|report| report.asked).collect::<Vec<_>>(), second);
    }
}
