//! `upgrade` of both programs.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::shared::{SocketArgs, parsed, say};
use crate::api::{Client, NewProgram};
use crate::exit::{Exit, Failed};
use crate::upgrade::Upgraded;

/// What is to take over from the running daemon.
#[derive(Clone, Debug, Args)]
pub struct UpgradeArgs {
    /// Where the daemon is asked.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The program that takes over [default: the daemon's own file, as it is now].
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// Lets another process take over from the daemon on `socket`, and says which.
///
/// # Errors
/// When none does: then the daemon goes on.
pub fn upgrade(args: &UpgradeArgs, socket: &Path) -> Result<(), Failed> {
    let whole = |file: &PathBuf| {
        fs::canonicalize(file).map_err(|error| {
            Failed::new(Exit::Failure, format!("{} cannot be found: {error}", file.display()))
        })
    };
    let program = args.program.as_ref().map(whole).transpose()?;
    let json = Client::new(socket).post("/v1/upgrade", &NewProgram { program })?;
    let Upgraded { pid } = parsed(&json)?;
    say(&format!("process {pid} has taken over"));
    Ok(())
}
