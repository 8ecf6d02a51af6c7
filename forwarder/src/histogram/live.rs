//! The daemon's part: it asks the pumps for what they have measured, for whoever asked, and for the
//! interval log.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use super::log::IntervalLog;
use super::{Figure, Filter, Histograms, exposition};
use crate::api::Reply;
use crate::config::Metrics;
use crate::handoff::{Command, Report, Times, TimesOf};
use crate::status::Gathering;

/// What a daemon's loop is asked for.
#[derive(Debug)]
pub enum TimesRequest {
    /// Histograms.
    Show(Filter, Reply<Histograms>),
    /// Let all of them begin anew.
    Reset(Reply<()>),
    /// Everything, for Prometheus.
    Metrics(Reply<String>),
}

/// What a gathering is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Show(Filter, Reply<Histograms>),
    Metrics(Reply<String>),
    Log,
}

/// Requests that wait for the pumps, and the interval log.
#[derive(Debug)]
pub struct Live {
    /// What the names of its metrics begin with.
    prefix: &'static str,
    gathering: Gathering<Purpose>,
    log: Option<IntervalLog>,
    since: Instant,
}

/// Requests, and the reports to answer them with.
#[derive(Debug)]
pub struct Answer {
    purposes: Vec<Purpose>,
    times: Vec<Times>,
}

impl Live {
    /// For a daemon with so many pumps, whose metrics' names begin with `prefix`.
    pub fn new(prefix: &'static str, pumps: usize, metrics: &Metrics, now: Instant) -> Self {
        let interval = metrics.histogram_interval;
        let log = metrics.histogram_log.clone();
        let log = log.map(|path| IntervalLog::new(path, interval, now, SystemTime::now()));
        Self { prefix, gathering: Gathering::new(pumps), log, since: now }
    }

    /// Takes a request; what the pumps are to be told.
    pub fn handle_request(&mut self, request: TimesRequest, now: Instant) -> Option<Command> {
        let purpose = match request {
            TimesRequest::Show(filter, reply) => Purpose::Show(filter, reply),
            TimesRequest::Metrics(reply) => Purpose::Metrics(reply),
            TimesRequest::Reset(reply) => {
                self.since = now;
                let is_asked = self.gathering.poll_timeout().is_some();
                if let Some(log) = &mut self.log {
                    log.handle_reset(is_asked);
                }
                reply.send(Ok(()));
                return Some(Command::ResetTimes);
            }
        };
        self.gathering.handle_ask(purpose, now).then_some(Command::Measure)
    }

    /// Takes a pump's report that has times.
    pub fn handle_report(&mut self, report: Report) {
        self.gathering.handle_report(report);
    }

    /// When to look again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let log = self.log.as_ref().map(IntervalLog::poll_timeout);
        [log, self.gathering.poll_timeout()].into_iter().flatten().min()
    }

    /// Lets time pass; what the pumps are to be told.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Command> {
        if !self.log.as_mut()?.is_due(now) {
            return None;
        }
        self.gathering.handle_ask(Purpose::Log, now).then_some(Command::Measure)
    }

    /// What is to be answered by [`Live::answer`], with the pumps' reports, once all are there or
    /// overdue.
    pub fn poll_answer(&mut self, now: Instant) -> Option<(Answer, Vec<Report>)> {
        let (purposes, mut reports) = self.gathering.poll_answer(now)?;
        let times = merged(reports.iter_mut().filter_map(|report| report.times.take()).flatten());
        Some((Answer { purposes, times }, reports))
    }

    /// Answers; `figures` is what a daemon says of itself besides, for Prometheus.
    pub fn answer(&mut self, answer: Answer, figures: &[Figure], now: Instant) {
        let Answer { purposes, times } = answer;
        for purpose in purposes {
            match purpose {
                Purpose::Show(filter, reply) => {
                    let since = now.saturating_duration_since(self.since);
                    reply.send(Ok(Histograms::new(&times, &filter, since)));
                }
                Purpose::Metrics(reply) => reply.send(Ok(exposition(self.prefix, figures, &times))),
                Purpose::Log => {
                    if let Some(log) = &mut self.log {
                        log.handle_times(&times, SystemTime::now());
                    }
                }
            }
        }
    }
}

/// What several pumps have of the same name is one.
fn merged(all: impl Iterator<Item = Times>) -> Vec<Times> {
    let mut found: BTreeMap<TimesOf, Times> = BTreeMap::new();
    for times in all {
        match found.get_mut(&times.of) {
            // All have the same bounds: it cannot fail.
            Some(known) => _ = known.histogram.add(&times.histogram).ok(),
            None => _ = found.insert(times.of.clone(), times),
        }
    }
    found.into_values().collect()
}
