//! Waiting on conditions, never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

use crate::LabError;

/// For what takes milliseconds on a quiet machine; generous, since two cores are shared.
pub const SHORT: Duration = Duration::from_secs(10);
/// A flow that has not moved for this long, in milliseconds, has stopped. It tells life from
/// death and is no measurement: those are the bench's.
pub const STOPPED_MS: u64 = 10_000;
/// For what moves much data.
pub const LONG: Duration = Duration::from_secs(180);

/// Asks `condition` again and again until it holds.
///
/// # Errors
/// When it does not hold within `deadline`; the error names `what` was waited for.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), LabError> {
    let end = Instant::now() + deadline;
    while !condition() {
        if Instant::now() >= end {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                seconds: deadline.as_secs(),
                detail: String::new(),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
