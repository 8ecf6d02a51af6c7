//! The audit log: who was registered, refused, let in and shut out, one JSON object a line, appended to a
//! file of its own. What happened is counted by its name, with and without the file.
//!
//! Deliberately absent: rotation, which is the work of `logrotate` and a reload; secrets, which nobody
//! passes here.
//!
//! All is written within a bound for its kind ([`Bound`]): of a flood a part is, and the next line says how
//! much was not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use adit_proto::limits::{
    AUDIT_CHANGES_AT_ONCE, AUDIT_CHANGES_EVERY, AUDIT_COMPLAINT_EVERY, AUDIT_KNOWN_AT_ONCE,
    AUDIT_KNOWN_EVERY, AUDIT_STRANGERS_AT_ONCE, AUDIT_STRANGERS_EVERY, AUDIT_TEXT_CHARS_MAX,
};
use serde_json::{Map, Value};

/// Nobody but the daemon's user, and whom the file's owner lets in afterwards.
const FILE_MODE: u32 = 0o600;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The daemon has begun to write.
    Started,
    /// A peer has its contact point.
    Registered,
    /// A contact point was given back.
    Unregistered,
    /// A lease was over, and nobody had renewed it.
    LeaseOver,
    /// A reload, or a revocation, took a contact point or a token's registration back.
    Withdrawn,
    /// Somebody or something was refused.
    Refused,
    /// A session has begun.
    TunnelUp,
    /// A session has ended.
    TunnelDown,
    /// An invitation was made.
    Invited,
    /// A key was let in by an invitation.
    Joined,
    /// A key is let in no more, or an invitation was withdrawn.
    Revoked,
    /// A key has used up what it may move in a month.
    Spent,
}

impl Event {
    /// What can happen at a forwarder.
    pub const OF_FORWARDER: [Self; 8] = [
        Self::Started,
        Self::Registered,
        Self::Unregistered,
        Self::LeaseOver,
        Self::Withdrawn,
        Self::Refused,
        Self::TunnelUp,
        Self::TunnelDown,
    ];
    /// What can happen at a relay.
    pub const OF_RELAY: [Self; 12] = [
        Self::Started,
        Self::Registered,
        Self::Unregistered,
        Self::LeaseOver,
        Self::Withdrawn,
        Self::Refused,
        Self::TunnelUp,
        Self::TunnelDown,
        Self::Invited,
        Self::Joined,
        Self::Revoked,
        Self::Spent,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Registered => "registered",
            Self::Unregistered => "unregistered",
            Self::LeaseOver => "lease_over",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
            Self::TunnelUp => "tunnel_up",
            Self::TunnelDown => "tunnel_down",
            Self::Invited => "invited",
            Self::Joined => "joined",
            Self::Revoked => "revoked",
            Self::Spent => "spent",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    event: Event,
    fields: Map<String, Value>,
}

impl Entry {
    /// What happened, without more yet.
    pub fn new(event: Event) -> Self {
        Self { event, fields: Map::new() }
    }

    /// With a text, of which no more than a bounded part is kept.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Display) -> Self {
        let text: String = value.to_string().chars().take(AUDIT_TEXT_CHARS_MAX).collect();
        self.fields.insert(field.to_owned(), Value::from(text));
        self
    }

    /// With a number.
    #[must_use]
    pub fn with_count(mut self, field: &'static str, count: u64) -> Self {
        self.fields.insert(field.to_owned(), Value::from(count));
        self
    }

    /// The line, as of now.
    fn line(&self, now: SystemTime) -> String {
        let mut object = Map::new();
        let time = humantime::format_rfc3339_millis(now).to_string();
        object.insert("time".to_owned(), Value::from(time));
        object.insert("event".to_owned(), Value::from(self.event.name()));
        object.extend(self.fields.clone());
        format!("{}\n", Value::Object(object))
    }
}

/// How many lines of one cause there may be: so many at once, and then one in each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    at_once: u32,
    every: Duration,
}

impl Bound {
    /// For what anybody can cause who reaches the daemon.
    pub const OF_STRANGERS: Self =
        Self { at_once: AUDIT_STRANGERS_AT_ONCE, every: AUDIT_STRANGERS_EVERY };
    /// For what only those can cause who are let in.
    pub const OF_KNOWN: Self = Self { at_once: AUDIT_KNOWN_AT_ONCE, every: AUDIT_KNOWN_EVERY };
    /// For what those who are let in may do as often as they like, such as to register.
    pub const OF_CHANGES: Self =
        Self { at_once: AUDIT_CHANGES_AT_ONCE, every: AUDIT_CHANGES_EVERY };
}

