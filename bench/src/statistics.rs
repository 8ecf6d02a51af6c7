//! Medians and ranges of a few rounds, and times of all of them.

use hdrhistogram::Histogram;

use crate::error::BenchError;

/// Both histograms in one.
pub(crate) fn joined(
    all: Option<Histogram<u64>>,
    more: Histogram<u64>,
) -> Result<Histogram<u64>, BenchError> {
    let Some(mut all) = all else { return Ok(more) };
    let added = all.add(&more);
    added.map_err(|error| BenchError::unexpected("a histogram", error.to_string()))?;
    Ok(all)
}

/// What a handful of rounds showed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a round.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The rounds in their order.
    pub(crate) fn each(&self) -> &[f64] {
        &self.0
    }

    /// Each round against the same round of `other`, which the same noise befell.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }

    /// The middle round, or the mean of the two in the middle; 0 without any.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            count if count % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// `median (least–most)`, or the value alone when there is but one.
    pub(crate) fn summary(&self, decimals: usize) -> String {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(least), Some(most)) if sorted.len() > 1 => {
                format!("{:.decimals$} ({least:.decimals$}–{most:.decimals$})", self.median())
            }
            (Some(only), _) => format!("{only:.decimals$}"),
            _ => "–".to_owned(),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        // A run that came to nothing has its place among the rounds, but no value.
        let mut sorted: Vec<_> = self.0.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Rounds {
        Rounds(values.to_vec())
    }

    /// Without rounds there is nothing to show, and nothing to divide by.
    #[test]
    fn no_rounds_show_a_dash() {
        assert_eq!(rounds(&[]).summary(1), "–");
        assert!(rounds(&[]).median() == 0.0);
    }

    /// One slow round moves the range, not the median.
    #[test]
    fn median_is_not_moved_by_one_outlier() {
        assert_eq!(rounds(&[9.0, 1.0, 10.0]).summary(1), "9.0 (1.0–10.0)");
        assert!(rounds(&[1.0, 2.0, 3.0, 100.0]).median() == 2.5);
    }
}
