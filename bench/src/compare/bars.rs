//! What Adit is to reach beside the others, and whether it does.

use clap::ValueEnum;

use super::part::Part;
use super::section::{
    BUSY_LATENCY, DATAGRAMS, EIGHT_INWARDS, EIGHT_OUTWARDS, IDLE_LATENCY, MEMORY, Measure,
    ONE_INWARDS, ONE_OUTWARDS, P50, P99, P999, PROCESSOR, RATE, RELAY, Section,
};
use crate::connections;
use crate::report::Table;
use crate::statistics::Rounds;
use crate::way::Way;

/// What must be true of one figure.
#[derive(Debug, Clone, Copy)]
struct Bar {
    section: Section,
    measure: &'static str,
    bound: Bound,
    /// A goal is not a promise.
    goal: bool,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    /// So many times what another has.
    AtLeast(f64, Way),
    AtMost(f64, Way),
    /// No more than the least of all tunnels beside Adit.
    Lowest,
    /// A figure of its own, in the measure's unit.
    Value(f64),
}

use Bound::{AtLeast, AtMost, Lowest, Value};

const fn bar(section: Section, measure: &'static str, bound: Bound) -> Bar {
    Bar { section, measure, bound, goal: false }
}

const fn goal(section: Section, measure: &'static str, bound: Bound) -> Bar {
    Bar { section, measure, bound, goal: true }
}

const BARS: [Bar; 38] = [
    bar(ONE_INWARDS, RATE, AtLeast(2.0, Way::Rathole)),
    bar(ONE_INWARDS, RATE, AtLeast(4.5, Way::RatholeNoise)),
    bar(ONE_INWARDS, RATE, AtLeast(1.0, Way::Socat)),
    goal(ONE_INWARDS, RATE, AtLeast(0.5, Way::Kernel)),
    goal(ONE_INWARDS, RATE, AtLeast(0.8, Way::HaproxySplice)),
    bar(ONE_INWARDS, PROCESSOR, AtMost(0.5, Way::Rathole)),
    bar(ONE_INWARDS, PROCESSOR, AtMost(0.2, Way::RatholeNoise)),
    goal(ONE_INWARDS, PROCESSOR, Value(0.6)),
    bar(ONE_OUTWARDS, RATE, AtLeast(2.0, Way::Rathole)),
    bar(ONE_OUTWARDS, RATE, AtLeast(4.5, Way::RatholeNoise)),
    bar(ONE_OUTWARDS, RATE, AtLeast(1.0, Way::Socat)),
    goal(ONE_OUTWARDS, RATE, AtLeast(0.5, Way::Kernel)),
    goal(ONE_OUTWARDS, RATE, AtLeast(0.8, Way::HaproxySplice)),
    bar(ONE_OUTWARDS, PROCESSOR, AtMost(0.5, Way::Rathole)),
    bar(ONE_OUTWARDS, PROCESSOR, AtMost(0.2, Way::RatholeNoise)),
    goal(ONE_OUTWARDS, PROCESSOR, Value(0.6)),
    bar(EIGHT_INWARDS, RATE, AtLeast(1.8, Way::Rathole)),
    goal(EIGHT_INWARDS, RATE, AtLeast(0.8, Way::HaproxySplice)),
    bar(EIGHT_INWARDS, PROCESSOR, AtMost(0.5, Way::Rathole)),
    bar(EIGHT_INWARDS, PROCESSOR, AtMost(0.2, Way::RatholeNoise)),
    bar(EIGHT_OUTWARDS, RATE, AtLeast(1.8, Way::Rathole)),
    goal(EIGHT_OUTWARDS, RATE, AtLeast(0.8, Way::HaproxySplice)),
    bar(EIGHT_OUTWARDS, PROCESSOR, AtMost(0.5, Way::Rathole)),
    bar(EIGHT_OUTWARDS, PROCESSOR, AtMost(0.2, Way::RatholeNoise)),
    bar(IDLE_LATENCY, P50, AtMost(1.0, Way::Socat)),
    bar(IDLE_LATENCY, P999, Lowest),
    goal(IDLE_LATENCY, P50, AtMost(1.2, Way::Kernel)),
    bar(BUSY_LATENCY, P99, AtMost(0.2, Way::Rathole)),
    bar(BUSY_LATENCY, P99, Value(1_000.0)),
    goal(BUSY_LATENCY, P99, Value(300.0)),
    bar(Section::Connections, connections::RATE, AtLeast(1.2, Way::Rathole)),
    goal(Section::Connections, connections::RATE, AtLeast(1.0, Way::Haproxy)),
    bar(Section::Idle, MEMORY, Value(2.0)),
    goal(Section::Idle, MEMORY, Value(1.0)),
    bar(Section::Watched, RELAY, Value(0.5)),
    bar(Section::Datagrams, DATAGRAMS, AtLeast(3.0, Way::Rathole)),
    bar(Section::Datagrams, DATAGRAMS, AtLeast(1.5, Way::Boringtun)),
    goal(Section::Datagrams, DATAGRAMS, AtLeast(0.5, Way::Kernel)),
];

