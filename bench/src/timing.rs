//! Whether the time that secrets are compared in tells anything of them.
//!
//! Two kinds of wrong secrets are compared with the right one, in random order: those that differ in
//! their first byte, and those that differ in their last. Were the comparison to end at the first
//! difference, the second kind would take longer. Welch's t-test decides, as in dudect (Reparaz and
//! others, 2017): below 4.5 nothing is seen. The control is a comparison that does end there, which
//! must be seen.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

use adit::api::{Asker, Caller};
use adit::config::{Contacts, Sha256, Token as ApiToken};
use adit::invitation::SecretDigest;
use adit::key::PublicKey;
use adit::probe::{Ping, Token};
use clap::Args;

use crate::cli::Shared;
use crate::error::BenchError;
use crate::machine;
use crate::report::{Report, Table};
use crate::results::Results;

/// Above it a difference is taken to be one.
const T_MAX: f64 = 4.5;
/// Comparisons in one measurement: the clock is coarser than one of them.
const A_MEASUREMENT: usize = 16;
/// The longest tenth of all measurements is interrupts and other processes.
const KEPT: f64 = 0.9;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Comparisons of each secret, with either kind of wrong one half of them.
    #[arg(long, default_value_t = 2_000_000)]
    compares: usize,
    #[command(flatten)]
    shared: Shared,
}

/// One measurement, in nanoseconds: of the right secret with a wrong one, of the first kind or the second.
type Measure = Box<dyn Fn(bool) -> f64>;

struct Subject {
    name: &'static str,
    /// Whether it has to be seen.
    is_control: bool,
    measure: Measure,
}

impl Subject {
    fn new<W: Copy + 'static>(
        name: &'static str,
        wrongs: [W; 2],
        compare: impl Fn(&W) -> bool + 'static,
    ) -> Self {
        let measure = move |is_late| {
            // Both kinds are compared at the same place: else its alignment is what is measured.
            let wrong = black_box(wrongs[usize::from(is_late)]);
            let begun = Instant::now();
            for _ in 0..A_MEASUREMENT {
                black_box(compare(black_box(&wrong)));
            }
            begun.elapsed().as_secs_f64() * 1e9
        };
        Self { name, is_control: false, measure: Box::new(measure) }
    }
}

/// Measures and reports.
pub(crate) fn run(mut options: Options) -> Result<(), BenchError> {
    if options.shared.smoke {
        options.compares = 100_000;
    }
    let mut table = Table::new(["secret", "compares", "|t|", "bound"]);
    let (mut results, mut bad) = (Results::default(), None);
    for Subject { name, is_control, measure } in subjects()? {
        let t = t_of(&measure, options.compares / A_MEASUREMENT);
        let bound = if is_control { "more than 4.5" } else { "less than 4.5" };
        let compares = options.compares.to_string();
        table.row([name.to_owned(), compares, format!("{t:.2}"), bound.to_owned()]);
        results.add(name, "t", "", t);
        if (t > T_MAX) != is_control {
            bad = bad.or(Some(BenchError::Telling { what: name, t, should: bound }));
        }
    }
    let report = Report {
        name: "timing".to_owned(),
        title: "Time to compare secrets that differ early and late".to_owned(),
        conditions: machine::bare_conditions(),
        table,
        notes: vec![
            "Welch's t of two kinds of wrong secrets: those whose first byte differs, and those whose \
             last does. The longest tenth of all times is left out."
                .to_owned(),
        ],
        results,
    };
    report.publish(&options.shared)?;
    bad.map_or(Ok(()), Err)
}

/// Of 32 bytes, those with another byte at one end.
fn wrong(right: [u8; 32]) -> [[u8; 32]; 2] {
    let (mut early, mut late) = (right, right);
    early[0] ^= 1;
    late[31] ^= 1;
    [early, late]
}