/// How far one cause has come with its bound.
#[derive(Debug, Default)]
struct Tally {
    /// When all of its lines are paid for (the generic cell rate algorithm).
    paid_at: Option<Instant>,
    unrecorded: u64,
}

impl Tally {
    /// Whether there may be a line; then it also stands for so many that had none.
    fn admit(&mut self, bound: Bound, now: Instant) -> Option<u64> {
        let paid_at = self.paid_at.map_or(now, |at| at.max(now));
        if paid_at.duration_since(now) > bound.every * (bound.at_once - 1) {
            self.unrecorded += 1;
            return None;
        }
        self.paid_at = Some(paid_at + bound.every);
        Some(std::mem::take(&mut self.unrecorded))
    }
}

/// The audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("[audit]: cannot open {path}: {source}; `file` names another place")]
pub struct Unwritable {
    path: PathBuf,
    source: io::Error,
}

/// The audit log, shared by all parts of a daemon's loop.
#[derive(Clone, Debug)]
pub struct Audit(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    path: Option<PathBuf>,
    file: Option<File>,
    counts: BTreeMap<Event, u64>,
    tallies_by_cause: BTreeMap<&'static str, Tally>,
    /// Lines that were left out to keep the bound.
    unrecorded: u64,
    /// Lines that could not be written.
    lost: u64,
    complained_at: Option<Instant>,
}

impl Audit {
    /// Writes to `path`, if there is one, and counts `events`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: Option<&Path>, events: &[Event]) -> Result<Self, Unwritable> {
        let counts = events.iter().map(|event| (*event, 0)).collect();
        let file = path.map(open).transpose()?;
        let path = path.map(Path::to_owned);
        let state = State {
            path,
            file,
            counts,
            tallies_by_cause: BTreeMap::new(),
            unrecorded: 0,
            lost: 0,
            complained_at: None,
        };
        let audit = Self(Rc::new(RefCell::new(state)));
        audit.record(&Entry::new(Event::Started).with("version", crate::status::VERSION));
        Ok(audit)
    }

    /// Opens the file anew: it may have been moved away. The old one stays where that fails.
    pub fn reopen(&self) {
        let mut state = self.0.borrow_mut();
        match state.path.as_deref().map(open).transpose() {
            Ok(file) => state.file = file,
            Err(error) => tracing::error!("the audit log goes on where it was: {error}"),
        }
    }

    /// Counts what happened, and writes it down, unless there are too many lines of its event.
    pub fn record(&self, entry: &Entry) {
        let (event, bound, now) = (entry.event, Bound::OF_CHANGES, Instant::now());
        self.record_bounded(event.name(), bound, event, now, |_| entry.clone());
    }

    /// Counts what happened, and writes it down, with `fields`, unless there are too many lines of its
    /// cause. A flood is not put into words that nobody reads.
    pub fn record_bounded(
        &self,
        cause: &'static str,
        bound: Bound,
        event: Event,
        now: Instant,
        fields: impl FnOnce(Entry) -> Entry,
    ) {
        let mut state = self.0.borrow_mut();
        *state.counts.entry(event).or_default() += 1;
        if state.file.is_none() {
            return;
        }
        let Some(left_out) = state.tallies_by_cause.entry(cause).or_default().admit(bound, now)
        else {
            state.unrecorded += 1;
            return;
        };
        let entry = fields(Entry::new(event));
        let entry = if left_out > 0 { entry.with_count("unrecorded", left_out) } else { entry };
        state.write(&entry, now);
    }

    /// How many lines were left out to keep the bound.
    pub fn unrecorded(&self) -> u64 {
        self.0.borrow().unrecorded
    }

    /// How often each event has happened, by name.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let state = self.0.borrow();
        state.counts.iter().map(|(event, count)| (event.name().to_owned(), *count)).collect()
    }

    /// How many lines could not be written.
    pub fn lost(&self) -> u64 {
        self.0.borrow().lost
    }
}

impl State {
    fn write(&mut self, entry: &Entry, now: Instant) {
        let Some(file) = &mut self.file else { return };
        // One call, so that no other line comes between.
        let Err(error) = file.write_all(entry.line(SystemTime::now()).as_bytes()) else { return };
        self.lost += 1;
        let is_recent = |at| now.duration_since(at) < AUDIT_COMPLAINT_EVERY;
        if !self.complained_at.is_some_and(is_recent) {
            self.complained_at = Some(now);
            tracing::error!(lost = self.lost, "the audit log cannot be written: {error}");
        }
    }
}

