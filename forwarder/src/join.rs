//! `adit join`: uses an invitation. It makes the key, has the relay let it in, and writes the
//! configuration that `adit run` starts with.
//!
//! ```text
//!   line ─▶ clock ─▶ room on disk ─▶ dial, relay's key pinned ─▶ "joined" ─▶ key and configuration
//! ```
//!
//! Whatever fails before the last step leaves nothing on disk, and what fails before the dialling
//! leaves the invitation unused.

mod file;
mod site;

use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_proto::id::Side;
use adit_proto::limits::HANDSHAKE_MAX;
use tokio::time::timeout;

use crate::config::{GatewayConfig, ProxyText};
use crate::exit::{Exit, Failed};
use crate::gateway::{BadEnvironment, DialError, Gateway, Through, proxies};
use crate::handoff::Carrier;
use crate::invitation::{Answer, BadLine, BadMessage, Grant, Invitation, UnixTime, Untimely};
use crate::key::{KeyError, PrivateKey};
use crate::net::{self, Exchange, ExchangeError};
use crate::pump;
use crate::tls::HandshakeError;
use site::Site;

pub use site::{CONFIG_NAME, KEY_NAME, SiteError};

/// How often the question is put when the connection is lost before the answer: the relay gives
/// the same key the same answer again.
const ATTEMPTS_MAX: u32 = 3;
/// The pause before the next attempt: a relay that is restarted is away for a moment.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the relay may take to answer.
const ANSWER_MAX: Duration = HANDSHAKE_MAX;

/// What has been put in place.
#[derive(Debug)]
pub struct Joined {
    /// Who we are at the relay, and what we may have there.
    pub grant: Grant,
    /// The configuration.
    pub config: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// The environment's proxy that led there, which is not in the configuration.
    pub through: Option<Through>,
}

/// Why nothing has been put in place.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The line.
    #[error(transparent)]
    Line(#[from] BadLine),
    /// A clock.
    #[error(transparent)]
    Time(#[from] Untimely),
    /// The folder.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Our new key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// This host's kernel.
    #[error(transparent)]
    Kernel(#[from] adit_ring::Refusal),
    /// TLS with our new key.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// The environment's proxy.
    #[error(transparent)]
    Environment(#[from] BadEnvironment),
    /// The relay is not to be had.
    #[error("the relay is not reached: {0}; the invitation is as good as before")]
    Dial(DialError),
    /// The relay was reached and did not answer.
    #[error(
        "the relay's answer did not come ({0}): try again, and should the relay say then that the \
         invitation is used, ask its operator for a new one"
    )]
    Lost(String),
    /// The relay says no.
    #[error("the relay refuses: {0}")]
    Refused(String),
    /// The relay says something else.
    #[error(transparent)]
    Answer(#[from] BadMessage),
    /// The relay has said yes, and the files cannot be put in place all the same.
    #[error(
        "the relay lets us in as {name}, but {source}: the key is not kept, and the invitation is \
         used; have {name} revoked there, and ask for a new invitation"
    )]
    Unsettled {
        /// Our name at the relay.
        name: String,
        /// What is in the way.
        source: SiteError,
    },
    /// Told to end.
    #[error("interrupted before the relay had answered")]
    Interrupted,
}

impl From<JoinError> for Failed {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Line(_) => Self::new(Exit::Usage, error),
            JoinError::Kernel(refusal) => refusal.into(),
            JoinError::Key(error) => error.into(),
            JoinError::Environment(error) => Self::new(Exit::Config, error),
            error => Self::new(Exit::Failure, error),
        }
    }
}

/// Uses the invitation in `line` at the time `now`: leaves a key and a configuration in `dir`.
///
/// # Errors
/// When the line, the clock, the folder or the relay does not allow it; nothing is written then.
pub fn join(line: &str, dir: &Path, now: UnixTime) -> Result<Joined, JoinError> {
    join_through(line, dir, now, None)
}

/// The same through `proxy`, which the configuration then names; it is an address, `none`, or nothing
/// for the environment's.
///
/// # Errors
/// As [`join`].
pub fn join_through(
    line: &str,
    dir: &Path,
    now: UnixTime,
    proxy: Option<&ProxyText>,
) -> Result<Joined, JoinError> {
    let invitation: Invitation = line.parse()?;
    invitation.check(now)?;
    let key = PrivateKey::generate()?;
    let site = Site::prepare(dir, &key, proxy.is_some_and(ProxyText::has_login))?;
    let gateway = GatewayConfig {
        proxy: proxy.map(|proxy| proxy.choice().clone()).unwrap_or_default(),
        ..GatewayConfig::default()
    };
    let through = proxies(&gateway, &invitation.relay, |name| std::env::var(name).ok())?;
    let through = through.into_iter().flatten().find(|through| through.variable.is_some());
    pump::probe()?;
    let grant = net::run(async {
        tokio::select! {
            answered = ask(&invitation, &key, &gateway) => answered,
            _ = net::interrupted() => Err(JoinError::Interrupted),
        }
    })?;
    let settled = site.settle(&file::text(&invitation, &grant, dir, proxy, through.as_ref()));
    let unsettled = |source| JoinError::Unsettled { name: grant.name.clone(), source };
    let (config, key) = settled.map_err(unsettled)?;
    Ok(Joined { grant, config, key, through })
}

async fn ask(
    invitation: &Invitation,
    key: &PrivateKey,
    config: &GatewayConfig,
) -> Result<Grant, JoinError> {
    let gateway = Gateway::joining(invitation.relay.clone(), key, invitation.relay_key)?;
    let gateway = gateway.through(config)?;
    let mut carrier = gateway.dial().await.map_err(JoinError::Dial)?;
    let mut attempt = 1;
    // From here on the relay may have taken the key in, whatever happens.
    loop {
        let why = match timeout(ANSWER_MAX, exchange(carrier, invitation)).await {
            Ok(Ok(answer)) => return granted(Answer::from_bytes(&answer)?),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("nothing in {} s", ANSWER_MAX.as_secs()),
        };
        carrier = loop {
            if attempt == ATTEMPTS_MAX {
                return Err(JoinError::Lost(why));
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
            if let Ok(carrier) = gateway.dial().await {
                break carrier;
            }
        };
    }
}

async fn exchange(carrier: Carrier, invitation: &Invitation) -> Result<Vec<u8>, ExchangeError> {
    let mut exchange = Exchange::new(Side::Forwarder, carrier);
    exchange.send(&invitation.request.to_bytes()).await?;
    exchange.receive().await
}

fn granted(answer: Answer) -> Result<Grant, JoinError> {
    match answer {
        Answer::Joined(grant) => Ok(grant),
        Answer::Refused(text) => Err(JoinError::Refused(text)),
    }
}
