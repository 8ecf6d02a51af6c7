//! The daemon's part: it asks the pumps for what they have measured, for whoever asked, and for the
//! interval log.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;

use super::log::IntervalLog;
use super::{Figure, Filter, Histograms, exposition};
use crate::api::{Refusal, Reply};
use crate::config::Metrics;
use crate::handoff::{Asked, Command, Report, Times, TimesOf};
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

/// How old what Prometheus is told may be: however often it is asked, pumps are not.
const METRICS_AGE_MAX: Duration = Duration::from_secs(1);

/// What a gathering is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Show(Filter, Reply<Histograms>),
    Metrics(Reply<String>),
    Log,
    /// The interval that a reset ends.
    LogBeforeReset,
}

impl Purpose {
    /// What the pumps are to be asked for.
    fn filter(&self) -> Filter {
        match self {
            Self::Show(filter, _) => filter.clone(),
            Self::Metrics(_) | Self::Log | Self::LogBeforeReset => Filter::default(),
        }
    }
}

/// Requests that wait for the pumps, and the interval log.
#[derive(Debug)]
pub struct Live {
    /// What the names of its metrics begin with.
    prefix: &'static str,
    pumps: usize,
    gathering: Gathering<Purpose>,
    /// What the gathering under way may yet answer; nothing once it is from before a reset.
    gathered: Option<Filter>,
    /// What it cannot, and the next one will.
    waiting: Vec<Purpose>,
    /// What Prometheus was told, and when.
    told: Option<(Instant, String)>,
    log: Option<IntervalLog>,
    since: Instant,
}

/// Requests, and the reports to answer them with.
#[derive(Debug)]
pub struct Answer {
    purposes: Vec<Purpose>,
    times: Vec<Times>,
    /// Whether every pump's are there.
    is_complete: bool,
}

impl Live {
    /// For a daemon with so many pumps, whose metrics' names begin with `prefix`.
    pub fn new(prefix: &'static str, pumps: usize, metrics: &Metrics, now: Instant) -> Self {
        let interval = metrics.histogram_interval;
        let log = metrics.histogram_log.clone();
        let log = log.map(|path| IntervalLog::new(path, interval, now, SystemTime::now()));
        Self {
            prefix,
            pumps,
            gathering: Gathering::new(pumps),
            gathered: None,
            waiting: Vec::new(),
            told: None,
            log,
            since: now,
        }
    }

    /// Takes a request; what each pump is to be told, in this order.
    pub fn handle_request(&mut self, request: TimesRequest, now: Instant) -> Vec<(usize, Command)> {
        let is_fresh = |told: &&(Instant, String)| now < told.0 + METRICS_AGE_MAX;
        match request {
            TimesRequest::Show(filter, reply) => self.ask(Purpose::Show(filter, reply), now),
            TimesRequest::Metrics(reply) => match self.told.as_ref().filter(is_fresh) {
                Some((_, text)) => {
                    reply.send(Ok(text.clone()));
                    Vec::new()
                }
                None => self.ask(Purpose::Metrics(reply), now),
            },
            TimesRequest::Reset(reply) => {
                reply.send(Ok(()));
                self.reset(now)
            }
        }
    }

    fn ask(&mut self, purpose: Purpose, now: Instant) -> Vec<(usize, Command)> {
        let filter = purpose.filter();
        if self.gathering.poll_timeout().is_some() {
            let has_all = |gathered: &Filter| *gathered == Filter::default() || *gathered == filter;
            if !self.gathered.as_ref().is_some_and(has_all) {
                self.waiting.push(purpose);
                return Vec::new();
            }
        } else {
            self.gathered = Some(filter.clone());
        }
        measure(self.gathering.handle_ask(purpose, now), &filter)
    }

    /// Lets everything begin anew, once the log has what there was: a copy is asked for first.
    fn reset(&mut self, now: Instant) -> Vec<(usize, Command)> {
        (self.since, self.told, self.gathered) = (now, None, None);
        let mut commands = Vec::new();
        if self.log.is_some() {
            // Who has asked already gets this copy, too.
            let asked = self.gathering.handle_new_round(Purpose::LogBeforeReset, now);
            commands = measure(asked, &Filter::default());
        }
        commands.extend((0..self.pumps).map(|pump| (pump, Command::ResetTimes)));
        commands
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

    /// Lets time pass; what each pump is to be told. To be called after [`Live::poll_answer`].
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(usize, Command)> {
        let mut commands = Vec::new();
        if self.gathering.poll_timeout().is_none() {
            // The next gathering has something for each of them: those with other filters wait on.
            for purpose in std::mem::take(&mut self.waiting) {
                commands.extend(self.ask(purpose, now));
            }
        }
        if self.log.as_mut().is_some_and(|log| log.is_due(now)) {
            commands.extend(self.ask(Purpose::Log, now));
        }
        commands
    }

    /// What is to be answered by [`Live::answer`], with the pumps' reports, once all are there or
    /// overdue.
    pub fn poll_answer(&mut self, now: Instant) -> Option<(Answer, Vec<Report>)> {
        let is_complete = self.gathering.is_complete();
        let (purposes, mut reports) = self.gathering.poll_answer(now)?;
        let times = merged(reports.iter_mut().filter_map(|report| report.times.take()).flatten());
        Some((Answer { purposes, times, is_complete }, reports))
    }

    /// Answers; `figures` is what a daemon says of itself besides, for Prometheus.
    pub fn answer(&mut self, answer: Answer, figures: &[Figure], now: Instant) {
        let Answer { purposes, times, is_complete } = answer;
        let is_reset = purposes.iter().any(|purpose| matches!(purpose, Purpose::LogBeforeReset));
        for purpose in purposes {
            match purpose {
                Purpose::Show(filter, reply) => {
                    let since = now.saturating_duration_since(self.since);
                    reply.send(Ok(Histograms::new(&times, &filter, since)));
                }
                // Counters that fell and rose again would be taken for a restart.
                Purpose::Metrics(reply) if !is_complete => reply.send(Err(overdue())),
                Purpose::Metrics(reply) => {
                    let text = exposition(self.prefix, figures, &times);
                    // What was measured before a reset is told to nobody after it.
                    self.told = (!is_reset).then(|| (now, text.clone()));
                    reply.send(Ok(text));
                }
                // The reset's line has this interval, too.
                Purpose::Log if is_reset || !is_complete => {}
                Purpose::Log => {
                    if let Some(log) = &mut self.log {
                        log.handle_times(&times, SystemTime::now());
                    }
                }
                Purpose::LogBeforeReset => {
                    if let Some(log) = &mut self.log {
                        log.handle_reset(
                            is_complete.then_some(times.as_slice()),
                            SystemTime::now(),
                        );
                    }
                }
            }
        }
    }
}

fn overdue() -> Refusal {
    let text =
        "not every pump has said what it measured within 1 s: the daemon is overloaded; ask again";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn measure(asked: Vec<Asked>, filter: &Filter) -> Vec<(usize, Command)> {
    let command = |asked: Asked| (asked.pump, Command::Measure(asked, filter.clone()));
    asked.into_iter().map(command).collect()
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
