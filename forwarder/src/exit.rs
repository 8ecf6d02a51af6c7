//! How both programs end: every exit code in one place, after `sysexits.h`.

use std::fmt;
use std::process::ExitCode;

/// What `--help` says about exit codes; kept beside the codes themselves.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  failed for a reason that the message names
   2  the command line is wrong
  69  the daemon cannot be reached: it does not run, or listens on another socket
  71  the kernel does not let this program use io_uring
  77  a key file is open to others than its owner
  78  the configuration is wrong, or a key is missing or none";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Any failure without a code of its own.
    Failure = 1,
    /// The command line is wrong; clap ends the program with it.
    Usage = 2,
    /// The daemon does not answer on its socket (`EX_UNAVAILABLE`).
    Unreachable = 69,
    /// io_uring is not to be had (`EX_OSERR`).
    NoIoUring = 71,
    /// A key file's permissions (`EX_NOPERM`).
    KeyPermissions = 77,
    /// Configuration or key (`EX_CONFIG`).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a program ends before its work is done: what it says, and its exit code.
#[derive(Debug)]
pub struct Failed {
    exit: Exit,
    message: String,
}

impl Failed {
    /// Ends with `exit`, saying `message`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl From<crate::config::ConfigError> for Failed {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::new(Exit::Config, error)
    }
}

impl From<crate::key::KeyError> for Failed {
    fn from(error: crate::key::KeyError) -> Self {
        use crate::key::KeyError;
        let exit = match error {
            KeyError::Exposed { .. } => Exit::KeyPermissions,
            KeyError::NotAKey { .. } | KeyError::File { action: "open", .. } => Exit::Config,
            _ => Exit::Failure,
        };
        Self::new(exit, error)
    }
}

impl From<crate::privilege::NotDropped> for Failed {
    fn from(error: crate::privilege::NotDropped) -> Self {
        use crate::privilege::NotDropped;
        let exit = match error {
            NotDropped::Threads(_) | NotDropped::Refused { .. } => Exit::Failure,
            _ => Exit::Config,
        };
        Self::new(exit, error)
    }
}

impl From<crate::api::ClientError> for Failed {
    fn from(error: crate::api::ClientError) -> Self {
        use crate::api::ClientError;
        let exit = match error {
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Refused { .. } | ClientError::Broken { .. } => Exit::Failure,
        };
        Self::new(exit, error)
    }
}

impl From<adit_ring::Refusal> for Failed {
    fn from(refusal: adit_ring::Refusal) -> Self {
        Self::new(Exit::NoIoUring, refusal)
    }
}

/// Ends `program` with the outcome of its work, with the reason on stderr when it failed.
pub fn finish(program: &str, outcome: Result<(), Failed>) -> ExitCode {
    match outcome {
        Ok(()) => Exit::Success.into(),
        Err(failed) => {
            eprintln!("{program}: {failed}");
            failed.exit().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code that `--help` does not explain would be a riddle to whoever scripts against it.
    #[test]
    fn help_lists_every_code() {
        let codes = [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Unreachable,
            Exit::NoIoUring,
            Exit::KeyPermissions,
            Exit::Config,
        ];
        for exit in codes {
            let line = format!("{:4}  ", exit as u8);
            assert!(HELP.lines().any(|l| l.starts_with(&line)), "{exit:?} is not in the help");
        }
    }
}
