//! What can go wrong while measuring.

use std::io;

use netns_tests::LabError;

/// Why there is no result, or why the result is a failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The lab, or a program in it.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program said something that is not understood.
    #[error("cannot understand {what}: {text}")]
    Unexpected {
        /// Whose words they are.
        what: String,
        /// The words.
        text: String,
    },
    /// A measurement is above the bound it was given.
    #[error(
        "{who} takes {kib:.2} KiB per idle connection, more than --max-kib {max_kib}: \
         find what grew, or raise the bound where it is set"
    )]
    AboveBound {
        /// Which daemon.
        who: String,
        /// What it takes.
        kib: f64,
        /// What it may take.
        max_kib: f64,
    },
    /// A daemon with nothing to do does too much.
    #[error(
        "{who} takes {percent:.2} % of a core beside idle connections, more than \
         --max-cpu-percent {max_percent}: find what wakes it, or raise the bound where it is set"
    )]
    Restless {
        /// Which daemon.
        who: String,
        /// What it takes.
        percent: f64,
        /// What it may take.
        max_percent: f64,
    },
    /// A bound that a soak is to keep.
    #[error("the soak has found: {what}")]
    Soaked {
        /// What it was.
        what: String,
    },
    /// A bound that a flood is to keep.
    #[error(
        "beside the flood {what}: find what it is spent on, or raise the bound where it is set"
    )]
    Flooded {
        /// What is above it.
        what: String,
    },
    /// A comparison whose time tells what it compares, or a method that would not see it.
    #[error("the timing of {what}: |t| is {t:.1}, and should be {should}")]
    Telling {
        /// Whose.
        what: &'static str,
        /// Welch's t, without its sign.
        t: f64,
        /// What it should be.
        should: &'static str,
    },
    /// A fault after which Adit did not go on.
    #[error("Adit did not recover from a {kind}; what its daemons logged says why")]
    NotRecovered {
        /// What it was.
        kind: String,
    },
}

impl BenchError {
    /// Wraps a system error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// Says whose words are not understood.
    pub(crate) fn unexpected(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into(), text: text.into() }
    }
}
