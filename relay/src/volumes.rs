//! How many bytes keys have moved in this month, by the calendar of UTC, where that is limited. It is kept
//! in a file of the state folder: a relay that starts again forgives nothing but what had moved since the
//! last writing.
//!
//! ```text
//!   every second          the pumps say what has moved since   ──▶ counted to the key
//!   every few seconds     what has changed                     ──▶ the file, in a thread of its own
//!   another month begins                                       ──▶ all begin at 0
//! ```
//!
//! A month that was left is not gone back to: a clock that stumbles at the turn would forgive twice.
//! Where no key has a volume, nothing of this happens.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use adit::invitation::UnixTime;
use adit::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::state;

/// The file in the state folder.
const FILE: &str = "volumes.json";
/// How often the pumps are asked. What has moved meanwhile may be beyond a key's volume.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the file is written while anything moves. A crash forgives what has moved since, what the
/// pumps had yet to say, and what was being written.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// When it is tried again after a failure: there is a line in the log each time.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// A month, such as `2026-07`. In the order of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Month(String);

/// A text that is no month.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no month, such as 2026-07")]
struct BadMonth(String);

impl From<UnixTime> for Month {
    fn from(time: UnixTime) -> Self {
        // `2026-07-31T12:00:00Z`, up to the second hyphen.
        Self(time.to_string().chars().take(7).collect())
    }
}

impl TryFrom<String> for Month {
    type Error = BadMonth;

    fn try_from(text: String) -> Result<Self, BadMonth> {
        let is_year =
            |year: &str| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit());
        // In the order of text, which is that of numbers in so many digits.
        let is_month = |month: &str| {
            month.bytes().all(|byte| byte.is_ascii_digit()) && ("01"..="12").contains(&month)
        };
        match text.split_once('-') {
            Some((year, month)) if is_year(year) && month.len() == 2 && is_month(month) => {
                Ok(Self(text))
            }
            _ => Err(BadMonth(text)),
        }
    }
}

/// What the file has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    month: Month,
    /// Keys that are let in no more included, until the month is over: they may come back.
    bytes_by_key: BTreeMap<PublicKey, u64>,
}

/// A file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path}: {reason}; mend it, or move it away: what keys have moved in this month then counts from 0"
)]
pub(crate) struct Unreadable {
    path: PathBuf,
    reason: String,
}

/// What keys have moved in this month.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    ledger: Ledger,
    /// Whether any key has a volume, as far as was said.
    is_limited: bool,
    /// Whether the month that is counted has yet to come, as far as was said.
    is_ahead: bool,
    /// Since it was given to be written.
    has_changed: bool,
    /// What comes of the writing that is under way.
    writing: Option<Receiver<io::Result<()>>>,
    ask_at: Instant,
    write_at: Instant,
}

