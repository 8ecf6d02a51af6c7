//! `adit-lab`: Adit through every gateway, on this machine, in network namespaces.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    netns_tests::cli::main()
}
