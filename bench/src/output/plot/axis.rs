//! A linear axis with marks at given places, which are labelled and nothing else is.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Ranged;

/// The axis.
pub(super) struct Axis {
    inner: RangedCoordf64,
    marks: Vec<f64>,
}

impl Axis {
    /// From zero to `end`.
    pub(super) fn new(end: f64, marks: Vec<f64>) -> Self {
        Self { inner: (0.0..end).into(), marks }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.inner.range()
    }
}
