//! The command line of `adit`, and what it shares with that of `adit-relay`.

mod connect;
mod doctor;
mod histogram;
mod proxy;
mod register;
mod shared;
mod top;
mod upgrade;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_about::PagesArgs;
use clap::{Parser, Subcommand};

use crate::config::{FORWARDER_FILE, FORWARDER_FOLDER, FORWARDER_SOCKET, ForwarderConfig};
use crate::exit::{self, Exit, Failed};
use crate::forwarder;
use crate::gateway::{self, Through};
use crate::invitation::{Grant, LINE_BYTES_MAX, UnixTime};
use crate::join::{self, Joined};
use crate::key::PrivateKey;
use crate::status::forwarder_table;

use connect::ConnectArgs;
use doctor::DoctorArgs;
use proxy::ProxyArgs;
use register::{RegisterArgs, TokenArgs, UnregisterArgs};

pub use histogram::{HistogramArgs, histogram};
pub use shared::{
    KeygenArgs, LogArgs, SocketArgs, StatusArgs, answer, check_io_uring, check_key, check_user,
    command_line, keygen, ok, pages, parsed, reload, say, show_status,
};
pub use top::{TopArgs, Watched, top};
pub use upgrade::{UpgradeArgs, upgrade};

/// A line with blanks around it.
const STDIN_BYTES_MAX: u64 = 2 * LINE_BYTES_MAX as u64;

const EXAMPLES: &str = "\
Examples:
  adit keygen --out /etc/adit/adit.key   make a key; give its public half to the relay's operator
  adit join adit1:…                      the same in one step, with a line from the relay's operator
  adit check                             is the configuration right, and the kernel willing?
  adit run                               keep the tunnel, register the peers
  adit register web tcp 192.168.50.3:80 --contact public:8080
                                         another peer, for five minutes or as long as it is renewed
  adit peers                             which peers are registered, and where they are reached";

/// Makes services behind a NAT or a firewall reachable through a relay: the inside end.
///
/// `adit run` keeps one encrypted connection to the relay, from the inside to the outside, and
/// passes what arrives at each peer's contact point there on to the peer.
#[derive(Debug, Parser)]
#[command(name = "adit", version = adit_about::VERSION, after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
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
        #[arg(short, long, value_name = "FILE", default_value = FORWARDER_FILE)]
        config: PathBuf,
    },
    /// Try every step between this host and a tunnel, and say what is wrong and what to change.
    ///
    /// A forwarder that runs is not disturbed. It ends with 0 when the tunnel works.
    Doctor(DoctorArgs),
    /// Keep the tunnel and register the peers, in the foreground.
    ///
    /// TERM or INT lets the open connections finish, for 10 seconds at most; a second one ends at
    /// once. HUP reads the configuration again, as `reload` does, and USR2 is `upgrade`.
    Run {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = FORWARDER_FILE)]
        config: PathBuf,
        /// Take over from the process that starts this one.
        #[arg(long, hide = true)]
        takeover: bool,
    },
    /// Call a private contact point, or offer some, as an external peer with a key of its own.
    ///
    /// What listens here, or standard input and output, leads to the private contact point; the
    /// connections survive the loss of the tunnel as all others do.
    Connect(ConnectArgs),
    /// Use an invitation of a relay: make a key, have it let in, and write the configuration.
    ///
    /// Nothing is written unless the relay says yes, and nothing is ever overwritten, but for a
    /// configuration that has only comments.
    Join {
        /// The line that `adit-relay invite` has printed; - reads it from stdin.
        line: String,
        /// The folder for adit.toml and adit.key.
        #[arg(long, value_name = "DIR", default_value = FORWARDER_FOLDER)]
        dir: PathBuf,
        #[command(flatten)]
        proxy: ProxyArgs,
    },
    /// Have the running forwarder read its configuration again, and print what has changed.
    ///
    /// A file that is wrong changes nothing: the error is printed, and the end is 1.
    Reload(SocketArgs),
    /// Show the peers of the running forwarder.
    Peers(SocketArgs),
    /// Register a peer with the running forwarder, and print where it is reached.
    ///
    /// It is registered for the time of a lease; the same command again renews it.
    Register(RegisterArgs),
    /// Unregister a peer that was registered so.
    Unregister(UnregisterArgs),
    /// Make a token with which one peer may register itself over the LAN.
    Token(TokenArgs),
    /// Show the running forwarder.
    Status(StatusArgs),
    /// Show how long things take in the running forwarder, or write it to files.
    Histogram(HistogramArgs),
    /// Watch the running forwarder: flows, rates, times; q ends.
    Top(TopArgs),
    /// Let a new process take over from the running forwarder: nothing is cut off.
    ///
    /// It is started as the running one was. Should it not get ready, the running one goes on.
    Upgrade(UpgradeArgs),
    /// Write man pages, and completions for bash, zsh and fish.
    #[command(hide = true)]
    Pages(PagesArgs),
}

