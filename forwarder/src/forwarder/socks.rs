//! SOCKS5 (RFC 1928) for registered peers: `CONNECT` to an address outside, which the relay dials,
//! or to `NAME.adit`, the private contact point of that name.
//!
//! Deliberately absent: `BIND` and `UDP ASSOCIATE`, and passwords: who may ask is told by its
//! address, as at every listener inside.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::frame::is_name;
use fast_socks5::server::{Socks5ServerProtocol, SocksServerError};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::daemon::Input;
use crate::config::{Place, To};
use crate::exit::{Exit, Failed};
use crate::handoff::{Destination, Replies, ResetReason};
use crate::net;
use crate::sources::Sources;

/// The ending of a host name that is a private name.
const PRIVATE: &str = ".adit";
/// How long a request may take to come.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Requests that may be under way at once.
const REQUESTS_MAX: usize = 256;
/// The pause after an accept that failed for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 128;

/// Who may ask; the daemon changes it as peers come and go. While it is not known, who asks waits.
pub(super) type Admitted = Option<Arc<Sources>>;

/// A connection that asks to be led somewhere.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) stream: OwnedFd,
    pub(super) source: SocketAddr,
    pub(super) to: Destination,
}

/// Why a request leads nowhere.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Protocol(#[from] SocksServerError),
    #[error("only CONNECT is offered")]
    Command,
    // Quoted with escapes: it may hold anything.
    #[error("{0:?} is neither an address nor the name of a private contact point")]
    Target(String),
    #[error("the connection cannot be handed over: {0}")]
    Io(#[from] std::io::Error),
}

/// Takes requests on `listen` for the rest of the daemon's life.
pub(super) fn serve(
    listen: SocketAddr,
    admitted: watch::Receiver<Admitted>,
    inbox: mpsc::Sender<Input>,
) -> Result<(), Failed> {
    let failed =
        |error| Failed::new(Exit::Failure, format!("socks: cannot listen on {listen}: {error}"));
    let listener = net::bind_kept(listen, BACKLOG, true).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    tracing::info!(%listen, "SOCKS5 is offered inside");
    net::spawn(accept_all(listener, admitted, inbox));
    Ok(())
}

async fn accept_all(
    listener: TcpListener,
    mut admitted: watch::Receiver<Admitted>,
    inbox: mpsc::Sender<Input>,
) {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, source) = match net::accepting(async || listener.accept().await).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "SOCKS5 cannot accept; trying again shortly");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(known) = admitted.wait_for(Option::is_some).await.map(|known| known.clone()) else {
            return;
        };
        if !known.is_some_and(|sources| sources.accepts(source.ip())) {
            tracing::info!(%source, "turned away from SOCKS5: no peer with its address is registered");
            continue;
        }
        let inbox = inbox.clone();
        net::spawn(async move {
            match tokio::time::timeout(REQUEST_MAX, request(stream, source)).await {
                // The loop has ended: the connection is closed by being dropped.
                Ok(Ok(asked)) => drop(inbox.send(Input::Socks(asked)).await),
                Ok(Err(error)) => {
                    tracing::info!(%source, "a SOCKS5 request that leads nowhere: {error}")
                }
                Err(_) => tracing::info!(%source, "a SOCKS5 request took too long"),
            }
            drop(place);
        });
    }
}

async fn request(mut stream: TcpStream, source: SocketAddr) -> Result<Asked, RequestError> {
    let greeted = Socks5ServerProtocol::accept_no_auth(&mut stream).await?;
    let (asking, command, target) = greeted.read_command().await?;
    if command != Socks5Command::TCPConnect {
        asking.reply_error(&ReplyError::CommandNotSupported).await?;
        return Err(RequestError::Command);
    }
    let Some(to) = destination(&target) else {
        asking.reply_error(&ReplyError::HostUnreachable).await?;
        return Err(RequestError::Target(target.to_string()));
    };
    let stream = stream.into_std()?;
    // The ring answers "try again" on a socket that does not block, instead of waiting.
    stream.set_nonblocking(false)?;
    Ok(Asked { stream: stream.into(), source, to })
}

