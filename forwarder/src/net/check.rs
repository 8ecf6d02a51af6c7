//! Whether a peer can be connected to.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

use super::resolve;
use crate::config::Address;

/// Checks at once, each of which has a descriptor; the others wait for their turn.
const CHECKS_MAX: usize = 64;
static CHECKS: Semaphore = Semaphore::const_new(CHECKS_MAX);

/// How long a peer may take to accept a connection.
const CHECK_MAX: Duration = Duration::from_secs(3);

/// Connects to `address`, and closes the connection again.
///
/// # Errors
/// When that cannot be done within 3 s.
pub async fn check(address: &Address) -> io::Result<()> {
    // Never closed, so it cannot fail.
    let _permit = CHECKS.acquire().await.ok();
    let connected = tokio::time::timeout(CHECK_MAX, connect(address)).await;
    connected.unwrap_or_else(|_elapsed| {
        let silence = format!("no answer in {} s", CHECK_MAX.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, silence))
    })
}

async fn connect(address: &Address) -> io::Result<()> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        // Nobody answers for a UDP port: no configuration asks for this.
        Address::Udp(_) => Ok(()),
        Address::Tcp(place) => {
            let addresses = resolve(place.clone()).await?;
            // The one that a flow would be dialled to.
            let first = addresses.first().ok_or(io::ErrorKind::NotFound)?;
            TcpStream::connect(first).await.map(drop)
        }
    }
}
