//! `invite`, `forwarders`, `revoke` and `rotate`.

use std::path::PathBuf;
use std::time::Duration;

use adit::api::Client;
use adit::cli::{SocketArgs, parsed, say};
use adit::config::{self, RELAY_FILE, RelayConfig};
use adit::exit::{Exit, Failed};
use adit::invitation::Grant;
use adit::key::PrivateKey;
use adit::status::Table;
use clap::Args;

use crate::api::{Everybody, Expected, Invite, Invited, Known, Revoked};

/// Whom to invite, and to what.
#[derive(Clone, Debug, Args)]
pub(super) struct InviteArgs {
    /// Who it will be here.
    name: String,
    /// Public ports that it may have, such as 2222,8000-8100.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    ports: Vec<String>,
    /// Private names that it may register, such as db,office-*.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    names: Vec<String>,
    /// Private names that it may call.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    calls: Vec<String>,
    /// What the relay dials for it, such as 192.0.2.10:443,198.51.100.0/24:80-443.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    dials: Vec<String>,
    /// An external peer (`adit connect`) instead of a forwarder.
    #[arg(long)]
    external: bool,
    /// How long the invitation is good for: 1h, 30min, 7days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// Where this relay is reached from outside [default: `address` of the configuration].
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    relay: Vec<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// How everybody is shown.
#[derive(Clone, Debug, Args)]
pub(super) struct ForwardersArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print the JSON object that the daemon answers with.
    #[arg(long)]
    json: bool,
}

/// Who is let in no more.
#[derive(Clone, Debug, Args)]
pub(super) struct RevokeArgs {
    /// The name that it has here.
    name: String,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Whose key is changed.
#[derive(Clone, Debug, Args)]
pub(super) struct RotateArgs {
    /// The configuration, which names the key.
    #[arg(short, long, value_name = "FILE", default_value = RELAY_FILE)]
    config: PathBuf,
}

/// The line on stdout, for whoever passes it on; until when it is good, on stderr.
pub(super) fn invite(args: InviteArgs) -> Result<(), Failed> {
    let client = Client::new(&super::socket(&args.socket)?);
    let InviteArgs { name, ports, names, calls, dials, external, expires, relay, .. } = args;
    let grant = Grant { name, external, ports, names, calls, dials };
    let asked = Invite { grant, relay, expires_s: expires.as_secs() };
    let invited: Invited = parsed(&client.post("/v1/invitations", &asked)?)?;
    eprintln!("good once, until {}, for: adit join LINE", invited.expires_at);
    say(&invited.line);
    Ok(())
}

pub(super) fn forwarders(args: &ForwardersArgs) -> Result<(), Failed> {
    let json = Client::new(&super::socket(&args.socket)?).get("/v1/forwarders")?;
    if args.json {
        say(&json);
        return Ok(());
    }
    let everybody: Everybody = parsed(&json)?;
    let mut table = Table::new(["NAME", "ROLE", "STATE", "REMOTE", "LET IN BY", "KEY"]);
    for Known { name, role, key, file, is_connected, remote, .. } in everybody.admitted {
        let state = if is_connected { "connected" } else { "away" };
        table.row([name, role, state.to_owned(), remote.unwrap_or_else(|| "-".into()), file, key]);
    }
    for Expected { grant, expires_at } in everybody.invited {
        let role = if grant.external { "external" } else { "forwarder" };
        let until = format!("invited until {expires_at}");
        let none = || "-".to_owned();
        table.row([grant.name, role.to_owned(), until, none(), none(), none()]);
    }
    say(&table.to_string());
    Ok(())
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<(), Failed> {
    let name = &args.name;
    config::name(name).map_err(|bad| Failed::new(Exit::Usage, bad))?;
    let client = Client::new(&super::socket(&args.socket)?);
    let revoked: Revoked = parsed(&client.delete(&format!("/v1/forwarders/{name}"))?)?;
    if let Some(key) = revoked.key {
        say(&format!("{name} is let in no more: {key}"));
    }
    if revoked.was_invited {
        say(&format!("the open invitation of {name} is withdrawn"));
    }
    Ok(())
}

/// Makes the next key beside the present one: its public half on stdout, and the way there on
/// stderr. Asked again, it shows the same key.
pub(super) fn rotate(args: &RotateArgs) -> Result<(), Failed> {
    let file = RelayConfig::load(&args.config)?.key;
    let present = PrivateKey::load(&file)?.public();
    let mut next_file = file.clone().into_os_string();
    next_file.push(".next");
    let next_file = PathBuf::from(next_file);
    let next = if next_file.exists() {
        PrivateKey::load(&next_file)?
    } else {
        let next = PrivateKey::generate()?;
        next.save(&next_file)?;
        next
    };
    let (file, next_file, next) = (file.display(), next_file.display(), next.public());
    eprintln!(
        "The next key lies in {next_file}. Until it is in its place nothing changes:\n\
         1. In the configuration of every forwarder and external peer, let both keys in:\n   \
            relay_key = [\"{present}\", \"{next}\"]\n   \
            and `adit reload` it (`adit connect` is restarted).\n\
         2. When all of them have both: mv {next_file} {file}, let it have\n   \
            the owner that it had, and `adit-relay upgrade`.\n   \
            Invitations that are open then are void: they name the old key.\n\
         3. Leave the old key out again everywhere: relay_key = \"{next}\", and `adit reload`."
    );
    say(&next.to_string());
    Ok(())
}
