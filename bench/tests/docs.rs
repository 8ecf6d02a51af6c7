//! The page of commands has what `adit-bench` says of itself.

use std::path::Path;

use netns_tests::{LabError, commands};

/// The section of the page and the program say the same, word for word.
#[test]
fn commands_are_listed_as_they_are() -> Result<(), LabError> {
    commands::check(Path::new(env!("CARGO_BIN_EXE_adit-bench")), "adit-bench")
}
