//! What both programs' command lines have in common.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

use adit_about::PagesArgs;
use adit_proto::limits::VERSION as PROTOCOL;
use clap::error::ErrorKind;
use clap::{Args, Parser};
use serde::de::DeserializeOwned;

use crate::api::Client;
use crate::config::{ConfigError, Reloaded};
use crate::exit::{Exit, Failed};
use crate::key::PrivateKey;
use crate::{logging, privilege, pump, status};

/// How much is logged.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// How much `run` logs on stderr: error, warn, info, debug or trace [env: ADIT_LOG] [default: info].
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How `run` logs: text, or json with one object a line [env: ADIT_LOG_FORMAT] [default: text].
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl LogArgs {
    /// Starts logging as is said here, or in the environment, or at the level `usual`.
    ///
    /// # Errors
    /// When the level or the format is none.
    pub fn start(&self, usual: &str) -> Result<(), Failed> {
        let (level, format) = (self.log_level.as_deref(), self.log_format.as_deref());
        logging::start(level, format, usual).map_err(|error| Failed::new(Exit::Usage, error))
    }
}

/// Where a new key goes.
#[derive(Clone, Debug, Args)]
pub struct KeygenArgs {
    /// The file for the private key, which must not exist yet [default: a file in this directory].
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Where the daemon is asked.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// The daemon's socket [default: the one of the configuration].
    #[arg(short, long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The daemon's configuration, which names its socket.
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
}

/// How the daemon's status is shown.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the daemon is asked.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the JSON object that the daemon answers with.
    #[arg(long)]
    pub json: bool,
    /// Show the times of a peer's contact point, by the peer's name, or of the tunnel.
    #[arg(long, value_name = "NAME")]
    pub histogram: Option<String>,
}

impl SocketArgs {
    /// The socket that is named; or that of the configuration that is named; or that of the
    /// configuration in its usual place; or the usual one.
    ///
    /// # Errors
    /// When a configuration is there but wrong.
    pub fn find(
        &self,
        usual_file: &str,
        usual_socket: &str,
        load: impl Fn(&Path) -> Result<PathBuf, ConfigError>,
    ) -> Result<PathBuf, Failed> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let usual_file = Path::new(usual_file);
        match &self.config {
            Some(file) => Ok(load(file)?),
            None if usual_file.exists() => match load(usual_file) {
                Err(error) if error.is_blank() => Ok(usual_socket.into()),
                found => Ok(found?),
            },
            None => Ok(usual_socket.into()),
        }
    }
}

/// The command line of this process. A wrong one ends it, and so does a question: for help, or for the
/// version, which is answered with what this build and this kernel can do together.
pub fn command_line<C: Parser>() -> C {
    C::try_parse().unwrap_or_else(|error| {
        if error.kind() != ErrorKind::DisplayVersion {
            error.exit();
        }
        say(&format!("{}{}", error.render(), abilities()));
        process::exit(0)
    })
}

/// What decides whether two ends understand each other, and how fast they can be.
fn abilities() -> String {
    let ring = match pump::probe() {
        Ok(features) => format!("io_uring {}", usable(features.bundles)),
        Err(refusal) => refusal.to_string(),
    };
    format!("protocol: {PROTOCOL}, over TLS 1.3 with X25519MLKEM768\nkernel: {ring}")
}

/// Writes the man pages and completions of a command line.
///
/// # Errors
/// When the folder cannot be written to.
pub fn pages<C: Parser>(args: &PagesArgs) -> Result<(), Failed> {
    args.write(C::command()).map_err(|error| Failed::new(Exit::Failure, error))
}

/// Prints `text` on stdout. A reader that has gone, as in `| head`, is no failure of ours.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.trim_end().as_bytes()).and_then(|()| out.write_all(b"\n"));
    written.and_then(|()| out.flush()).ok();
}

/// Prints a line of `check`.
pub fn ok(what: &str, detail: &str) {
    say(&format!("OK  {what:<14} {detail}"));
}

/// Makes a key in `file`: the public half on stdout, for scripts, and the path on stderr.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn keygen(file: &Path) -> Result<(), Failed> {
    let key = PrivateKey::generate()?;
    key.save(file)?;
    eprintln!("private key: {}", file.display());
    say(&key.public().to_string());
    Ok(())
}

/// Says that the key is fit for use, and who it makes us.
pub fn check_key(file: &Path, key: &PrivateKey) {
    ok("key", &format!("{} is {}", file.display(), key.public()));
}

/// Says who a daemon that is started as root becomes.
///
/// # Errors
/// When there is no such user.
pub fn check_user(user: Option<&str>) -> Result<(), Failed> {
    let Some(user) = user else { return Ok(()) };
    privilege::check(user)?;
    ok("user", &format!("{user}, when it is started as root"));
    Ok(())
}

/// Says what the kernel offers.
///
/// # Errors
/// When io_uring cannot be used.
pub fn check_io_uring() -> Result<(), Failed> {
    let features = pump::probe()?;
    ok("io_uring", usable(features.bundles));
    Ok(())
}

fn usable(bundles: bool) -> &'static str {
    if bundles { "usable, with receive bundles" } else { "usable, without receive bundles" }
}

/// Asks the daemon for its status.
///
/// # Errors
/// When none answers, or it refuses.
pub fn answer(socket: &Path) -> Result<String, Failed> {
    Ok(Client::new(socket).get("/v1/status")?)
}

/// Has the daemon read its configuration again, and says what has changed. `socket` is where it is
/// asked, or why that is not known: the same error as the daemon finds in the same file.
///
/// # Errors
/// When none answers, or the file is wrong.
pub fn reload(socket: Result<PathBuf, Failed>) -> Result<(), Failed> {
    let unchanged = |error| Failed::new(Exit::Failure, format!("nothing is changed: {error}"));
    let socket = socket.map_err(unchanged)?;
    let reloaded: Reloaded = parsed(&Client::new(&socket).post("/v1/reload", &())?)?;
    say(&format!("{}: {reloaded}", reloaded.file));
    Ok(())
}

/// Shows the daemon's status, as a table, or what else is asked for.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub fn show_status<T: DeserializeOwned>(
    args: &StatusArgs,
    socket: &Path,
    table: impl Fn(&T) -> String,
) -> Result<(), Failed> {
    if let Some(name) = &args.histogram {
        return super::histogram::show_one(name, args.json, socket);
    }
    let json = answer(socket)?;
    let shown = if args.json { json } else { table(&parsed(&json)?) };
    say(&shown);
    Ok(())
}

/// A daemon's answer as what it means.
///
/// # Errors
/// When the daemon is of a version that says something else.
pub fn parsed<T: DeserializeOwned>(json: &str) -> Result<T, Failed> {
    serde_json::from_str(json).map_err(|error| {
        let message = format!(
            "the daemon's answer is not what this version ({}) expects: {error}; \
             let the installed program take over from it (`upgrade`), or use --json",
            status::VERSION
        );
        Failed::new(Exit::Failure, message)
    })
}
