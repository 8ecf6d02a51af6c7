//! The program `adit`: the internal contact point and its command line.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    adit::cli::main()
}