impl Volumes {
    /// Those in the state folder; without such a file nothing has moved.
    pub(crate) fn load(folder: &Path, date: UnixTime, now: Instant) -> Result<Self, Unreadable> {
        let path = folder.join(FILE);
        let unreadable = |reason: String| Unreadable { path: path.clone(), reason };
        let ledger = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ledger { month: date.into(), bytes_by_key: BTreeMap::new() }
            }
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(json) => serde_json::from_slice(&json).map_err(|e| unreadable(e.to_string()))?,
        };
        let mut volumes = Self {
            folder: folder.into(),
            ledger,
            is_limited: true,
            is_ahead: false,
            has_changed: false,
            writing: None,
            ask_at: now,
            write_at: now,
        };
        volumes.handle_date(date);
        Ok(volumes)
    }

    /// What the key has moved in this month.
    pub(crate) fn moved(&self, key: &PublicKey) -> u64 {
        self.ledger.bytes_by_key.get(key).copied().unwrap_or(0)
    }

    /// Takes what the key has moved since it was last said.
    pub(crate) fn handle_moved(&mut self, key: PublicKey, bytes: u64) {
        let moved = self.ledger.bytes_by_key.entry(key).or_default();
        *moved = moved.saturating_add(bytes);
        self.has_changed = true;
    }

    /// Takes whether any key has a volume; until this is said, one may.
    pub(crate) fn handle_limited(&mut self, is_limited: bool) {
        self.is_limited = is_limited;
    }

    /// Takes what day it is: in another month all begin at 0.
    pub(crate) fn handle_date(&mut self, date: UnixTime) {
        let month = Month::from(date);
        let is_ahead = month < self.ledger.month;
        if is_ahead && !self.is_ahead {
            let (Month(month), file) = (&self.ledger.month, self.folder.join(FILE));
            tracing::warn!(
                file = %file.display(), month, %date,
                "it counts a month that has yet to come: a clock was wrong; unless it is wrong now, stop the \
                 relay, remove the file, and start it"
            );
        }
        self.is_ahead = is_ahead;
        if self.ledger.month < month {
            let before = std::mem::take(&mut self.ledger.bytes_by_key);
            self.has_changed |= !before.is_empty();
            self.ledger.month = month;
        }
    }

    /// When [`Volumes::handle_timeout`] is due: never, where there is nothing to count or to write.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let is_busy = self.is_limited || self.has_changed || self.writing.is_some();
        is_busy.then_some(self.ask_at)
    }

    /// Whether it is time to look who has used up what, and to ask the pumps again.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return false;
        }
        self.ask_at = now + ASK_EVERY;
        if let Some(Err(error)) = self.poll_written(Duration::ZERO, now) {
            tracing::error!("a restart would forget what keys have moved: {error}");
        }
        if now >= self.write_at
            && let Err(error) = self.begin_writing(now)
        {
            tracing::error!("no thread to write {FILE} in: {error}");
        }
        true
    }

    /// Writes the file before it returns: another process goes on with it, or none. It waits so long, and
    /// as long again where an older state is being written.
    pub(crate) fn write_now(&mut self, patience: Duration, now: Instant) -> io::Result<()> {
        // Whatever comes of the older one, another is to take its place.
        self.poll_written(patience, now);
        self.begin_writing(now)?;
        self.poll_written(patience, now).unwrap_or(Ok(()))?;
        if self.has_changed || self.writing.is_some() {
            let file = self.folder.join(FILE);
            let text = format!("{} is not written in {patience:?}", file.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Lets a thread write what has changed, unless one writes: a disk that is slow keeps nobody waiting.
    fn begin_writing(&mut self, now: Instant) -> io::Result<()> {
        if !self.has_changed || self.writing.is_some() {
            return Ok(());
        }
        self.write_at = now + WRITE_EVERY;
        let (folder, ledger) = (self.folder.clone(), self.ledger.clone());
        let (sender, writing) = mpsc::channel();
        // Nobody may wait for the outcome any more.
        let write = move || drop(sender.send(written(&folder, &ledger)));
        thread::Builder::new().name("volumes".into()).spawn(write)?;
        (self.writing, self.has_changed) = (Some(writing), false);
        Ok(())
    }

    /// What has come of the writing, if one is under way and over in time.
    fn poll_written(&mut self, patience: Duration, now: Instant) -> Option<io::Result<()>> {
        let outcome = match self.writing.as_ref()?.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => return None,
            Err(gone @ RecvTimeoutError::Disconnected) => Err(io::Error::other(gone)),
            Ok(outcome) => outcome,
        };
        self.writing = None;
        if outcome.is_err() {
            (self.has_changed, self.write_at) = (true, now + WRITE_AGAIN);
        }
        Some(outcome)
    }
}

fn written(folder: &Path, ledger: &Ledger) -> io::Result<()> {
    let json = serde_json::to_string_pretty(ledger);
    let json = json.expect("invariant: plain values, into memory");
    state::replace(folder, FILE, &json).map_err(io::Error::other)
}
