use super::*;

/// July 31st of 2026, at noon.
const JULY: UnixTime = UnixTime::new(1_785_499_200);
const DAY_S: u64 = 24 * 3_600;
const OFFICE: [u8; 32] = [1; 32];
/// No disk that tests run on is slower.
const PATIENCE: Duration = Duration::from_secs(10);

fn office() -> PublicKey {
    PublicKey::from(OFFICE)
}

/// Volumes in which the office has moved something in July, and the folder of their file.
fn volumes(now: Instant) -> (Volumes, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut volumes = Volumes::load(dir.path(), JULY, now).unwrap();
    volumes.handle_moved(office(), 700);
    volumes.handle_moved(PublicKey::from([2; 32]), 1);
    volumes.handle_moved(office(), 77);
    assert_eq!((volumes.moved(&office()), volumes.moved(&PublicKey::from([3; 32]))), (777, 0));
    (volumes, dir)
}

/// With another month all begin at 0, and not before it; a clock that goes back forgives nothing.
#[test]
fn a_month_begins_at_nothing() {
    let now = Instant::now();
    let (mut volumes, _dir) = volumes(now);
    volumes.handle_date(JULY.plus(DAY_S / 2 - 1));
    assert_eq!(volumes.moved(&office()), 777);
    volumes.handle_date(JULY.plus(DAY_S / 2));
    assert_eq!(volumes.moved(&office()), 0);
    volumes.handle_moved(office(), 5);
    volumes.handle_date(JULY);
    assert!(volumes.is_ahead, "and this is said");
    volumes.handle_date(JULY.plus(DAY_S));
    assert_eq!(volumes.moved(&office()), 5, "August is where it was");
    assert!(!volumes.is_ahead);
}

/// Where no key has a volume nothing is ever due, once what was counted before is in the file. The control:
/// as long as it is not known, it is looked every second.
#[test]
fn without_volumes_nothing_is_due() {
    let (now, dir) = (Instant::now(), tempfile::tempdir().unwrap());
    let mut volumes = Volumes::load(dir.path(), JULY, now).unwrap();
    assert!(volumes.handle_timeout(now));
    assert_eq!(volumes.poll_timeout(), Some(now + ASK_EVERY));
    assert!(!volumes.handle_timeout(now));
    volumes.handle_limited(false);
    assert_eq!(volumes.poll_timeout(), None);
    assert!(!volumes.handle_timeout(now + ASK_EVERY));
    volumes.write_now(PATIENCE, now).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "and no file is written");

    volumes.handle_moved(office(), 1);
    assert!(volumes.handle_timeout(now + ASK_EVERY), "a key that was removed has told its last");
    volumes.poll_written(PATIENCE, now).unwrap().unwrap();
    assert_eq!((volumes.poll_timeout(), fs::read_dir(dir.path()).unwrap().count()), (None, 1));
}

/// Months are in order across years, and nothing else is one.
#[test]
fn months_are_those_of_the_calendar() {
    let month = |text: &str| Month::try_from(text.to_owned());
    assert_eq!(Month::from(JULY), month("2026-07").unwrap());
    assert!(month("2026-12").unwrap() < month("2027-01").unwrap());
    for text in ["", "2026", "2026-7", "26-07", "2026-07-31", "zzzz-07"] {
        assert!(month(text).is_err(), "{text}");
    }
    for text in ["+026-07", "2026-+7", "2026-00", "2026-13", "2026-99", "2026--7", "202\u{661}-07"]
    {
        assert!(month(text).is_err(), "{text}");
    }
}

/// What has moved is known to the next process, in the same month and in no other.
#[test]
fn a_restart_forgives_nothing() {
    let now = Instant::now();
    let (mut volumes, dir) = volumes(now);
    volumes.write_now(PATIENCE, now).unwrap();
    let load = |date| Volumes::load(dir.path(), date, now).unwrap();
    assert_eq!(load(JULY).ledger, volumes.ledger);
    assert_eq!(load(JULY.plus(DAY_S)).moved(&office()), 0);
}

/// The file follows while the relay runs: what a process that is killed has said last is seconds old.
#[test]
fn the_file_follows_what_moves() {
    let start = Instant::now();
    let (mut volumes, dir) = volumes(start);
    let moved = || Volumes::load(dir.path(), JULY, start).unwrap().moved(&office());
    let mut now = start;
    for expected in [777, 778] {
        volumes.handle_timeout(now);
        volumes.poll_written(PATIENCE, now).unwrap().unwrap();
        assert_eq!(moved(), expected);
        volumes.handle_moved(office(), 1);
        now += ASK_EVERY;
        volumes.handle_timeout(now);
        assert!(volumes.writing.is_none());
        assert_eq!(moved(), expected, "the control: not with every second");
        now += WRITE_EVERY;
    }
}

/// A file that cannot be read is said with its path and a cure, and stays as it is.
#[test]
fn a_broken_file_is_no_fresh_start() {
    let now = Instant::now();
    let (mut volumes, dir) = volumes(now);
    volumes.write_now(PATIENCE, now).unwrap();
    let path = dir.path().join(FILE);
    let good = fs::read_to_string(&path).unwrap();
    for bad in [&good[..good.len() / 2], "", &good.replace("2026-07", "later"), "{}"] {
        fs::write(&path, bad).unwrap();
        let error = Volumes::load(dir.path(), JULY, now).unwrap_err().to_string();
        assert!(error.contains("volumes.json") && error.contains("move it away"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
}

/// What cannot be written is tried again, and is not forgotten meanwhile.
#[test]
fn what_cannot_be_written_is_written_later() {
    let now = Instant::now();
    let (mut volumes, dir) = volumes(now);
    let path = dir.path().join(FILE);
    fs::create_dir(&path).unwrap();
    let error = volumes.write_now(PATIENCE, now).unwrap_err().to_string();
    assert!(error.contains("volumes.json"), "{error}");
    fs::remove_dir(&path).unwrap();
    volumes.handle_timeout(now + WRITE_EVERY);
    assert!(volumes.writing.is_none(), "not at once");
    volumes.handle_timeout(now + WRITE_AGAIN);
    volumes.poll_written(PATIENCE, now).unwrap().unwrap();
    assert_eq!(Volumes::load(dir.path(), JULY, now).unwrap().moved(&office()), 777);
}

/// A disk that takes too long is not waited for, and what it was given then counts as unwritten until it
/// says otherwise; what has moved meanwhile is written after that.
#[test]
fn a_slow_disk_is_not_waited_for() {
    let (now, brief) = (Instant::now(), Duration::from_millis(1));
    let (mut volumes, dir) = volumes(now);
    let (disk, writing) = mpsc::channel();
    (volumes.writing, volumes.has_changed) = (Some(writing), false);
    let is_late = |volumes: &mut Volumes| {
        let error = volumes.write_now(brief, now).unwrap_err();
        error.kind() == io::ErrorKind::TimedOut
    };
    assert!(is_late(&mut volumes));
    volumes.handle_moved(office(), 1);
    assert!(is_late(&mut volumes));
    disk.send(Ok(())).unwrap();
    volumes.write_now(PATIENCE, now).unwrap();
    assert_eq!(Volumes::load(dir.path(), JULY, now).unwrap().moved(&office()), 778);
}
