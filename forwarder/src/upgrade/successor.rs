//! The new process, as the old one sees it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use adit_ring::passage;

use super::passage::{Passage, Word};
use super::{FORM, PASS_MAX, Parcel, READY_MAX};
use crate::{net, service};

/// What tells a new process that it takes over.
const TAKEOVER: &str = "--takeover";
/// What the kernel says of a program whose file was replaced.
const DELETED: &[u8] = b" (deleted)";

/// A process that is to take over. Until it has been told to go on it is killed when this is dropped.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    passage: Passage,
    has_taken_over: bool,
}

/// The file of this program as it is now, whatever file this process was started from.
fn own_program() -> io::Result<PathBuf> {
    let path = env::current_exe()?.into_os_string().into_vec();
    let path = path.strip_suffix(DELETED).unwrap_or(&path).to_vec();
    Ok(PathBuf::from(OsString::from_vec(path)))
}

impl Successor {
    /// Starts `program`, or the file of this one, as this process was started, and waits until it is
    /// ready to take over from `pumps` pumps.
    ///
    /// # Errors
    /// When it does not get ready, with the reason.
    pub fn start(program: Option<&Path>, pumps: usize) -> Result<Self, String> {
        let own = || own_program().map_err(|error| format!("this program's file: {error}"));
        let program = program.map_or_else(own, |program| Ok(program.to_owned()))?;
        let failed = |error| format!("{} cannot be started: {error}", program.display());
        let (near, far) = passage().map_err(failed)?;
        let arguments = env::args_os().skip(1).filter(|argument| argument != TAKEOVER);
        let child = Command::new(&program)
            .args(arguments)
            .arg(TAKEOVER)
            .stdin(Stdio::from(far))
            // A supervisor's watchdog means whoever is the daemon.
            .env_remove("WATCHDOG_PID")
            .spawn()
            .map_err(failed)?;
        let mut started = Self { child, passage: near.into(), has_taken_over: false };
        match started.meet(pumps) {
            Ok(()) => Ok(started),
            Err(error) => Err(started.explain("it did not get ready", &error)),
        }
    }

    fn meet(&self, pumps: usize) -> io::Result<()> {
        self.passage.set_patience(Some(READY_MAX))?;
        let pumps = u32::try_from(pumps).map_err(io::Error::other)?;
        self.passage.send(&Word::Hello { form: FORM, pumps })?;
        self.passage.send_parcel(&net::pack_kept()?)?;
        self.passage.expect(&Word::Ready)
    }

    /// Passes on what the control plane and the pumps have, and waits until it is taken over.
    ///
    /// # Errors
    /// When it is not, with the reason.
    pub fn hand_over(mut self, parcels: &[Parcel]) -> Result<Self, String> {
        match self.try_hand_over(parcels) {
            Ok(()) => Ok(self),
            Err(error) => Err(self.explain("it did not take over", &error)),
        }
    }

    fn try_hand_over(&self, parcels: &[Parcel]) -> io::Result<()> {
        self.passage.set_patience(Some(PASS_MAX))?;
        parcels.iter().try_for_each(|parcel| self.passage.send_parcel(parcel))?;
        self.passage.expect(&Word::Restored)
    }

    /// Lets it go on: from now on nothing of what was passed may be touched here. Returns its process
    /// number.
    ///
    /// # Errors
    /// When it is gone: then this process goes on.
    pub fn let_go(mut self) -> Result<u32, String> {
        let pid = self.child.id();
        if let Err(error) = self.passage.send(&Word::Go) {
            return Err(self.explain("it did not take over", &error));
        }
        self.has_taken_over = true;
        // The new one says so, too, but a service manager may listen to this one alone.
        service::tell_main_process(pid);
        Ok(pid)
    }

    /// What has gone wrong, and what became of the process.
    fn explain(&mut self, what: &str, error: &io::Error) -> String {
        let ended = self.child.try_wait().ok().flatten();
        match (ended, error.kind()) {
            (Some(status), _) => {
                format!("{what}: the new process has ended ({status}), and its log says why")
            }
            (None, io::ErrorKind::WouldBlock) => format!("{what} in time"),
            // The latter two where it has not heard all that was said to it.
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe,
            ) => format!("{what}: the new process is ending, and its log says why"),
            (None, _) => format!("{what}: {error}"),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_taken_over {
            // Gone already: just as well. Only then may this process touch the sockets again.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
