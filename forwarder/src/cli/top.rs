//! `top`: the running daemon, seen again and again.

mod draw;
mod view;

use std::io::IsTerminal;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::{SocketArgs, answer, histogram, parsed, say};
use crate::api::Client;
use crate::exit::{Exit, Failed};
use crate::status::{ForwarderStatus, RelayStatus};
use view::{Seen, View};

/// The size of the one picture that goes to no terminal.
const WIDTH: u16 = 120;
const HEIGHT_MIN: u16 = 12;
/// The most lines of it.
const HEIGHT_MAX: u16 = 400;

/// How the daemon is watched.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Where the daemon is asked.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print one picture, and end: no terminal is needed.
    #[arg(long)]
    pub once: bool,
    /// How often it is looked at, as 1s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub every: Duration,
}

/// Which daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A forwarder.
    Forwarder,
    /// A relay.
    Relay,
}

/// Shows the daemon at `socket` until q is pressed.
///
/// # Errors
/// When it does not answer, or there is no terminal.
pub fn top(args: &TopArgs, socket: &Path, watched: Watched) -> Result<(), Failed> {
    if args.once {
        let first = look(socket, watched)?;
        // What moves in a second needs a second look.
        thread::sleep(args.every);
        return once(&View::new(&look(socket, watched)?, Some(&first)));
    }
    if !std::io::stdout().is_terminal() {
        let message = "top needs a terminal: use --once, or adit status";
        return Err(Failed::new(Exit::Usage, message));
    }
    let first = look(socket, watched)?;
    let failed = |error: std::io::Error| Failed::new(Exit::Failure, format!("terminal: {error}"));
    let terminal = ratatui::try_init().map_err(failed)?;
    let watched = watch(terminal, args.every, first, || look(socket, watched));
    ratatui::restore();
    watched
}

fn look(socket: &Path, watched: Watched) -> Result<Seen, Failed> {
    let status = answer(socket)?;
    let histograms = parsed(&histogram::ask(&Client::new(socket))?)?;
    let at = Instant::now();
    Ok(match watched {
        Watched::Forwarder => {
            Seen::of_forwarder(&parsed::<ForwarderStatus>(&status)?, histograms, at)
        }
        Watched::Relay => Seen::of_relay(&parsed::<RelayStatus>(&status)?, histograms, at),
    })
}

fn watch(
    mut terminal: ratatui::DefaultTerminal,
    every: Duration,
    mut seen: Seen,
    look: impl Fn() -> Result<Seen, Failed>,
) -> Result<(), Failed> {
    let failed = |error: std::io::Error| Failed::new(Exit::Failure, format!("terminal: {error}"));
    let mut view = View::new(&seen, None);
    let mut due = Instant::now() + every;
    loop {
        terminal.draw(|frame| draw::draw(frame, &view)).map_err(failed)?;
        let left = due.saturating_duration_since(Instant::now());
        if event::poll(left).map_err(failed)? {
            if is_end(&event::read().map_err(failed)?) {
                return Ok(());
            }
            continue;
        }
        due = Instant::now() + every;
        match look() {
            Ok(new) => {
                view = View::new(&new, Some(&seen));
                seen = new;
            }
            // It may be restarted: what was seen last stays, and says so.
            Err(gone) => view.trouble = Some(gone.to_string()),
        }
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_control_c =
        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let is_named = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
    key.kind == KeyEventKind::Press && (is_named || is_control_c)
}

fn once(view: &View) -> Result<(), Failed> {
    say(&picture(view).map_err(|error| Failed::new(Exit::Failure, error))?);
    Ok(())
}

/// One picture as text.
fn picture(view: &View) -> Result<String, std::convert::Infallible> {
    let height = draw::height(view).clamp(HEIGHT_MIN, HEIGHT_MAX);
    let mut terminal = Terminal::new(TestBackend::new(WIDTH, height))?;
    terminal.draw(|frame| draw::draw(frame, view))?;
    let buffer = terminal.backend().buffer();
    let line = |row: &[ratatui::buffer::Cell]| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    };
    let lines: Vec<String> = buffer.content.chunks(WIDTH.into()).map(line).collect();
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::{Measure, Times, TimesOf, Way};
    use crate::histogram::{Filter, Histograms};
    use crate::status::{CarrierStatus, PeerStatus, Traffic};

    fn seen(count: u64, bytes: u64, at: Instant) -> Seen {
        let bounds = hdrhistogram::Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2);
        let mut histogram = bounds.unwrap();
        (0..count).for_each(|_| histogram.record(42_000).unwrap());
        let (session, contact) = ("relay:443".into(), Some("web".into()));
        let of = TimesOf { measure: Measure::Inside, session, contact, way: Some(Way::ToTunnel) };
        let times = [Times { of, histogram }];
        let carrier = CarrierStatus {
            state: "up".into(),
            remote: Some("203.0.113.20:443".into()),
            ..CarrierStatus::default()
        };
        let status = ForwarderStatus {
            carrier,
            flows: 3,
            peers: vec![PeerStatus {
                name: "web".into(),
                state: "registered".into(),
                ..PeerStatus::default()
            }],
            traffic: Traffic { bytes_sent: bytes, ..Traffic::default() },
            ..ForwarderStatus::default()
        };
        let histograms = Histograms::new(&times, &Filter::default(), Duration::ZERO);
        Seen::of_forwarder(&status, histograms, at)
    }

    /// The picture has the carrier's state, the flows, what moves in a second, and the times of each
    /// contact point.
    #[test]
    fn a_picture_shows_what_goes_on() {
        let start = Instant::now();
        let (before, now) = (seen(10, 0, start), seen(30, 4 << 20, start + Duration::from_secs(2)));
        let picture = picture(&View::new(&now, Some(&before))).unwrap();
        let expected =
            ["up to 203.0.113.20:443", "3 open", "2.00 MiB/s", "web", "10/s", "42", "registered"];
        for text in expected {
            assert!(picture.contains(text), "no {text} in\n{picture}");
        }
        let first = super::picture(&View::new(&now, None)).unwrap();
        assert!(!first.contains("MiB/s"), "{first}");
    }

    /// It ends with q, Escape, or Control-C.
    #[test]
    fn keys_end_it() {
        let key = |code, modifiers| is_end(&Event::Key(event::KeyEvent::new(code, modifiers)));
        assert!(
            key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE)
        );
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
    }
}