/// Where a request leads, if it can lead anywhere: a host may be any text in SOCKS, and the relay ends
/// the session of a forwarder that asks for what is no address.
fn destination(target: &TargetAddr) -> Option<Destination> {
    let (host, port) = match target {
        TargetAddr::Ip(address) => (address.ip().to_string(), address.port()),
        TargetAddr::Domain(host, port) => (host.clone(), *port),
    };
    if let Some(name) = host.strip_suffix(PRIVATE) {
        return is_name(name).then(|| Destination::Name(name.to_owned()));
    }
    let To(address) = format!("address:{}", Place { host, port }).parse().ok()?;
    Some(address)
}

/// What the asker is told (RFC 1928 §6); it has no use for the address that the relay dials from.
pub(super) fn replies() -> Replies {
    Replies::new(reply(ReplyError::Succeeded), refused)
}

fn reply(code: ReplyError) -> Vec<u8> {
    vec![5, code.as_u8(), 0, 1, 0, 0, 0, 0, 0, 0]
}

/// What the asker is told who gets no far end.
pub(super) fn refused(reason: ResetReason) -> Vec<u8> {
    let code = match reason {
        ResetReason::ConnectRefused => ReplyError::ConnectionRefused,
        ResetReason::ConnectFailed => ReplyError::HostUnreachable,
        ResetReason::NoContact | ResetReason::Forbidden => ReplyError::ConnectionNotAllowed,
        ResetReason::Peer | ResetReason::Limit | ResetReason::Ending | ResetReason::Idle => {
            ReplyError::GeneralFailure
        }
    };
    reply(code)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lead(host: &str, port: u16) -> Option<Destination> {
        destination(&TargetAddr::Domain(host.to_owned(), port))
    }

    /// What the relay would not take for an address does not reach it.
    #[test]
    fn what_is_no_host_leads_nowhere() {
        let long = "a".repeat(251);
        let strange =
            ["", "a\u{1}b", "a\nb", "a b", "b\u{fc}ro", "[::1]", "a:1", ".adit", "a b.adit"];
        for host in strange.into_iter().chain([long.as_str()]) {
            assert_eq!(lead(host, 65_535), None, "{host:?}");
        }
        assert_eq!(lead("www.example.com", 0), None);
        assert_eq!(destination(&TargetAddr::Ip(([192, 0, 2, 10], 0).into())), None);
    }

    /// Who asks at the beginning of a session is not turned away for the time before.
    #[test]
    fn who_asks_waits_until_it_is_known_who_may() {
        net::run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut asker = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (greeting, request) = ([5, 1, 0], [5, 1, 0, 1, 192, 0, 2, 10, 0, 80]);
            asker.write_all(&greeting).and_then(|()| asker.write_all(&request)).unwrap();
            let (admitted, known) = watch::channel(None);
            let (inbox, mut inputs) = mpsc::channel(1);
            net::spawn(accept_all(listener, known, inbox));
            tokio::task::yield_now().await;
            admitted.send_replace(Some(Arc::new(Sources::any())));
            let input = tokio::time::timeout(REQUEST_MAX, inputs.recv()).await.unwrap();
            let Some(Input::Socks(asked)) = input else { panic!("{input:?}") };
            assert_eq!(asked.to, Destination::Address("192.0.2.10:80".to_owned()));
        });
    }

    /// Hosts by name and by address, and private names.
    #[test]
    fn hosts_and_private_names_lead_somewhere() {
        let address = |text: &str| Some(Destination::Address(text.to_owned()));
        let v6: SocketAddr = "[2001:db8::7]:443".parse().unwrap();
        assert_eq!(destination(&TargetAddr::Ip(v6)), address("[2001:db8::7]:443"));
        assert_eq!(lead("2001:db8::7", 443), address("[2001:db8::7]:443"));
        assert_eq!(lead("192.0.2.10", 80), address("192.0.2.10:80"));
        let longest = "a".repeat(250);
        assert_eq!(lead(&longest, 65_535), address(&format!("{longest}:65535")));
        assert_eq!(lead("db.adit", 1), Some(Destination::Name("db".to_owned())));
    }
}
