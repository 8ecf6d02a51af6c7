//! The program `adit-relay`: the outside end. It accepts, authenticates, and hands out contact
//! points; everything that moves bytes is the library of `adit`.
//!
//! Deliberately absent: a data path, and any state that outlives the process, but for the
//! keys that were enrolled, the invitations that are open, and what keys have moved in this month.
#![forbid(unsafe_code)]

mod absence;
mod api;
mod beat;
mod cli;
mod contact;
mod daemon;
mod door;
mod grant;
mod invitations;
mod lookups;
mod own;
mod policy;
mod probe;
mod reception;
mod refused;
mod registrar;
mod state;
mod volumes;

fn main() -> std::process::ExitCode {
    cli::main()
}
