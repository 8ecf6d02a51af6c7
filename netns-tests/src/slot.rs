//! A semaphore over all test processes: two cores carry two labs at once, not ten.

use std::fs::File;
use std::thread;
use std::time::Duration;

use crate::LabError;
use crate::paths::lock_file;

/// How many labs stand at once on one machine.
const SLOTS: usize = 2;
/// How many more whose traffic is paced: they mostly wait.
const SLOTS_PACED: usize = 6;

/// The right to have a lab; the kernel gives it back when the process dies.
#[derive(Debug)]
pub(crate) struct Slot {
    _lock: File,
}

impl Slot {
    /// Waits for a free slot. There is no deadline: whoever runs the tests has one.
    pub(crate) fn take(paced: bool) -> Result<Self, LabError> {
        let (kind, slots) = if paced { ("paced", SLOTS_PACED) } else { ("slot", SLOTS) };
        loop {
            for index in 0..slots {
                let file = lock_file(&format!("{kind}-{index}.lock"))?;
                if file.try_lock().is_ok() {
                    return Ok(Self { _lock: file });
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
