//! The report of round trips.

use super::{AllSeries, Options, Series, microseconds};
use crate::report::Table;

/// What was measured, in one line.
pub(super) fn title(options: &Options) -> String {
    let beside = if options.beside_bulk { "beside one bulk flow" } else { "idle" };
    let sizes: Vec<_> = options.size.iter().map(ToString::to_string).collect();
    let (sizes, rounds) = (sizes.join(", "), options.rounds);
    let kind = if options.udp { " as datagrams" } else { "" };
    let rate = options.rate.map_or(String::new(), |rate| format!(", {rate} a second"));
    format!("Round trips of {sizes} bytes{kind}, {beside}{rate}, µs, {rounds} rounds")
}

/// A row for each size and way.
pub(super) fn of(all: &AllSeries, options: &Options) -> Table {
    let yardstick = options.yardstick();
    let mut headings = vec!["way".to_owned()];
    let several = options.size.len() > 1;
    if several {
        headings.push("bytes".to_owned());
    }
    headings.extend(["p50", "p99"].map(|what| format!("{what} × {}", yardstick.short())));
    headings.extend(["p50", "p99", "p99.9", "max", "p99 by round", "n"].map(str::to_owned));
    let more = [
        (options.beside_bulk, "bulk, Gbit/s"),
        (options.udp || options.rate.is_some(), "no answer"),
        (options.rate.is_some(), "generator late, p99"),
    ];
    headings.extend(more.iter().filter(|(shown, _)| *shown).map(|(_, what)| (*what).to_owned()));
    let mut table = Table::new(headings);
    for ((size, way), own) in all {
        let ratio = |quantile: f64| {
            all.get(&(*size, yardstick)).map_or("–".to_owned(), |other| {
                let of = |series: &Series| microseconds(series.all.value_at_quantile(quantile));
                format!("{:.2}", of(own) / of(other))
            })
        };
        let rounds: Vec<_> = own.p99.each().iter().map(|p99| format!("{p99:.0}")).collect();
        let mut row = vec![way.to_string()];
        if several {
            row.push(size.to_string());
        }
        row.extend([ratio(0.5), ratio(0.99)]);
        row.extend([0.5, 0.99, 0.999, 1.0].map(|quantile| own.at(quantile)));
        row.extend([rounds.join(" "), own.all.len().to_string()]);
        let values = [own.bulk_gbits.summary(1), own.lost.to_string(), own.late_us.summary(0)];
        let shown = more.iter().zip(values).filter(|((shown, _), _)| *shown);
        row.extend(shown.map(|(_, value)| value));
        table.row(row);
    }
    table
}

/// What has to be known to read it.
pub(super) fn notes(options: &Options) -> Vec<String> {
    let how = if options.rate.is_some() {
        "Open loop over one flow: each message leaves at its time, whatever became of those before, and \
         its time counts from when it was to leave, so that all that waited behind a stall show it \
         (no coordinated omission). The generator's own lateness, which is part of the times, stands beside. Those \
         without an answer two seconds after the last are in no quantile. Quantiles over all rounds together, \
         which were interleaved."
    } else {
        "Closed loop over one flow: the next round trip begins when the last has ended, so a \
         stall counts once. Quantiles over all rounds together, which were interleaved."
    };
    let mut notes = vec![
        how.to_owned(),
        "A SCHED_IDLE spinner on each core keeps the processors from halting; without it a virtual \
         machine's wake-ups are most of what is measured."
            .to_owned(),
    ];
    if options.beside_bulk {
        notes.push(
            "The bulk flow is iperf3 at full speed, so that all processors are taken: its rate \
             stands beside the times, since whoever moves less disturbs less."
                .to_owned(),
        );
    }
    if options.shared.smoke {
        notes.push("A smoke run: too short for its figures to mean anything.".to_owned());
    }
    notes
}
