//! Plots as SVG. Text stays text, in whatever font the reader has.

mod axis;

use std::fmt::Display;
use std::path::Path;

use adit::histogram::write_svg;
use plotters::prelude::*;

use self::axis::Axis;
use crate::error::BenchError;
use crate::results::{Figure, Timing};

const SIZE: (u32, u32) = (960, 540);
const FONT: &str = "sans-serif";
/// A bar's height, and what is above and below all of them, in pixels.
const BAR_PIXELS: u32 = 36;
const AROUND_BARS_PIXELS: u32 = 110;
/// Half of a bar, where bars are one apart.
const HALF_BAR: f64 = 0.35;

/// Curves of time over percentile, one for each subject.
pub(super) fn percentiles(title: &str, timings: &[Timing], path: &Path) -> Result<(), BenchError> {
    let named = |timing: &Timing| Ok((timing.subject.clone(), timing.all()?));
    let all = timings.iter().map(named).collect::<Result<Vec<_>, BenchError>>()?;
    write_svg(title, &all, path).map_err(|error| failed(path, &error))
}

/// A bar for each figure's median, with a line over its range.
pub(super) fn bars(title: &str, figures: &[&Figure], path: &Path) -> Result<(), BenchError> {
    let wrong = |error: &dyn Display| failed(path, error);
    let rows = u32::try_from(figures.len()).unwrap_or(u32::MAX).clamp(1, 100);
    let ends = figures.iter().flat_map(|figure| figure.rounds.each());
    let most = ends.copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let most = if most > 0.0 { most } else { 1.0 };
    let root = SVGBackend::new(path, (SIZE.0, AROUND_BARS_PIXELS + rows * BAR_PIXELS));
    let root = root.into_drawing_area();
    root.fill(&WHITE).map_err(|error| wrong(&error))?;
    let keys: Vec<f64> = (0..rows).map(|row| f64::from(row) + 0.5).collect();
    // The first figure stands on top.
    let name = |at: &f64| {
        let row = (0..rows).find(|row| f64::from(rows - row) - 0.5 == *at);
        let figure = row.and_then(|row| figures.get(usize::try_from(row).ok()?));
        figure.map_or(String::new(), |figure| figure.subject.clone())
    };
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 18))
        .margin(12)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(190)
        .build_cartesian_2d(0.0..most * 1.05, Axis::new(f64::from(rows), keys))
        .map_err(|error| wrong(&error))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_max_light_lines(1)
        .x_desc(figures.first().map_or("", |figure| figure.unit))
        .y_label_formatter(&name)
        .y_label_style((FONT, 13))
        .draw()
        .map_err(|error| wrong(&error))?;
    for (row, figure) in (0..rows).zip(figures) {
        let middle = f64::from(rows - row) - 0.5;
        let median = figure.rounds.median();
        if !median.is_finite() {
            continue;
        }
        let corners = [(0.0, middle - HALF_BAR), (median, middle + HALF_BAR)];
        let bar = Rectangle::new(corners, BLUE.mix(0.35).filled());
        let known = figure.rounds.each().iter().filter(|value| value.is_finite());
        let range = known.map(|value| (*value, middle));
        let range = PathElement::new(range.collect::<Vec<_>>(), BLACK.stroke_width(2));
        chart.draw_series([bar]).map_err(|error| wrong(&error))?;
        chart.draw_series([range]).map_err(|error| wrong(&error))?;
    }
    root.present().map_err(|error| wrong(&error))
}

fn failed(path: &Path, error: &dyn Display) -> BenchError {
    BenchError::unexpected(format!("the plot {}", path.display()), error.to_string())
}
