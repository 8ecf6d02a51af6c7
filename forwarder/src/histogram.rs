//! What the daemons measure of themselves, from the pump's [copies](crate::handoff::Times) on: as the
//! API's answer, as text and plots, as an interval log, and for Prometheus.
//!
//! Deliberately absent: anything that a pump waits for. It is asked for copies, and goes on.

mod hgrm;
mod live;
mod log;
mod plot;
mod prometheus;
mod text;
mod wire;

pub use crate::handoff::{Filter, TUNNEL};
pub use hgrm::write_hgrm;
pub use live::{Answer, Live, TimesRequest};
pub use plot::{BadPlot, write_svg};
pub use prometheus::{CONTENT_TYPE, Figure, exposition};
pub use text::{bar, bars, percentiles, spark, time};
pub use wire::{BadHistogram, Histograms, Shown};
