//! The control plane's input and output: the one module behind which tokio-uring stands. Nothing
//! of it shows elsewhere, so that it could be replaced in an afternoon.
//!
//! tokio's own timers, channels and signals work inside [`run`].
//!
//! Deliberately absent: anything that moves a flow's bytes. A [`Stream`] lives for one TLS
//! handshake; then its descriptor goes to a pump.

mod changes;
mod check;
mod events;
mod exchange;
mod handshake;
mod icmp;
mod kept;
mod leave;
mod listener;
mod own;
mod pair;
mod resolve;
mod route;
mod signals;
mod stream;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_proto::limits::CARRIER_USER_TIMEOUT;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};

pub use adit_ring::PathSample;
pub use changes::{NetworkChanged, forward_network_changes};
pub use check::check;
pub use events::forward_events;
pub use exchange::{Exchange, ExchangeError};
pub use handshake::{ShakeError, Shaken, shake_hands};
pub use icmp::{Rejection, rejection};
pub use kept::{
    ListenPlace, accepting, bind_datagrams_kept, bind_kept, forget_inherited, inherited,
    is_accepting, keep, pause_accepting, resume_accepting,
};
pub(crate) use kept::{inherit, pack_kept};
pub use leave::{connect, connect_insisting};
pub use listener::{CONTACT_BACKLOG, Listener, bind, bind_datagrams, can_bind, stop_listening};
pub use own::own_addresses;
pub use pair::{datagram_pair, pair};
pub use resolve::resolve;
pub use route::route_to;
pub use signals::{Signal, forward_signals, interrupted};
pub use stream::{Stream, Watch};

/// Inputs that may wait for a daemon's loop; whoever has more to say waits.
pub const INBOX_MAX: usize = 1_024;

/// The ring of the control plane: it has an operation or two for each handshake under way.
const RING_ENTRIES: u32 = 1_024;
/// Silence after which the kernel probes a carrier. The session's own probes come sooner; these
/// are for a daemon that is stopped or stuck.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Runs `future`, and what it spawns, until it is done.
///
/// # Panics
/// When io_uring cannot be used: `adit_ring::probe` has to have said that it can.
pub fn run<F: Future>(future: F) -> F::Output {
    tokio_uring::builder().entries(RING_ENTRIES).start(future)
}

/// Runs `future` beside the others on this thread, to its end or to the end of [`run`].
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(tokio_uring::spawn(future));
}

/// What runs beside the others until it is done, or this is dropped.
#[derive(Debug)]
pub struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` beside the others on this thread, until it is done or the task is dropped.
pub fn spawn_until_dropped(future: impl Future<Output = ()> + 'static) -> Task {
    Task(tokio_uring::spawn(future).abort_handle())
}

/// Prepares a connection to carry a tunnel.
///
/// # Errors
/// When the kernel does not know an option, or the connection is gone.
pub fn prepare_carrier(stream: &OwnedFd) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    // Records are gathered by the scheduler; Nagle would only hold the last one back.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(CARRIER_USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Lets this process have as many descriptors as it may: every flow needs one, and the usual
/// soft limit of 1,024 is there for programs that use `select`.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