fn open(path: &Path) -> Result<File, Unwritable> {
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(FILE_MODE).open(path);
    opened.map_err(|source| Unwritable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Each entry is one line of JSON, however its texts look; a file that was moved away is begun anew
    /// after a reload, and not before.
    #[test]
    fn entries_are_lines_and_a_moved_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let audit = Audit::open(Some(&path), &Event::OF_RELAY).unwrap();
        let text = format!("a \"quote\",\na line{}", "!".repeat(10_000));
        audit.record(&Entry::new(Event::Refused).with("why", text).with_count("unrecorded", 7));
        let [started, refused] = lines(&path).try_into().unwrap();
        assert_eq!(started["event"], "started");
        assert_eq!(refused["unrecorded"], 7);
        let why = refused["why"].as_str().unwrap();
        assert!(why.starts_with("a \"quote\",\na line!"));
        assert_eq!(why.chars().count(), AUDIT_TEXT_CHARS_MAX);
        std::fs::rename(&path, &old).unwrap();
        audit.record(&Entry::new(Event::Revoked));
        audit.reopen();
        audit.record(&Entry::new(Event::Joined));
        assert_eq!((lines(&old).len(), lines(&path).len()), (3, 1));
        let counts = audit.counts();
        assert_eq!((counts["refused"], counts["joined"], counts["invited"]), (1, 1, 0));
    }

    /// A flood of strangers has a bounded number of lines a day, of which each says how many had none;
    /// another cause keeps its own lines, and all are counted.
    #[test]
    fn a_flood_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::open(Some(&path), &Event::OF_RELAY).unwrap();
        let (start, bound) = (Instant::now(), Bound::OF_STRANGERS);
        let minutes = 60;
        for second in 0..60 * minutes {
            let now = start + Duration::from_secs(second);
            (0..5).for_each(|_| {
                audit.record_bounded("not_tls", bound, Event::Refused, now, |entry| entry)
            });
        }
        audit.record_bounded("unknown_key", bound, Event::Refused, start, |entry| entry);
        let lines = lines(&path);
        let written = lines.iter().filter(|line| line["event"] == "refused").count() as u64;
        assert!(written <= u64::from(AUDIT_STRANGERS_AT_ONCE) + minutes + 1, "{written}");
        let all = 60 * minutes * 5 + 1;
        assert_eq!((audit.counts()["refused"], audit.unrecorded()), (all, all - written));
        assert!(lines.iter().any(|line| line["unrecorded"].as_u64() > Some(200)), "{lines:?}");
    }

    /// Who is let in may register and unregister without end: that fills no disk either, another event
    /// keeps its own lines, and all are counted.
    #[test]
    fn a_flood_of_changes_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::open(Some(&path), &Event::OF_RELAY).unwrap();
        // Longer than it takes for some more to be let through.
        let all = 2 * u64::from(AUDIT_CHANGES_AT_ONCE);
        (0..all).for_each(|_| audit.record(&Entry::new(Event::Registered)));
        audit.record(&Entry::new(Event::Revoked));
        let text = std::fs::read_to_string(&path).unwrap();
        let written = text.matches("\"registered\"").count() as u64;
        assert!((AUDIT_CHANGES_AT_ONCE.into()..all).contains(&written), "{written}");
        assert_eq!((audit.counts()["registered"], audit.unrecorded()), (all, all - written));
        assert!(text.contains("\"revoked\""));
    }

    /// A file that cannot be opened is an error at the start; one that cannot be opened again leaves
    /// the old one in use.
    #[test]
    fn a_file_that_cannot_be_opened_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let error = Audit::open(Some(folder.path()), &[]).unwrap_err().to_string();
        assert!(error.starts_with("[audit]: cannot open "), "{error}");
        let path = folder.path().join("audit.log");
        let audit = Audit::open(Some(&path), &[]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        audit.reopen();
        audit.record(&Entry::new(Event::Joined));
        assert_eq!((audit.lost(), audit.counts()["joined"]), (0, 1));
    }

    /// What cannot be written is counted as lost; without a file nothing is.
    #[test]
    fn what_cannot_be_written_is_counted() {
        let full = Audit::open(Some(Path::new("/dev/full")), &[]).unwrap();
        full.record(&Entry::new(Event::Joined));
        assert_eq!(full.lost(), 2, "with the line of the start");
        let none = Audit::open(None, &[]).unwrap();
        none.record(&Entry::new(Event::Joined));
        assert_eq!((none.lost(), none.counts()["joined"]), (0, 1));
    }
}
