//! The forwarder's part of the API: the peers, and those that are registered while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Asker, Inbox, Json, Refusal, Reply};
use crate::config::{self, Address, BadPeer, Contact, Net, Peer, health, quota};
use crate::registrar::{LEASE, LEASE_MAX, LEASE_MIN, Registered};
use crate::sources::Sources;
use crate::status::PeerStatus;

/// Networks that one list of a peer may have.
const NETS_MAX: usize = 256;

/// A peer to be registered: the body of `POST /v1/peers`. Its settings are those of `[[peer]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPeer {
    /// Its name.
    pub name: String,
    /// Where it listens, `host:port` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// … the same of UDP …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    /// … or the path of its unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<PathBuf>,
    /// `public:PORT`, or `private`, which it is when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// For how long, in seconds; five minutes when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
    /// `v1` or `v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// Seconds between checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_s: Option<u64>,
    /// Flows that it may have at once …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_max: Option<usize>,
    /// … new ones in a second …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_per_s: Option<u32>,
    /// … and bytes in a second, both ways together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// External sources that may reach it …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// … and those that may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// The body of `POST /v1/peers/NAME/renew`, which may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// For how long from now on, in seconds; five minutes when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
}

/// What the forwarder's loop is asked for.
#[derive(Debug)]
pub enum PeersRequest {
    /// Register a peer for a lease.
    Register(Asker, Box<Peer>, Duration, Reply<Registered>),
    /// Let a lease begin again.
    Renew(Asker, String, Duration, Reply<PeerStatus>),
    /// Remove a peer.
    Unregister(Asker, String, Reply<()>),
    /// Show the peers.
    List(Asker, Reply<Vec<PeerStatus>>),
}

/// The routes of the forwarder, beside those of every daemon.
pub fn peers_routes<I: From<PeersRequest> + Send + 'static>() -> Router<Inbox<I>> {
    Router::new()
        .route("/v1/peers", get(list::<I>).post(register::<I>))
        .route("/v1/peers/{name}/renew", post(renew::<I>))
        .route("/v1/peers/{name}", delete(unregister::<I>))
}

async fn list<I: From<PeersRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    asker: Asker,
) -> Result<Json<Vec<PeerStatus>>, Refusal> {
    inbox.ask(|reply| I::from(PeersRequest::List(asker, reply))).await.map(Json)
}

async fn register<I: From<PeersRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    asker: Asker,
    Json(new): Json<NewPeer>,
) -> Result<impl IntoResponse, Refusal> {
    let lease = lease(new.lease_s)?;
    let peer = Box::new(new.checked()?);
    let ask = |reply| I::from(PeersRequest::Register(asker, peer, lease, reply));
    let Registered { is_new, peer } = inbox.ask(ask).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(peer)))
}

async fn renew<I: From<PeersRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    asker: Asker,
    Path(name): Path<String>,
    renewal: Option<Json<Renewal>>,
) -> Result<Json<PeerStatus>, Refusal> {
    let seconds = renewal.and_then(|Json(renewal)| renewal.lease_s);
    let (name, lease) = (checked_name(name)?, lease(seconds)?);
    inbox.ask(|reply| I::from(PeersRequest::Renew(asker, name, lease, reply))).await.map(Json)
}

async fn unregister<I: From<PeersRequest> + Send + 'static>(
    State(inbox): State<Inbox<I>>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let name = checked_name(name)?;
    inbox.ask(|reply| I::from(PeersRequest::Unregister(asker, name, reply))).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn wrong(field: &str, reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {reason}"))
}

/// Names end up in logs, here and at the relay.
fn checked_name(name: String) -> Result<String, Refusal> {
    config::name(&name).map_err(|bad| wrong("name", bad))
}

fn lease(seconds: Option<u64>) -> Result<Duration, Refusal> {
    let lease = seconds.map_or(LEASE, Duration::from_secs);
    if (LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Ok(lease);
    }
    let (min, max) = (LEASE_MIN.as_secs(), LEASE_MAX.as_secs());
    Err(wrong("lease_s", format!("{} is out of range: {min} to {max} seconds", lease.as_secs())))
}

impl NewPeer {
    fn checked(self) -> Result<Peer, Refusal> {
        let address = match (self.tcp, self.udp, self.unix) {
            (None, Some(udp), None) => match (self.proxy_protocol.as_deref(), self.health_s) {
                (Some("v1"), _) => return Err(wrong("proxy_protocol", BadPeer::DatagramProxy)),
                (_, Some(_)) => return Err(wrong("health_s", BadPeer::DatagramHealth)),
                _ => Address::Udp(udp.parse().map_err(|bad| wrong("udp", bad))?),
            },
            (Some(tcp), None, None) => Address::Tcp(tcp.parse().map_err(|bad| wrong("tcp", bad))?),
            (None, None, Some(path)) if path.is_absolute() => {
                Address::unix(path).map_err(|bad| wrong("unix", bad))?
            }
            (None, None, Some(path)) => {
                return Err(wrong("unix", format!("{path:?} does not begin with a slash")));
            }
            _ => return Err(wrong("tcp", "one of tcp, udp and unix says where the peer listens")),
        };
        let contact = self.contact.map_or(Ok(Contact::Private), |contact| contact.parse());
        let contact = contact.map_err(|bad| wrong("contact", bad))?;
        let proxy = self.proxy_protocol.map(|text| text.parse()).transpose();
        let allow = self.allow.map(|allow| nets("allow", &allow)).transpose()?;
        let quota = quota(self.flows_max, self.flows_per_s, self.bytes_per_s);
        Ok(Peer {
            quota: quota.map_err(|bad| wrong(bad.key, bad.reason))?,
            proxy: proxy.map_err(|bad| wrong("proxy_protocol", bad))?,
            sources: Arc::new(Sources::new(allow, nets("deny", &self.deny)?)),
            health: self.health_s.map(health).transpose().map_err(|bad| wrong("health_s", bad))?,
            ..Peer::new(checked_name(self.name)?, address, contact)
        })
    }
}

fn nets(field: &str, texts: &[String]) -> Result<Vec<IpNet>, Refusal> {
    if texts.len() > NETS_MAX {
        return Err(wrong(field, format!("more than {NETS_MAX} networks")));
    }
    let net = |text: &String| match text.parse::<Net>() {
        Ok(Net(net)) => Ok(net),
        Err(bad) => Err(wrong(field, bad)),
    };
    texts.iter().map(net).collect()
}
