//! `histogram`, and `status --histogram`: what the running daemon has measured.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use hdrhistogram::Histogram;

use super::{SocketArgs, parsed, say};
use crate::api::Client;
use crate::exit::{Exit, Failed};
use crate::handoff::{Measure, Way};
use crate::histogram::{
    Filter, Histograms, Shown, TUNNEL, bars, percentiles, time, write_hgrm, write_svg,
};
use crate::status::Table;

/// Which histograms are shown, and how.
#[derive(Clone, Debug, Args)]
pub struct HistogramArgs {
    /// Where the daemon is asked.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Times of what: inside, queue, round_trip or stall [default: all; one of them in files].
    #[arg(long, value_name = "MEASURE")]
    pub name: Option<Measure>,
    /// Those of one contact point, by its peer's name, or of the tunnel.
    #[arg(long, value_name = "PEER")]
    pub contact: Option<String>,
    /// Those of one way: to_tunnel or from_tunnel.
    #[arg(long, value_name = "WAY")]
    pub way: Option<Way>,
    /// Write percentiles, of all that is chosen together, in HdrHistogram's .hgrm form, in µs.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Draw a curve of percentiles for each that is chosen.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print the JSON object that the daemon answers with: all of them.
    #[arg(long)]
    pub json: bool,
    /// Let all histograms begin anew, afterwards.
    #[arg(long)]
    pub reset: bool,
}

/// Everything that the daemon has measured, as JSON.
pub(super) fn ask(client: &Client) -> Result<String, Failed> {
    Ok(client.get("/v1/histograms")?)
}

/// Shows, writes and resets histograms.
///
/// # Errors
/// When the daemon does not answer, nothing is chosen, or a file cannot be written.
pub fn histogram(args: &HistogramArgs, socket: &Path) -> Result<(), Failed> {
    let client = Client::new(socket);
    let json = ask(&client)?;
    if args.json {
        say(&json);
    } else {
        let all: Histograms = parsed(&json)?;
        let chosen = args.chosen(&all)?;
        if !args.is_for_files() {
            say(&table(&chosen).to_string());
        }
        args.write(&chosen)?;
    }
    if args.reset {
        client.post("/v1/histograms/reset", &())?;
    }
    Ok(())
}

/// Shows one contact point's histograms, or the tunnel's, whole.
///
/// # Errors
/// When the daemon does not answer, or knows no such contact point.
pub(super) fn show_one(contact: &str, is_json: bool, socket: &Path) -> Result<(), Failed> {
    let all: Histograms = parsed(&ask(&Client::new(socket))?)?;
    let filter = Filter { name: None, contact: Some(contact.to_owned()) };
    let chosen = choose(&all, &filter)?;
    if is_json {
        let histograms = chosen.into_iter().cloned().collect();
        let chosen = Histograms { histograms, ..all.clone() };
        say(&serde_json::to_string(&chosen).unwrap_or_default());
        return Ok(());
    }
    let mut text = String::new();
    for shown in chosen {
        let (title, count) = (shown.title(), shown.count);
        text.push_str(&format!("{title}: {count} in {} s\n", all.seconds));
        if count > 0 {
            let times = shown.times().map_err(failed)?.histogram;
            text.push_str(&format!("{}\n{}", percentiles(&times), bars(&times)));
        }
        text.push('\n');
    }
    say(&text);
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed::new(Exit::Failure, error)
}

/// Those that are asked for; it is an error to ask for what is not there.
fn choose<'a>(all: &'a Histograms, filter: &Filter) -> Result<Vec<&'a Shown>, Failed> {
    let of = |shown: &'a Shown| shown.contact.as_deref().unwrap_or(TUNNEL);
    let selects = |shown: &&Shown| filter.selects(shown.name, shown.contact.as_deref());
    let chosen: Vec<_> = all.histograms.iter().filter(selects).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let known: BTreeSet<_> = all.histograms.iter().map(of).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let what = filter.contact.as_deref().unwrap_or("that");
    let message = match known.as_str() {
        "" => "nothing was measured yet: is the tunnel up?".to_owned(),
        known => format!("nothing was measured of {what}: there is {known}"),
    };
    Err(failed(message))
}

fn table(chosen: &[&Shown]) -> Table {
    let mut table = Table::new([
        "MEASURE", "WAY", "OF", "SESSION", "COUNT", "P50", "P90", "P99", "P99.9", "MAX",
    ]);
    for shown in chosen {
        let at = |value| if shown.count == 0 { "-".to_owned() } else { time(value) };
        table.row([
            shown.name.to_string(),
            shown.way.map_or("-", Way::name).to_owned(),
            shown.contact.clone().unwrap_or_else(|| TUNNEL.to_owned()),
            shown.session.clone(),
            shown.count.to_string(),
            at(shown.p50),
            at(shown.p90),
            at(shown.p99),
            at(shown.p999),
            at(shown.max),
        ]);
    }
    table
}

impl HistogramArgs {
    fn is_for_files(&self) -> bool {
        self.hgrm.is_some() || self.svg.is_some()
    }

    fn chosen<'a>(&self, all: &'a Histograms) -> Result<Vec<&'a Shown>, Failed> {
        // Times of different things make no sense together.
        let usual = match self.contact.as_deref() {
            Some(TUNNEL) => Measure::RoundTrip,
            _ => Measure::Inside,
        };
        let name = self.name.or(self.is_for_files().then_some(usual));
        let mut chosen = choose(all, &Filter { name, contact: self.contact.clone() })?;
        chosen.retain(|shown| self.way.is_none_or(|way| shown.way == Some(way)));
        Ok(chosen)
    }

    fn write(&self, chosen: &[&Shown]) -> Result<(), Failed> {
        if !self.is_for_files() {
            return Ok(());
        }
        let read = |shown: &&Shown| Ok((shown.title(), shown.times()?.histogram));
        let read: Result<Vec<(String, Histogram<u64>)>, crate::histogram::BadHistogram> =
            chosen.iter().map(read).collect();
        let all = read.map_err(failed)?;
        if let Some(path) = &self.hgrm {
            let mut sum: Option<Histogram<u64>> = None;
            for (_, times) in &all {
                match &mut sum {
                    Some(sum) => sum.add(times).map_err(failed)?,
                    None => sum = Some(times.clone()),
                }
            }
            let sum = sum.ok_or_else(|| failed("nothing of that was measured"))?;
            let written =
                File::create(path).and_then(|file| write_hgrm(&sum, &mut BufWriter::new(file)));
            let cannot = |error| failed(format!("cannot write {}: {error}", path.display()));
            written.map_err(cannot)?;
            say(&format!("wrote {}: {} times", path.display(), sum.len()));
        }
        if let Some(path) = &self.svg {
            let title = chosen.first().map_or(String::new(), |shown| shown.name.to_string());
            write_svg(&title, &all, path).map_err(failed)?;
            say(&format!("wrote {}", path.display()));
        }
        Ok(())
    }
}
