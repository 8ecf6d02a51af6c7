//! The server: one thread, and a bounded number of connections, each for a bounded time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};

use super::{Inbox, Refusal, SocketError, SocketFile, socket};
use crate::net;

/// Requests under way at once; whoever comes on top waits.
const CONNECTIONS_MAX: usize = 64;
/// Of those, how many one source may have; whoever comes on top is turned away …
const CONNECTIONS_PER_SOURCE_MAX: usize = 8;
/// … and how many one IPv6 network may have, since a host there has as many addresses as it likes. Not
/// as few as a source: a LAN is one such network, and its hosts are not to go short for one of them.
const CONNECTIONS_PER_NETWORK_MAX: usize = CONNECTIONS_MAX / 2;
/// The part of an IPv6 address that a host cannot choose.
const NETWORK_BITS: u8 = 64;
/// Connections from the LAN that the kernel may keep for us.
const BACKLOG: i32 = 128;
/// How long a request's head may take to come, on a connection that is kept the next one's, too …
const HEAD_MAX: Duration = Duration::from_secs(2);
/// … and the whole of the request and its answer.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a connection of this host may be kept for one request after the other.
const CONNECTION_MAX: Duration = Duration::from_secs(600);
/// How long a pause after a failed accept is, so that a lack of descriptors does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of the daemon's own user, or of root.
    Local,
    /// Somebody on the LAN.
    Remote(SocketAddr),
}

impl Caller {
    /// Refuses what only this host may ask for.
    ///
    /// # Errors
    /// To a caller from the LAN.
    pub fn only_local(self) -> Result<(), Refusal> {
        match self {
            Self::Local => Ok(()),
            Self::Remote(_) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this is answered on the daemon's own socket alone",
            )),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Every connection has it; without it nobody is more of a stranger than this.
        let stranger = || Self::Remote(SocketAddr::from(([0; 4], 0)));
        Ok(parts.extensions.get().copied().unwrap_or_else(stranger))
    }
}

/// Answers `routes` on the unix socket `path` from now on, with the daemon behind `inbox`. A socket
/// that nobody answers on is replaced.
///
/// # Errors
/// When another daemon answers there, or the socket cannot be made.
pub fn serve<I: Send + 'static>(
    path: &Path,
    inbox: mpsc::Sender<I>,
    routes: Router<Inbox<I>>,
) -> Result<SocketFile, SocketError> {
    let (listener, file) = socket::listen(path)?;
    let router = finished(routes, inbox);
    let accept = async move || {
        // Inside the runtime, which has to know the socket.
        let listener = UnixListener::from_std(listener)?;
        let accept = async || Ok((listener.accept().await?.0, Caller::Local));
        answer_all(accept, &router).await;
        Ok(())
    };
    spawn(accept).map_err(|source| SocketError::Unusable { path: path.into(), source })?;
    Ok(file)
}

/// Answers `routes` to the LAN on `address` from now on, with the daemon behind `inbox`.
///
/// # Errors
/// When that address cannot be listened on.
pub fn serve_lan<I: Send + 'static>(
    address: SocketAddr,
    inbox: mpsc::Sender<I>,
    routes: Router<Inbox<I>>,
) -> io::Result<()> {
    let listener = net::bind_kept(address, BACKLOG, true)?;
    listener.set_nonblocking(true)?;
    let router = finished(routes, inbox);
    spawn(async move || {
        let listener = TcpListener::from_std(listener)?;
        let accept = async || {
            let (stream, remote) = listener.accept().await?;
            Ok((stream, Caller::Remote(remote)))
        };
        answer_all(accept, &router).await;
        Ok(())
    })
}

fn finished<I: Send + 'static>(routes: Router<Inbox<I>>, inbox: mpsc::Sender<I>) -> Router {
    let nothing = || async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing here") };
    let not_so = || async {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this is not asked for in that way")
    };
    let routes = routes.fallback(nothing).method_not_allowed_fallback(not_so);
    routes.with_state(Inbox::from(inbox))
}

/// Runs `serve` in a thread of its own, to the end of the process.
fn spawn<F>(serve: F) -> io::Result<()>
where
    F: AsyncFnOnce() -> io::Result<()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("api".into()).spawn(move || {
        if let Err(error) = runtime.block_on(serve()) {
            tracing::error!(%error, "the API's socket cannot be used");
        }
    })?;
    Ok(())
}

