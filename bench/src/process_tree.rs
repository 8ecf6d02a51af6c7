//! What a process and its descendants have used: processor time and user memory.
//!
//! Descendants count because socat forks for every connection.

use std::fs;
use std::time::Duration;

use netns_tests::Process;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::error::BenchError;

/// User and system time of the process, of what it has waited for, and of its descendants.
///
/// All threads count, the kernel's io_uring workers among them: `/proc/PID/stat` sums the group.
/// What the kernel does for them in interrupts is charged to whoever was interrupted, hence to none
/// of them in particular.
pub(crate) fn processor_time(process: &Process) -> Result<Duration, BenchError> {
    let ticks_per_second = match sysconf(SysconfVar::CLK_TCK) {
        Ok(Some(ticks)) => u32::try_from(ticks).unwrap_or(100),
        _ => 100,
    };
    let mut ticks = 0;
    for pid in tree(process.pid()) {
        match ticks_of(pid) {
            Some(own) => ticks += own,
            None if pid == process.pid() => return Err(gone(process)),
            // A child that ended meanwhile is in its parent's sum.
            None => {}
        }
    }
    Ok(Duration::from_secs(ticks) / ticks_per_second)
}

/// The same of those that live, by their own clocks: to the nanosecond, where a few ticks would be too
/// coarse.
pub(crate) fn fine_processor_time(process: &Process) -> Result<Duration, BenchError> {
    let mut time = Duration::ZERO;
    for pid in tree(process.pid()) {
        match clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime) {
            Ok(own) => time += Duration::from(own),
            Err(_) if pid == process.pid() => return Err(gone(process)),
            Err(_) => {}
        }
    }
    Ok(time)
}

/// The user memory of the process and its descendants, in bytes: PSS, so that a page shared by
/// several counts once.
pub(crate) fn memory_bytes(process: &Process) -> Result<u64, BenchError> {
    let mut kib = 0;
    for pid in tree(process.pid()) {
        match pss_kib(pid) {
            Some(own) => kib += own,
            None if pid == process.pid() => return Err(gone(process)),
            None => {}
        }
    }
    Ok(kib * 1024)
}

/// How many descendants the process has.
pub(crate) fn descendants(process: &Process) -> usize {
    tree(process.pid()).len() - 1
}

fn gone(process: &Process) -> BenchError {
    let text = format!("process {} is gone; its log: {}", process.pid(), process.log());
    BenchError::unexpected(process.name(), text)
}

/// The process and its descendants, as far as they live.
fn tree(root: i32) -> Vec<i32> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    pids
}

/// utime, stime, cutime and cstime of `/proc/PID/stat`, in clock ticks.
fn ticks_of(pid: i32) -> Option<u64> {
    ticks_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn ticks_in(stat: &str) -> Option<u64> {
    // The program's name, in brackets, may hold blanks: fields are counted from its end.
    let fields = stat.rsplit_once(')')?.1;
    let times = fields.split_whitespace().skip(11).take(4);
    times.map(|field| field.parse::<u64>().ok()).sum()
}

fn pss_kib(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with blanks and brackets does not shift the fields.
    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 20 0 0 100 20 3 4 20 0 1 0 55";
        assert_eq!(ticks_in(stat), Some(127));
        assert_eq!(ticks_in("7 nothing"), None);
    }
}
