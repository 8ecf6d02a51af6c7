//! What was measured, as data: every round of every figure, and the times behind the quantiles.
//!
//! A report's table is for a person; this is what its files are made of.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::statistics::Rounds;

/// One figure of one subject.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// The way, and the state that it was measured in if there are several.
    pub(crate) subject: String,
    /// What was measured.
    pub(crate) measure: String,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Each round.
    pub(crate) rounds: Rounds,
}

/// The times of one run, in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// When it began.
    pub(crate) begun: SystemTime,
    /// How long it took.
    pub(crate) took: Duration,
    /// All times.
    pub(crate) times: Histogram<u64>,
}

/// All runs of one subject.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// The way, and its state.
    pub(crate) subject: String,
    /// One for each round.
    pub(crate) runs: Vec<Run>,
}

/// All that a report rests on, in the order in which it was measured first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    /// Figures of rounds.
    pub(crate) figures: Vec<Figure>,
    /// Times, where there are any.
    pub(crate) timings: Vec<Timing>,
}

impl Results {
    /// Adds all rounds of a figure.
    pub(crate) fn figure(
        &mut self,
        subject: impl ToString,
        measure: &str,
        unit: &'static str,
        rounds: &Rounds,
    ) {
        let (subject, measure) = (subject.to_string(), measure.to_owned());
        self.figures.push(Figure { subject, measure, unit, rounds: rounds.clone() });
    }

    /// Adds one round of a figure.
    pub(crate) fn add(
        &mut self,
        subject: impl ToString,
        measure: &str,
        unit: &'static str,
        value: f64,
    ) {
        let subject = subject.to_string();
        let known = |figure: &&mut Figure| figure.subject == subject && figure.measure == measure;
        match self.figures.iter_mut().find(known) {
            Some(figure) => figure.rounds.add(value),
            None => {
                let mut rounds = Rounds::new();
                rounds.add(value);
                self.figure(subject, measure, unit, &rounds);
            }
        }
    }

    /// Adds the times of one run.
    pub(crate) fn add_run(&mut self, subject: impl ToString, run: Run) {
        let subject = subject.to_string();
        match self.timings.iter_mut().find(|timing| timing.subject == subject) {
            Some(timing) => timing.runs.push(run),
            None => self.timings.push(Timing { subject, runs: vec![run] }),
        }
    }

    /// The rounds of a figure.
    pub(crate) fn rounds(&self, subject: impl ToString, measure: &str) -> Option<&Rounds> {
        let subject = subject.to_string();
        let known = |figure: &&Figure| figure.subject == subject && figure.measure == measure;
        self.figures.iter().find(known).map(|figure| &figure.rounds)
    }

    /// The figures of one measure.
    pub(crate) fn of<'a>(&'a self, measure: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.figures.iter().filter(move |figure| figure.measure == measure)
    }

    /// Every measure once, in order.
    pub(crate) fn measures(&self) -> Vec<&str> {
        let mut measures: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !measures.contains(&figure.measure.as_str()) {
                measures.push(&figure.measure);
            }
        }
        measures
    }
}

impl Timing {
    /// The times of all runs together.
    pub(crate) fn all(&self) -> Result<Histogram<u64>, BenchError> {
        let mut runs = self.runs.iter();
        let first = runs.next().map(|run| run.times.clone());
        let mut all = first.ok_or_else(|| BenchError::unexpected(&self.subject, "no runs"))?;
        for run in runs {
            all.add(&run.times)
                .map_err(|error| BenchError::unexpected("a histogram", error.to_string()))?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of the same figure join; another subject's stay apart.
    #[test]
    fn rounds_join_their_own_figure() {
        let mut results = Results::default();
        for (subject, value) in [("a", 1.0), ("b", 5.0), ("a", 2.0)] {
            results.add(subject, "rate", "1/s", value);
        }
        assert_eq!(results.rounds("a", "rate").map(Rounds::each), Some(&[1.0, 2.0][..]));
        assert_eq!(results.measures(), ["rate"]);
        assert_eq!(results.of("rate").count(), 2);
    }
}
