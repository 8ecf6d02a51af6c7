//! Percentiles as a plot in SVG. Text stays text, in whatever font the reader has.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::hgrm::in_us;

const SIZE: (u32, u32) = (960, 540);
const FONT: &str = "sans-serif";
/// Steps of a curve for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 20;

/// A plot that could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the plot {path}: {reason}", path = .path.display())]
pub struct BadPlot {
    /// Where to.
    path: PathBuf,
    /// Why.
    reason: String,
}

/// Writes a curve of time over percentile for each histogram, both axes logarithmic.
///
/// # Errors
/// When the file cannot be written.
pub fn write_svg(
    title: &str,
    all: &[(String, Histogram<u64>)],
    path: &Path,
) -> Result<(), BadPlot> {
    let bad = |error: &dyn Display| BadPlot { path: path.into(), reason: error.to_string() };
    let curves: Vec<_> = all.iter().map(|(name, times)| (name, curve(times))).collect();
    let points = || curves.iter().flat_map(|(_, curve)| curve);
    let nines = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let least = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min).clamp(0.1, 1e9);
    let most = points().map(|(_, y)| *y).fold(least * 2.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| bad(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(Nines((0.0..nines).into()), (least / 1.2..most * 1.2).log_scale())
        .map_err(|error| bad(&error))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("µs")
        .x_label_formatter(&|nines| format!("{} %", 100.0 * (1.0 - 10f64.powf(-nines))))
        .y_label_formatter(&|us| format!("{us}"))
        .draw()
        .map_err(|error| bad(&error))?;
    for (index, (name, curve)) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).mix(1.0);
        chart
            .draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| bad(&error))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|error| bad(&error))?;
    root.present().map_err(|error| bad(&error))
}

/// The axis of percentiles: a mark at 90 %, at 99 %, and so on, and nowhere else.
struct Nines(RangedCoordf64);

impl Ranged for Nines {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (0..=9).map(f64::from).take_while(|key| self.0.range().end >= *key).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.range()
    }
}

/// Nines of the percentile, and microseconds.
fn curve(times: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX)).max(2.0);
    let steps = times.iter_quantiles(TICKS_PER_HALF_DISTANCE);
    let point = |step: hdrhistogram::iterators::IterationValue<u64>| {
        // 100 % lies nowhere: the longest of so many times is the last that can be shown.
        let beyond = (1.0 - step.quantile_iterated_to()).max(1.0 / count);
        (-beyond.log10(), in_us(step.value_iterated_to()))
    };
    steps.map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plot is a whole file that names its curves, of an empty histogram, too.
    #[test]
    fn a_plot_names_its_curves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.svg");
        let mut times = Histogram::<u64>::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
        let empty = times.clone();
        (1..1_000).for_each(|us| times.record(us * 1_000).unwrap());
        let all = [("web".to_owned(), times), ("nothing".to_owned(), empty)];
        write_svg("inside", &all, &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("web") && text.contains("nothing"));
        assert!(text.trim_end().ends_with("</svg>"));
        assert!(write_svg("inside", &all, &folder.path().join("no/folder.svg")).is_err());
    }
}
