//! Datagrams beside a bulk flow on a link that is slower than the machine, and that may lose some: what
//! both do to round trips that wait for nobody.

use super::Options;
use crate::bed::{Bed, EXTERNAL};
use crate::beside::{
    Kind, STATES, States, Trips, bulk_bytes, measure, milliseconds, results, said,
};
use crate::error::BenchError;
use crate::load::{Pace, paced};
use crate::machine;
use crate::report::{Report, Table};
use crate::way::{DATAGRAM_ECHO, Way};

/// Round trips a second: speech.
const PER_SECOND: u32 = 50;
/// Bytes of each.
const SIZE: usize = 160;

/// Measures and reports.
pub(super) fn run(options: &Options, rate_mbit: f64) -> Result<(), BenchError> {
    let ways = options.ways();
    let mut bed = Bed::with_datagrams(options.far.path(Some(rate_mbit)), "udp-beside", &ways)?;
    let mut conditions = machine::conditions(bed.lab(), &ways)?;
    let mut quiet = options.shared.quiet();
    let bytes = bulk_bytes(rate_mbit, options.shared.smoke);
    let states = measure(
        &bed,
        (&ways, options.rounds),
        &mut quiet,
        bytes,
        &Datagrams { bed: &bed, options },
    )?;
    conditions.extend(bed.link_condition()?);
    conditions.push(machine::spinners());
    conditions.push(quiet.condition());
    let report = Report {
        name: "udp-beside-bulk".to_owned(),
        title: format!(
            "{PER_SECOND} datagrams a second and back on a link of {rate_mbit} Mbit/s, ms, {} rounds",
            options.rounds
        ),
        conditions,
        table: table(&states),
        notes: notes(options),
        results: results(states),
    };
    report.publish(&options.shared)
}

/// Datagrams that leave at their times.
struct Datagrams<'a> {
    bed: &'a Bed,
    options: &'a Options,
}

impl Kind for Datagrams<'_> {
    fn wait_until_ready(&self, _way: Way) -> Result<(), BenchError> {
        // Flows of datagrams have no end that could be waited for.
        Ok(())
    }

    fn trips(&self, way: Way) -> Result<Trips, BenchError> {
        let (host, port) = self.bed.entry(way, DATAGRAM_ECHO);
        let external = self.bed.lab().host(EXTERNAL);
        let address = format!("{host}:{port}");
        let seconds = self.options.seconds;
        let pace = Pace { per_second: PER_SECOND, size: SIZE, seconds, is_datagrams: true };
        let trips = paced(&external, address, pace)?;
        Ok((trips.times, Some(trips.lost)))
    }
}

fn table(states: &States) -> Table {
    let mut table = Table::new([
        "way",
        "beside",
        "p99 × idle",
        "p50 × idle",
        "p50",
        "p99",
        "max",
        "p99 by round",
        "n",
        "lost",
        "bulk, Mbit/s",
    ]);
    for (way, states) in states {
        for (state, beside) in states.iter().zip(STATES) {
            let (Some(times), Some(idle)) = (&state.times, &states[0].times) else { continue };
            let at = |quantile| format!("{:.2}", milliseconds(times, quantile));
            let ratio = |of| format!("{:.2}", milliseconds(times, of) / milliseconds(idle, of));
            let rounds: Vec<_> = state.p99.each().iter().map(|p99| format!("{p99:.1}")).collect();
            table.row([
                way.to_string(),
                said(beside).to_owned(),
                ratio(0.99),
                ratio(0.5),
                at(0.5),
                at(0.99),
                at(1.0),
                rounds.join(" "),
                times.len().to_string(),
                state.lost.to_string(),
                beside.map_or("–".to_owned(), |_| state.bulk_mbit.summary(1)),
            ]);
        }
    }
    table
}

fn notes(options: &Options) -> Vec<String> {
    let mut notes = vec![
        "Open loop: each datagram leaves at its time, whatever became of the one before, and its time \
         counts from then. × idle: \
         beside bulk over the same way's own without it. Lost: on the link or on the way."
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
