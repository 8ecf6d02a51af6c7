//! The program `adit-relay`: the outside end. It accepts, authenticates, and hands out contact
//! points; everything that moves bytes is the library of `adit`.
//!
//! Deliberately absent: a data path, and any state that outlives the process.
#![forbid(unsafe_code)]

mod absence;
mod beat;
mod cli;
mod contact;
mod daemon;
mod door;
mod lookups;
mod policy;
mod reception;
mod refused;
mod registrar;

fn main() -> std::process::ExitCode {
    cli::main()
}
