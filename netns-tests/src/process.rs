//! Processes of the lab: started in a namespace, logged to a file, killed when dropped.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::sandbox::child_of;
use crate::tunnel::is_gone;
use crate::{LabError, SHORT, wait_until};

/// How many bytes of a log an error shows.
const TAIL_BYTES_MAX: usize = 2_000;

/// A process that runs in the lab. Dropping it kills it, with its group.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    /// `nsenter`, which waits for the real process and ends as that does.
    child: Child,
    pid: i32,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` (a prepared `nsenter`), its output going to `log`.
    pub(crate) fn start(
        name: String,
        mut command: Command,
        log: PathBuf,
        stdin: Stdio,
    ) -> Result<Self, LabError> {
        let file = File::create(&log).map_err(LabError::io(format!("making {}", log.display())))?;
        let again = file.try_clone().map_err(LabError::io("sharing a log"))?;
        let child = command
            .stdin(stdin)
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(LabError::io(format!("starting {name}")))?;
        let mut process = Self { name, log, child, pid: 0, status: None };
        // A short-lived process may be gone already; then there is nobody to signal.
        wait_until(SHORT, "nsenter to start its program", || {
            process.pid = child_of(process.child.id()).unwrap_or_default();
            process.pid != 0 || process.try_status().is_some()
        })?;
        Ok(process)
    }

    /// The process's name, as in its log's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's number outside the lab.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All of its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until a line of the log contains `needle`, and returns that line.
    ///
    /// # Errors
    /// When it does not within `deadline`, or when the process ends first.
    pub fn wait_for_log(&mut self, needle: &str, deadline: Duration) -> Result<String, LabError> {
        self.wait_for_line(needle, deadline, |line| line.contains(needle))
    }

    /// Waits until a line of the log satisfies `wanted`, and returns that line.
    ///
    /// # Errors
    /// When none does within `deadline`, or when the process ends first.
    pub fn wait_for_line(
        &mut self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, LabError> {
        let end = Instant::now() + deadline;
        loop {
            // The order matters: output written just before the end counts.
            let ended = self.try_status();
            if let Some(line) = self.log().lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                return Err(self.ended(status));
            }
            if Instant::now() >= end {
                return Err(LabError::Timeout {
                    what: format!("'{what}' from {}", self.name),
                    seconds: deadline.as_secs(),
                    detail: format!("; its log ends with:\n{}", self.tail()),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes a line to the process's standard input (if it was started with one).
    ///
    /// # Errors
    /// When it has none, or reads no more.
    pub fn say(&mut self, line: &str) -> Result<(), LabError> {
        let doing = format!("talking to {}", self.name);
        let stdin = self.child.stdin.as_mut().ok_or_else(|| LabError::Unexpected {
            what: doing.clone(),
            text: "it was started without an input".to_owned(),
        })?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).map_err(LabError::io(doing))
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        kill(Pid::from_raw(self.pid), signal)
            .map_err(|error| LabError::io(format!("{signal} to {}", self.name))(error.into()))
    }

    /// How the process ended, if it has.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.try_status().is_none()
    }

    /// Closes the process's input and waits for its end.
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, LabError> {
        drop(self.child.stdin.take());
        let what = format!("the end of {}", self.name);
        wait_until(deadline, &what, || self.try_status().is_some())?;
        self.status.ok_or(LabError::Unexpected { what, text: "no status".to_owned() })
    }

    /// Waits for the process to end well, and returns its output.
    ///
    /// # Errors
    /// When it ends badly or not at all.
    pub fn finish(&mut self, deadline: Duration) -> Result<String, LabError> {
        let status = self.wait(deadline)?;
        if status.success() { Ok(self.log()) } else { Err(self.ended(status)) }
    }

    /// Kills the process and its group, and waits until they are gone.
    pub fn kill(&mut self) {
        if self.try_status().is_some() {
            return;
        }
        // `nsenter` dies of the signal that its child died of; the group covers shells in between.
        if self.pid != 0 && kill(Pid::from_raw(self.pid), Signal::SIGKILL).is_ok() {
            let group = i32::try_from(self.child.id()).map(Pid::from_raw);
            if let Ok(group) = group
                && killpg(group, Signal::SIGKILL).is_err()
            {
                // Already gone: what was wanted.
            }
        }
        if let Err(error) = self.child.kill() {
            eprintln!("lab: cannot kill {}: {error}", self.name);
        }
        self.status = self.child.wait().ok();
        // The program may outlive `nsenter` for a moment, and hold its ports.
        let pid = self.pid;
        if pid != 0 && wait_until(SHORT, "a killed process to be gone", || is_gone(pid)).is_err() {
            eprintln!("lab: {} does not die", self.name);
        }
    }

    /// The resident memory of the process, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64, LabError> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path).map_err(LabError::io(format!("reading {path}")))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .ok_or_else(|| LabError::Unexpected { what: path, text: status.clone() })?;
        Ok(kib * 1024)
    }

    /// The processor time of the process, all its threads together.
    ///
    /// # Errors
    /// When it is gone.
    pub fn processor_time(&self) -> Result<Duration, LabError> {
        clock_getcpuclockid(Pid::from_raw(self.pid))
            .and_then(clock_gettime)
            .map(Duration::from)
            .map_err(|error| LabError::io(format!("the time of {}", self.name))(error.into()))
    }

    fn tail(&self) -> String {
        let log = self.log();
        let start = log.floor_char_boundary(log.len().saturating_sub(TAIL_BYTES_MAX));
        log[start..].to_owned()
    }

    fn ended(&self, status: ExitStatus) -> LabError {
        LabError::Ended {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.log.clone(),
            tail: self.tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command ended well.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