/// All bars and goals, and what came of them.
pub(super) fn table(part: &Part) -> Table {
    let mut table = Table::new(["measure", "", "wanted", "found", "result"]);
    for bar in BARS {
        let (found, result) = match bar.found(part) {
            Some(found) => (found.summary(bar.decimals()), bar.result(found.median())),
            None => ("–".to_owned(), "not measured".to_owned()),
        };
        table.row([
            format!("{}: {}", bar.section.name().replace('-', " "), bar.measure),
            if bar.goal { "goal" } else { "bar" }.to_owned(),
            bar.wanted(),
            found,
            result,
        ]);
    }
    table
}

impl Bar {
    fn wanted(&self) -> String {
        match self.bound {
            AtLeast(factor, way) => format!("≥ {factor} × {way}"),
            AtMost(factor, way) => format!("≤ {factor} × {way}"),
            Lowest => "≤ 1 × the lowest of the other tunnels".to_owned(),
            Value(bound) => format!("≤ {bound} {}", self.unit()),
        }
    }

    fn unit(&self) -> &'static str {
        self.of_section().map_or("", |measure| measure.unit)
    }

    /// A ratio has two; a figure as many as in its own table.
    fn decimals(&self) -> usize {
        match self.bound {
            Value(_) => self.of_section().map_or(2, |measure| measure.decimals),
            AtLeast(..) | AtMost(..) | Lowest => 2,
        }
    }

    fn of_section(&self) -> Option<&'static Measure> {
        self.section.measures().iter().find(|known| known.name == self.measure)
    }

    /// Adit's figure, or its ratio to what it is held against.
    fn found(&self, part: &Part) -> Option<Rounds> {
        let of = |way| part.rounds(self.section, way, self.measure);
        let adit = of(Way::Adit)?;
        let found = match self.bound {
            AtLeast(_, way) | AtMost(_, way) => adit.ratio(of(way)?),
            Value(_) => adit.clone(),
            Lowest => {
                let ways =
                    Way::value_variants().iter().copied().filter(|way| way.is_other_tunnel());
                let others = ways.filter_map(of).filter(|rounds| is_known(rounds));
                adit.ratio(others.min_by(|a, b| a.median().total_cmp(&b.median()))?)
            }
        };
        Some(found).filter(is_known)
    }

    /// Met, or by how much it is missed.
    fn result(&self, found: f64) -> String {
        let (met, missed) = match self.bound {
            AtLeast(bound, _) => (found >= bound, 1.0 - found / bound),
            AtMost(bound, _) | Value(bound) => (found <= bound, found / bound - 1.0),
            Lowest => (found <= 1.0, found - 1.0),
        };
        if met { "met".to_owned() } else { format!("missed by {:.0} %", missed * 100.0) }
    }
}

/// Whether any round came to something: a run that failed meets no bar.
fn is_known(rounds: &Rounds) -> bool {
    rounds.median().is_finite() && rounds.each().iter().any(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::Congestion;
    use crate::compare::section::SECTIONS;
    use crate::results::Results;

    /// Every bar is of a figure that its section has.
    #[test]
    fn bars_name_figures_that_are_measured() {
        for bar in BARS {
            assert!(!bar.unit().is_empty(), "{bar:?}");
            assert!(SECTIONS.contains(&bar.section), "{bar:?}");
        }
    }

    /// A bound is met by its own figure, and missed by what lies beyond.
    #[test]
    fn bounds_are_met_by_themselves() {
        let faster = bar(ONE_INWARDS, RATE, AtLeast(2.0, Way::Rathole));
        assert_eq!(faster.result(2.0), "met");
        assert_eq!(faster.result(1.5), "missed by 25 %");
        let smaller = bar(Section::Idle, MEMORY, Value(2.0));
        assert_eq!(smaller.result(2.0), "met");
        assert_eq!(smaller.result(3.0), "missed by 50 %");
    }

    /// What another way would be needed for is not measured without it.
    #[test]
    fn missing_ways_leave_their_bars_open() {
        let mut results = Results::default();
        results.add(Way::Adit, RATE, "Gbit/s", 10.0);
        results.add(Way::Rathole, RATE, "Gbit/s", 4.0);
        let mut part = Part::new(Congestion::Machines, Vec::new(), &[]);
        part.sections.push((ONE_INWARDS, results));
        let of = |part: &Part, bar: Bar| bar.found(part).map(|found| found.median());
        let found = |bar: Bar| of(&part, bar);
        assert_eq!(found(bar(ONE_INWARDS, RATE, AtLeast(2.0, Way::Rathole))), Some(2.5));
        assert_eq!(found(bar(ONE_INWARDS, RATE, AtLeast(1.0, Way::Socat))), None);
        assert_eq!(found(bar(EIGHT_INWARDS, RATE, AtLeast(1.8, Way::Rathole))), None);
        // A run that came to nothing is none either, though nothing is less than any bound.
        part.sections[0].1.add(Way::Adit, PROCESSOR, "s/GiB", f64::NAN);
        let of_failed = bar(ONE_INWARDS, PROCESSOR, Value(0.6)).found(&part);
        assert!(of_failed.is_none(), "{of_failed:?}");
    }
}
