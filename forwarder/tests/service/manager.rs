//! A service manager that only listens, for tests of both programs, and a debugger's hand on one thread.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// What a watchdog waits before it strikes. It is fed twice as often.
pub(crate) const WATCHDOG: Duration = Duration::from_millis(400);
/// The longest word of a daemon.
const WORD_BYTES_MAX: usize = 4_096;

/// A daemon, and what it tells.
pub(crate) struct Managed {
    socket: UnixDatagram,
    child: Child,
    /// Who has taken over from it.
    heir: Option<Pid>,
}

impl Managed {
    /// Starts `program` as a service manager would, with a socket in `dir`.
    pub(crate) fn start(mut program: Command, dir: &std::path::Path) -> Self {
        let path: PathBuf = dir.join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        program.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        program.env_remove("WATCHDOG_PID").current_dir(dir);
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = program.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { socket, child, heir: None }
    }

    fn hear(&self, until: Instant) -> Option<String> {
        let left = until.checked_duration_since(Instant::now())?;
        self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
        let mut word = [0; WORD_BYTES_MAX];
        match self.socket.recv(&mut word) {
            Ok(len) => Some(String::from_utf8(word[..len].to_vec()).unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The next word that has `part`; what comes before it is passed over.
    #[track_caller]
    pub(crate) fn wait_for(&self, part: &str) -> String {
        let until = Instant::now() + DEADLINE;
        while let Some(word) = self.hear(until) {
            if word.contains(part) {
                return word;
            }
        }
        panic!("no {part} within {DEADLINE:?}");
    }

    /// Whether a word that has `part` comes within `time`.
    pub(crate) fn hears(&self, part: &str, time: Duration) -> bool {
        let until = Instant::now() + time;
        std::iter::from_fn(|| self.hear(until)).any(|word| word.contains(part))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until `program`, the command that lets another process take over, is done, until the daemon has
    /// ended and the other one has said that it is the daemon now. That is returned.
    pub(crate) fn upgrade(&mut self, mut program: Command) -> Pid {
        let output = program.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let pid = said.split(' ').find_map(|word| word.parse().ok());
        let pid =
            pid.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
        let heir = Pid::from_raw(pid);
        self.heir = Some(heir);
        self.wait_for(&format!("MAINPID={pid}\nREADY=1"));
        assert_eq!(self.wait(), Some(0));
        heir
    }

    pub(crate) fn pid(&self) -> Pid {
        self.heir.unwrap_or_else(|| Pid::from_raw(self.child.id().try_into().unwrap()))
    }

    /// Stops one of the threads that move bytes, and no other.
    pub(crate) fn stop_pump(&self) -> StoppedThread {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let is_pump = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "pump")
        };
        let task = tasks.map(|task| task.unwrap()).find(is_pump).unwrap();
        let thread = Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        StoppedThread(thread)
    }

    /// How it ends.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(heir) = self.heir {
            kill(heir, Signal::SIGKILL).ok();
        }
    }
}

/// A thread that stands still, until this is dropped.
pub(crate) struct StoppedThread(Pid);

impl Drop for StoppedThread {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).ok();
    }
}