fn subjects() -> Result<[Subject; 5], BenchError> {
    let right: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
    let wrongs = wrong(right);

    let key = PublicKey::from(right);
    let keys = wrongs.map(PublicKey::from);

    let digest = |bytes: [u8; 32]| -> Result<SecretDigest, BenchError> {
        let text = bytes.map(|byte| format!("{byte:02x}")).concat();
        serde_json::from_value(text.into()).map_err(|error: serde_json::Error| {
            BenchError::unexpected("a digest", error.to_string())
        })
    };
    let (kept, others) = (digest(right)?, [digest(wrongs[0])?, digest(wrongs[1])?]);

    let token = Token::generate()
        .map_err(|error| BenchError::unexpected("randomness", error.to_string()))?;
    let ping = Ping { token, number: 0 }.to_bytes();
    let (mut early, mut late) = (ping, ping);
    early[0] ^= 1;
    late[15] ^= 1;
    let pings = [early, late];

    let tokens =
        [ApiToken { peer: "web".to_owned(), sha256: Sha256(right), contacts: Contacts::default() }];
    let caller = Caller::Remote((Ipv4Addr::LOCALHOST, 1).into());
    let askers = wrongs.map(|wrong| Asker { caller, token: Some(Sha256(wrong)) });

    let control = Subject::new("control: ends at the first difference", wrongs, move |wrong| {
        ends_early(&right, wrong)
    });
    Ok([
        Subject { is_control: true, ..control },
        Subject::new("a peer's public key", keys, move |wrong| black_box(key) == *wrong),
        Subject::new("an invitation's digest", others, move |wrong| black_box(kept) == *wrong),
        Subject::new("a probe's token", pings, move |wrong| token.is_before(wrong)),
        Subject::new("a token of the API", askers, move |asker| asker.access(&tokens).is_ok()),
    ])
}

fn ends_early(one: &[u8; 32], other: &[u8; 32]) -> bool {
    for (one, other) in one.iter().zip(other) {
        if black_box(one) != black_box(other) {
            return false;
        }
    }
    true
}

/// Welch's t, without its sign, of so many measurements.
fn t_of(measure: &Measure, measurements: usize) -> f64 {
    let mut random = fastrand::Rng::with_seed(1);
    let mut times: Vec<(bool, f64)> = Vec::with_capacity(measurements);
    for _ in 0..measurements {
        let is_late = random.bool();
        times.push((is_late, measure(is_late)));
    }
    let mut sorted: Vec<f64> = times.iter().map(|(_, ns)| *ns).collect();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
    #[expect(clippy::cast_possible_truncation, reason = "an index")]
    #[expect(clippy::cast_sign_loss, reason = "a product of positives")]
    let kept = (sorted.len() as f64 * KEPT) as usize;
    let longest = sorted.get(kept).copied().unwrap_or(f64::MAX);
    let of = |late: bool| {
        times
            .iter()
            .filter(move |(is_late, ns)| *is_late == late && *ns <= longest)
            .map(|(_, ns)| *ns)
    };
    welch(of(false).collect(), of(true).collect())
}

fn welch(one: Vec<f64>, other: Vec<f64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 52 bits")]
    let moments = |sample: &[f64]| {
        let count = (sample.len() as f64).max(2.0);
        let mean = sample.iter().sum::<f64>() / count;
        let squares = sample.iter().map(|ns| (ns - mean) * (ns - mean)).sum::<f64>();
        (mean, squares / (count - 1.0) / count)
    };
    let ((mean, error), (other_mean, other_error)) = (moments(&one), moments(&other));
    (mean - other_mean).abs() / (error + other_error).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A difference of means beyond the noise is seen, and noise alone is not.
    #[test]
    fn a_difference_is_told_from_noise() {
        let noise = |seed, shift: f64| -> Vec<f64> {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..20_000).map(|_| random.f64() + shift).collect()
        };
        assert!(welch(noise(1, 0.0), noise(2, 0.0)) < T_MAX);
        assert!(welch(noise(1, 0.0), noise(2, 0.05)) > T_MAX);
    }
}
