//! Round trips on a link that is slower than the machine: what a bulk flow's queue does to them.

use super::Options;
use crate::bed::{Bed, EXTERNAL};
use crate::beside::{
    Kind, STATES, States, Trips, bulk_bytes, measure, milliseconds, results, said,
};
use crate::error::BenchError;
use crate::load::round_trips;
use crate::machine;
use crate::report::{Report, Table};
use crate::way::{ECHO, Way};

/// Measures and reports.
pub(super) fn run(options: &Options, rate_mbit: f64) -> Result<(), BenchError> {
    let usual = [Way::Kernel, Way::Socat, Way::Adit, Way::Rathole, Way::RatholeNoise];
    let usual = if options.shared.smoke { &usual[2..3] } else { &usual };
    let ways = options.shared.ways(usual);
    let mut bed = Bed::over(options.far.path(Some(rate_mbit)), "narrow", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let bytes = bulk_bytes(rate_mbit, options.shared.smoke);
    let states =
        measure(&bed, (&ways, options.rounds), &mut quiet, bytes, &Streams { bed: &bed, options })?;
    conditions.extend(bed.link_condition()?);
    conditions.push(machine::spinners());
    conditions.push(quiet.condition());
    let report = Report {
        name: "latency-narrow".to_owned(),
        title: format!(
            "Round trips of {} bytes on a link of {rate_mbit} Mbit/s, ms, {} rounds",
            size(options),
            options.rounds
        ),
        conditions,
        table: table(&states),
        notes: notes(options),
        results: results(states),
    };
    report.publish(&options.shared)
}

/// Round trips over one connection, each after the one before.
struct Streams<'a> {
    bed: &'a Bed,
    options: &'a Options,
}

impl Kind for Streams<'_> {
    fn wait_until_ready(&self, way: Way) -> Result<(), BenchError> {
        self.bed.wait_until_idle(way)
    }

    fn trips(&self, way: Way) -> Result<Trips, BenchError> {
        let (host, port) = self.bed.entry(way, ECHO);
        let external = self.bed.lab().host(EXTERNAL);
        let Options { count, seconds_max, .. } = *self.options;
        let size = size(self.options);
        let address = format!("{host}:{port}");
        Ok((round_trips(&external, address, count, size, seconds_max)?, None))
    }
}

/// Only the first counts here.
fn size(options: &Options) -> usize {
    options.size.first().copied().unwrap_or(64)
}

fn table(states: &States) -> Table {
    let mut table = Table::new([
        "way",
        "beside",
        "p99 × idle",
        "p50",
        "p99",
        "max",
        "p99 by round",
        "n",
        "bulk, Mbit/s",
    ]);
    for (way, states) in states {
        for (state, beside) in states.iter().zip(STATES) {
            let (Some(times), Some(idle)) = (&state.times, &states[0].times) else { continue };
            let at = |quantile| format!("{:.2}", milliseconds(times, quantile));
            let ratio = milliseconds(times, 0.99) / milliseconds(idle, 0.99);
            let rounds: Vec<_> = state.p99.each().iter().map(|p99| format!("{p99:.1}")).collect();
            table.row([
                way.to_string(),
                said(beside).to_owned(),
                format!("{ratio:.2}"),
                at(0.5),
                at(0.99),
                at(1.0),
                rounds.join(" "),
                times.len().to_string(),
                beside.map_or("–".to_owned(), |_| state.bulk_mbit.summary(1)),
            ]);
        }
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Closed loop over one connection, which is registered as another internal peer than the \
         bulk flow's. × idle: the p99 beside bulk over the same way's own p99 without it."
            .to_owned(),
        "The bulk flow is one TCP connection by iperf3 that fills the link, so that its queue fills \
         too as far as its congestion control lets it."
            .to_owned(),
    ];
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
