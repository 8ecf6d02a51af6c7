//! Keeps processors awake.
//!
//! In a virtual machine waking a halted core costs tens of microseconds, more than what is to be
//! measured. A thread under `SCHED_IDLE` keeps each core from halting and yields to everything.

use std::hint;
use std::io;
use std::thread;

use netns_tests::{Host, Process};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Load;
use crate::error::BenchError;

/// One spinning thread for each core, until dropped.
#[derive(Debug)]
pub(crate) struct Spinner {
    _processes: Vec<Process>,
}

impl Spinner {
    /// Starts one for each core; the host is only where they live.
    pub(crate) fn start(host: &Host<'_>) -> Result<Self, BenchError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let processes: Result<_, BenchError> =
            (0..cores).map(|cpu| Load::Spin { cpu }.spawn(host)).collect();
        Ok(Self { _processes: processes? })
    }
}

/// Spins for ever.
pub(super) fn run(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    loop {
        hint::spin_loop();
    }
}