async fn answer_all<S>(accept: impl AsyncFn() -> io::Result<(S, Caller)>, router: &Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let sources = Arc::new(Mutex::new(BTreeMap::new()));
    loop {
        // Never closed, so it cannot fail.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match net::accepting(&accept).await {
            Ok((stream, caller)) => {
                let Some(seat) = Seat::take(&sources, caller) else {
                    tracing::debug!(?caller, "turned away: it has too many connections already");
                    continue;
                };
                let router = router.clone().layer(Extension(caller));
                tokio::spawn(async move {
                    answer(stream, router, caller).await;
                    drop((seat, permit));
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the API's socket cannot accept");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// How many connections each source has, and each network.
type CountsBySource = Arc<Mutex<BTreeMap<IpNet, usize>>>;

/// One connection of one source, until it is dropped.
struct Seat {
    counts: CountsBySource,
    /// What it counts to.
    sources: Vec<IpNet>,
}

/// What a connection from `ip` counts to, and how many each may have.
fn bounds(ip: IpAddr) -> Vec<(IpNet, usize)> {
    let ip = ip.to_canonical();
    let mut bounds = vec![(IpNet::from(ip), CONNECTIONS_PER_SOURCE_MAX)];
    if ip.is_ipv6() {
        let network = IpNet::new_assert(ip, NETWORK_BITS).trunc();
        bounds.push((network, CONNECTIONS_PER_NETWORK_MAX));
    }
    bounds
}

impl Seat {
    /// Nothing, when the source has as many as it may have. Whoever is on this host counts not.
    fn take(counts: &CountsBySource, caller: Caller) -> Option<Self> {
        let bounds = match caller {
            Caller::Local => Vec::new(),
            Caller::Remote(from) => bounds(from.ip()),
        };
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |(source, max): &(IpNet, usize)| held.get(source).is_some_and(|n| n >= max);
        if bounds.iter().any(is_full) {
            return None;
        }
        let sources: Vec<_> = bounds.into_iter().map(|(source, _)| source).collect();
        sources.iter().for_each(|source| *held.entry(*source).or_default() += 1);
        Some(Self { counts: Arc::clone(counts), sources })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for source in &self.sources {
            if let Entry::Occupied(mut count) = counts.entry(*source) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    caller: Caller,
) {
    // Who keeps a connection from the LAN would keep others out.
    let is_kept = caller == Caller::Local;
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .keep_alive(is_kept)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let lasts = if is_kept { CONNECTION_MAX } else { REQUEST_MAX };
    let mut answered = tokio::time::timeout(lasts, connection.as_mut()).await;
    if answered.is_err() {
        connection.as_mut().graceful_shutdown();
        answered = tokio::time::timeout(REQUEST_MAX, connection).await;
    }
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request came to nothing"),
        Err(_elapsed) => tracing::debug!("a request took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(counts: &CountsBySource, ip: &str) -> Option<Seat> {
        Seat::take(counts, Caller::Remote(SocketAddr::new(ip.parse().unwrap(), 1)))
    }

    /// A host that takes one IPv6 address after the other leaves room for the rest of the world.
    #[test]
    fn no_ipv6_network_takes_all_seats() {
        let counts = CountsBySource::default();
        let seats = |count: usize| -> Vec<_> {
            (0..count).filter_map(|host| take(&counts, &format!("fd00::{host:x}"))).collect()
        };
        let held = seats(CONNECTIONS_MAX);
        assert_eq!(held.len(), CONNECTIONS_PER_NETWORK_MAX);
        assert!(
            take(&counts, "fd00:0:0:1::1").is_some() && take(&counts, "192.168.50.3").is_some()
        );
        drop(held);
        assert!(counts.lock().unwrap().is_empty());
    }

    /// One source has its bound, in whatever form its address comes; who is turned away counts not.
    #[test]
    fn a_source_has_a_bounded_number_of_seats() {
        let counts = CountsBySource::default();
        for (ip, same) in [("192.168.50.3", "::ffff:192.168.50.3"), ("fd00::1", "fd00::1")] {
            let seats = (0..CONNECTIONS_MAX).filter_map(|_| take(&counts, ip));
            let mut held: Vec<_> = seats.collect();
            assert_eq!(held.len(), CONNECTIONS_PER_SOURCE_MAX);
            assert!(take(&counts, same).is_none());
            held.pop();
            assert!(take(&counts, same).is_some());
        }
        assert!(counts.lock().unwrap().is_empty());
    }
}