/// The program `adit`.
pub fn main() -> ExitCode {
    exit::finish("adit", run(command_line::<Cli>()))
}

fn run(cli: Cli) -> Result<(), Failed> {
    match cli.command {
        Command::Keygen(args) => keygen(&args.out.unwrap_or_else(|| "adit.key".into())),
        Command::Check { config } => check(&config),
        Command::Run { config, takeover } => {
            cli.log.start("info")?;
            if takeover { forwarder::take_over(&config) } else { forwarder::run(&config) }
        }
        Command::Doctor(args) => args.run(),
        Command::Connect(args) => {
            cli.log.start(args.log_level())?;
            args.run()
        }
        Command::Join { line, dir, proxy } => join_relay(line, &dir, &proxy),
        Command::Reload(args) => reload(socket(&args)),
        Command::Peers(args) => register::peers(&socket(&args)?),
        Command::Register(args) => register::register(&args, &socket(&args.socket)?),
        Command::Unregister(args) => register::unregister(&args, &socket(&args.socket)?),
        Command::Token(args) => register::token(&args),
        Command::Status(args) => show_status(&args, &socket(&args.socket)?, forwarder_table),
        Command::Histogram(args) => histogram(&args, &socket(&args.socket)?),
        Command::Top(args) => top(&args, &socket(&args.socket)?, Watched::Forwarder),
        Command::Upgrade(args) => upgrade(&args, &socket(&args.socket)?),
        Command::Pages(args) => pages::<Cli>(&args),
    }
}

fn join_relay(line: String, dir: &Path, proxy: &ProxyArgs) -> Result<(), Failed> {
    let proxy = proxy.read()?;
    let line = if line == "-" {
        let failed = |error| Failed::new(Exit::Failure, format!("cannot read stdin: {error}"));
        io::read_to_string(io::stdin().take(STDIN_BYTES_MAX)).map_err(failed)?
    } else {
        line
    };
    let Joined { grant, config, key, through } =
        join::join_through(&line, dir, UnixTime::now(), proxy.as_ref())?;
    let (config, key) = (config.display(), key.display());
    let next = match &grant {
        Grant { external: true, .. } => "adit connect, as its last lines say".to_owned(),
        Grant { .. } => format!("adit run -c {config}"),
    };
    say(&format!("joined as {}, which may have: {grant}", grant.name));
    say(&format!("wrote {key} and {config}; go on with {next}"));
    if let Some(Through { proxy, variable: Some(variable) }) = through {
        say(&format!(
            "joined through ${variable}, {proxy}: write it into [gateway] of {config} for the service"
        ));
    }
    Ok(())
}

fn socket(args: &SocketArgs) -> Result<PathBuf, Failed> {
    args.find(FORWARDER_FILE, FORWARDER_SOCKET, |file| Ok(ForwarderConfig::load(file)?.socket))
}

fn check(file: &Path) -> Result<(), Failed> {
    let config = ForwarderConfig::load(file)?;
    ok("configuration", &format!("{}, {} peer(s)", file.display(), config.peers.len()));
    let through = gateway::proxies(&config.gateway, &config.relay, |name| std::env::var(name).ok())
        .map_err(|error| Failed::new(Exit::Config, error))?;
    for (place, Through { proxy, variable }) in
        config.relay.iter().zip(through).filter_map(|(place, through)| Some((place, through?)))
    {
        let named_by = variable.unwrap_or("[gateway]");
        ok("proxy", &format!("{place} through {proxy}, named by {named_by}"));
    }
    let key = PrivateKey::load(&config.key)?;
    check_key(&config.key, &key);
    check_user(config.user.as_deref())?;
    check_io_uring()
}
