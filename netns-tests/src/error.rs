//! What can go wrong in the lab, with its cure.

use std::io;
use std::path::PathBuf;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Tools are missing and could not be installed.
    #[error("missing tools: {missing}. The cure: {cure}")]
    MissingTools {
        /// The commands that were not found.
        missing: String,
        /// The line that installs them.
        cure: String,
    },
    /// The machine does not let us make namespaces.
    #[error(
        "cannot make namespaces: {reason}. Run as root, or allow them: \
         sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    )]
    NoNamespaces {
        /// What the attempt printed.
        reason: String,
    },
    /// A command ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {seconds} s in vain for {what}{detail}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long was waited.
        seconds: u64,
        /// What was seen instead.
        detail: String,
    },
    /// A NAT or a firewall does not behave as its preset promises.
    #[error("{preset} does not behave as promised: {seen}")]
    Misbehaved {
        /// The preset.
        preset: String,
        /// What the probe saw.
        seen: String,
    },
    /// A process of the lab ended too early.
    #[error("{name} ended too early ({status}); its log, {log}, ends with:\n{tail}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: String,
        /// Where its log is.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// Something that was claimed does not hold.
    #[error("{0}")]
    Claim(String),
    /// Something printed or answered what the lab does not understand.
    #[error("cannot understand {what}: {text}")]
    Unexpected {
        /// Whose words they are.
        what: String,
        /// The words.
        text: String,
    },
}

impl LabError {
    /// Wraps a system error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
