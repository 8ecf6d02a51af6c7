//! Why io_uring cannot be used, and what to do about it.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

/// Why io_uring cannot be used here. Its text names the reason and the cure.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// `kernel.io_uring_disabled` is set.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = {0}): \
         run `sysctl kernel.io_uring_disabled=0`, or with 1 add this user's group to \
         kernel.io_uring_group"
    )]
    Disabled(u32),
    /// Something else forbids the system calls.
    #[error(
        "io_uring is forbidden to this process, most likely by a container's seccomp profile: \
         allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden,
    /// Locked memory is limited too tightly.
    #[error(
        "io_uring needs more locked memory than RLIMIT_MEMLOCK allows ({0} bytes): \
         raise it to 8 MiB, with `ulimit -l 8192`, or `LimitMEMLOCK=8M` in the unit file"
    )]
    Memlock(u64),
    /// The kernel is too old.
    #[error("this kernel ({found}) lacks {missing}: Linux 6.1 or newer is needed")]
    Kernel {
        /// The kernel's release.
        found: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// Anything else, in the system's words.
    #[error("io_uring cannot be set up: {0}")]
    Other(#[from] io::Error),
}

impl Refusal {
    /// What an error of `io_uring_setup(2)` means here.
    pub(crate) fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => match disabled() {
                0 => Self::Forbidden,
                value => Self::Disabled(value),
            },
            // Some containers answer as if the call did not exist.
            Some(Errno::ENOSYS) if Self::is_recent() => Self::Forbidden,
            Some(Errno::ENOSYS) => Self::kernel("io_uring"),
            Some(Errno::EINVAL) => Self::kernel("a set-up flag (DEFER_TASKRUN, 6.1)"),
            Some(Errno::ENOMEM) => {
                let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
                Self::Memlock(limit)
            }
            _ => Self::Other(error),
        }
    }

    pub(crate) fn kernel(missing: &'static str) -> Self {
        Self::Kernel { found: release(), missing }
    }

    fn is_recent() -> bool {
        let release = release();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(1))
    }
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}

fn disabled() -> u32 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every refusal names a cure that can be typed.
    #[test]
    fn each_refusal_names_its_cure() {
        let memlock = Refusal::from_setup(io::Error::from_raw_os_error(Errno::ENOMEM as i32));
        assert!(memlock.to_string().contains("LimitMEMLOCK"), "{memlock}");
        let forbidden = Refusal::from_setup(io::Error::from_raw_os_error(Errno::EPERM as i32));
        assert!(forbidden.to_string().contains("io_uring_setup"), "{forbidden}");
        assert!(Refusal::Disabled(2).to_string().contains("sysctl kernel.io_uring_disabled=0"));
        let old = Refusal::from_setup(io::Error::from_raw_os_error(Errno::EINVAL as i32));
        assert!(old.to_string().contains("6.1 or newer"), "{old}");
    }
}
