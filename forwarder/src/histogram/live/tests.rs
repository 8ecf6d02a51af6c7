use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::*;
use crate::handoff::Measure;

type Told<T> = oneshot::Receiver<Result<T, Refusal>>;

fn report(command: &Command, count: u64) -> Report {
    let Command::Measure(asked, _) = command else { panic!("{command:?}") };
    let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2).unwrap();
    histogram.record_n(42_000, count).unwrap();
    let of =
        TimesOf { measure: Measure::Stall, session: "office".into(), contact: None, way: None };
    let times = Some(vec![Times { of, histogram }]);
    Report { asked: *asked, times, ..Report::default() }
}

fn live(folder: &tempfile::TempDir, now: Instant) -> Live {
    let histogram_log = Some(folder.path().join("adit.hlog"));
    Live::new("adit", 2, &Metrics { histogram_log, ..Metrics::default() }, now)
}

fn lines(folder: &tempfile::TempDir) -> usize {
    let log = std::fs::read_to_string(folder.path().join("adit.hlog")).unwrap_or_default();
    log.lines().filter(|line| line.starts_with("Tag=")).count()
}

fn scrape(live: &mut Live, now: Instant) -> (Told<String>, Vec<(usize, Command)>) {
    let (reply, told) = Reply::new();
    (told, live.handle_request(TimesRequest::Metrics(reply), now))
}

fn answer(live: &mut Live, now: Instant) {
    let (answer, _) = live.poll_answer(now).expect("an answer");
    live.answer(answer, &[], now);
}

/// With a pump overdue neither Prometheus nor the log is told of the others alone; the next time, with
/// all there, both are, and what was measured before has a line once.
#[test]
fn what_is_incomplete_is_not_told() {
    let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut live = live(&folder, now);
    let interval = live.poll_timeout().unwrap();
    let commands = live.handle_timeout(interval);
    live.handle_report(report(&commands[0].1, 3));
    let (mut told, more) = scrape(&mut live, interval);
    assert!(more.is_empty(), "one gathering serves both");
    let late = interval + Duration::from_secs(2);
    answer(&mut live, late);
    let refusal = told.try_recv().unwrap().unwrap_err();
    assert!(format!("{refusal:?}").contains("503"), "{refusal:?}");
    assert_eq!(lines(&folder), 0);
    let next = live.poll_timeout().unwrap().max(late);
    let commands = live.handle_timeout(next);
    let (mut told, _) = scrape(&mut live, next);
    commands.iter().for_each(|(_, command)| live.handle_report(report(command, 3)));
    answer(&mut live, next);
    assert!(told.try_recv().unwrap().unwrap().contains("adit_stall_seconds_count"));
    assert_eq!(lines(&folder), 1);
}

/// What was told a moment ago is told again without the pumps; a while later, the control, they are
/// asked.
#[test]
fn pumps_are_not_asked_for_each_scrape() {
    let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut live = live(&folder, now);
    let (_told, commands) = scrape(&mut live, now);
    commands.iter().for_each(|(_, command)| live.handle_report(report(command, 3)));
    answer(&mut live, now);
    let (mut told, commands) = scrape(&mut live, now + METRICS_AGE_MAX / 2);
    assert!(commands.is_empty() && told.try_recv().unwrap().is_ok());
    assert_eq!(scrape(&mut live, now + METRICS_AGE_MAX).1.len(), 2);
}

/// A reset while Prometheus is being answered ends the interval with a line; who asks after it is
/// answered by copies that were made after it.
#[test]
fn a_reset_ends_its_interval() {
    let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut live = live(&folder, now);
    let (mut told, _) = scrape(&mut live, now);
    let commands = live.handle_request(TimesRequest::Reset(Reply::new().0), now);
    let (copies, resets) = commands.split_at(2);
    assert!(resets.iter().all(|(_, command)| matches!(command, Command::ResetTimes)));
    let (mut later, more) = scrape(&mut live, now);
    assert!(more.is_empty());
    copies.iter().for_each(|(_, command)| live.handle_report(report(command, 3)));
    answer(&mut live, now);
    assert!(told.try_recv().unwrap().is_ok() && later.try_recv().is_err());
    assert_eq!(lines(&folder), 1);
    let commands = live.handle_timeout(now);
    commands.iter().for_each(|(_, command)| live.handle_report(report(command, 0)));
    answer(&mut live, now);
    assert!(later.try_recv().unwrap().is_ok());
    assert_eq!(lines(&folder), 1);
}
