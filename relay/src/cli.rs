//! The command line of `adit-relay`.

mod enrolment;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use adit::cli::{
    HistogramArgs, KeygenArgs, LogArgs, SocketArgs, StatusArgs, TopArgs, UpgradeArgs, Watched,
    check_io_uring, check_key, check_user, command_line, histogram, keygen, ok, pages, reload,
    show_status, top, upgrade,
};
use adit::config::{RELAY_FILE, RELAY_SOCKET, RelayConfig};
use adit::exit::{self, Exit, Failed};
use adit::invitation::UnixTime;
use adit::key::PrivateKey;
use adit::status::relay_table;
use adit_about::PagesArgs;
use clap::{Parser, Subcommand};

use crate::daemon;
use crate::invitations::Invitations;
use crate::volumes::Volumes;
use enrolment::{ForwardersArgs, InviteArgs, RevokeArgs, RotateArgs};

const EXAMPLES: &str = "\
Examples:
  adit-relay keygen --out /etc/adit/relay.key   make a key; forwarders need its public half
  adit-relay check                              is the configuration right, and the kernel willing?
  adit-relay run                                let forwarders in, keep their contact points
  adit-relay invite office --ports 2222         a line that lets a new forwarder in, once
  adit-relay status                             who is here, and what has been refused";

/// Makes services behind a NAT or a firewall reachable through this host: the outside end.
///
/// Forwarders dial in from behind their gateways; whoever connects to one of their contact points
/// here reaches the peer that it was registered for.
#[derive(Debug, Parser)]
#[command(name = "adit-relay", version = adit_about::VERSION, after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key pair, and print the public half.
    Keygen(KeygenArgs),
    /// Check the configuration, the key and the kernel, and say what is wrong.
    Check {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = RELAY_FILE)]
        config: PathBuf,
    },
    /// Let forwarders in and keep their contact points, in the foreground.
    ///
    /// TERM or INT lets the open connections finish, for 10 seconds at most; a second one ends at
    /// once. HUP reads the configuration again, as `reload` does, and USR2 is `upgrade`.
    Run {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = RELAY_FILE)]
        config: PathBuf,
        /// Take over from the process that starts this one.
        #[arg(long, hide = true)]
        takeover: bool,
    },
    /// Have the running relay read its configuration again, and print what has changed.
    ///
    /// A file that is wrong changes nothing: the error is printed, and the end is 1.
    Reload(SocketArgs),
    /// Show the running relay.
    Status(StatusArgs),
    /// Show how long things take in the running relay, or write it to files.
    Histogram(HistogramArgs),
    /// Watch the running relay: flows, rates, times; q ends.
    Top(TopArgs),
    /// Make an invitation, and print it: one line, for `adit join` on another host.
    Invite(InviteArgs),
    /// Show who may come: of the configuration, enrolled, or invited.
    Forwarders(ForwardersArgs),
    /// Let an enrolled key in no more, and withdraw an open invitation.
    ///
    /// Its tunnel ends at once. Who stands in the configuration is removed there.
    Revoke(RevokeArgs),
    /// Make the relay's next key beside the present one, and say how to change to it.
    Rotate(RotateArgs),
    /// Let a new process take over from the running relay: nothing is cut off.
    ///
    /// It is started as the running one was. Should it not get ready, the running one goes on.
    Upgrade(UpgradeArgs),
    /// Write man pages, and completions for bash, zsh and fish.
    #[command(hide = true)]
    Pages(PagesArgs),
}

/// The program `adit-relay`.
pub(crate) fn main() -> ExitCode {
    exit::finish("adit-relay", run(command_line::<Cli>()))
}

fn run(cli: Cli) -> Result<(), Failed> {
    match cli.command {
        Command::Keygen(args) => keygen(&args.out.unwrap_or_else(|| "relay.key".into())),
        Command::Check { config } => check(&config),
        Command::Run { config, takeover } => {
            cli.log.start("info")?;
            daemon::run(&config, takeover)
        }
        Command::Reload(args) => reload(socket(&args)),
        Command::Status(args) => show_status(&args, &socket(&args.socket)?, relay_table),
        Command::Histogram(args) => histogram(&args, &socket(&args.socket)?),
        Command::Top(args) => top(&args, &socket(&args.socket)?, Watched::Relay),
        Command::Invite(args) => enrolment::invite(args),
        Command::Forwarders(args) => enrolment::forwarders(&args),
        Command::Revoke(args) => enrolment::revoke(&args),
        Command::Rotate(args) => enrolment::rotate(&args),
        Command::Upgrade(args) => upgrade(&args, &socket(&args.socket)?),
        Command::Pages(args) => pages::<Cli>(&args),
    }
}

fn socket(args: &SocketArgs) -> Result<PathBuf, Failed> {
    args.find(RELAY_FILE, RELAY_SOCKET, |file| Ok(RelayConfig::load(file)?.socket))
}

fn check(file: &Path) -> Result<(), Failed> {
    let config = RelayConfig::load(file)?;
    let count = config.admitted.len();
    ok("configuration", &format!("{}, {count} forwarder(s)", file.display()));
    Invitations::load(&config.state).map_err(|error| Failed::new(Exit::Config, error))?;
    Volumes::load(&config.state, UnixTime::now(), Instant::now())
        .map_err(|error| Failed::new(Exit::Config, error))?;
    let key = PrivateKey::load(&config.key)?;
    check_key(&config.key, &key);
    check_user(config.user.as_deref())?;
    check_io_uring()
}
