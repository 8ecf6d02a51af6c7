//! A TLS handshake over a stream, within its time.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_proto::limits::HANDSHAKE_MAX;
use socket2::SockRef;

use super::{Stream, prepare_carrier};
use crate::handoff::Carrier;
use crate::key::PublicKey;
use crate::tls::{Handshake, HandshakeError, Purpose};

/// What one read may bring; a whole handshake has about 2 KiB in either direction.
const READ_BYTES: usize = 4 * 1024;
/// How long, and over how many reads, the last words to a refused peer may take to arrive.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
const FAREWELL_READS_MAX: usize = 16;

/// A connection whose other end has proven who it is.
#[derive(Debug)]
pub struct Shaken {
    /// Ready to be handed to a pump.
    pub carrier: Carrier,
    /// Who is at the other end.
    pub peer: PublicKey,
    /// What the caller came for.
    pub purpose: Purpose,
    /// The address of ours that the connection leads to.
    pub local: IpAddr,
}

/// Why there is no carrier.
#[derive(Debug, thiserror::Error)]
pub enum ShakeError {
    /// [`HANDSHAKE_MAX`] has passed.
    #[error("the TLS handshake took longer than {} s", HANDSHAKE_MAX.as_secs())]
    TooSlow,
    /// The other end closed the connection.
    #[error("the other end closed the connection during the TLS handshake")]
    Closed,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The handshake itself failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Completes `handshake` over `stream`, or closes it after telling the other end why not.
///
/// # Errors
/// When the other end is not whom it should be, too slow, or gone.
pub async fn shake_hands(stream: Stream, handshake: Handshake) -> Result<Shaken, ShakeError> {
    let remote = stream.remote();
    let shaken = tokio::time::timeout(HANDSHAKE_MAX, exchange(&stream, handshake)).await;
    let handshake = shaken.unwrap_or(Err(ShakeError::TooSlow))?;
    let mut handshaken = handshake.finish()?;
    handshaken.leftover.extend(stream.take_early());
    let descriptor: OwnedFd = stream.into_fd()?;
    prepare_carrier(&descriptor)?;
    let local = SockRef::from(&descriptor).local_addr()?.as_socket();
    let local = local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |local| local.ip().to_canonical());
    let carrier = Carrier {
        stream: descriptor,
        records: handshaken.records,
        leftover: handshaken.leftover,
        remote,
        peer: handshaken.peer,
    };
    Ok(Shaken { carrier, peer: handshaken.peer, purpose: handshaken.purpose, local })
}

async fn exchange(stream: &Stream, mut handshake: Handshake) -> Result<Handshake, ShakeError> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        while let Some(bytes) = handshake.poll_transmit() {
            stream.write_all(bytes).await?;
        }
        if handshake.is_done() {
            return Ok(handshake);
        }
        let (read, returned) = stream.read(buffer).await;
        buffer = returned;
        let received = match read? {
            0 => return Err(ShakeError::Closed),
            len => buffer.get(..len).unwrap_or_default(),
        };
        if let Err(error) = handshake.handle_bytes(received) {
            say_why(stream, &mut handshake).await;
            return Err(error.into());
        }
    }
}

/// Sends the alert, and waits for the other end to have it: closing over unread bytes would send
/// a reset, which may overtake it.
async fn say_why(stream: &Stream, handshake: &mut Handshake) {
    let Some(alert) = handshake.poll_transmit() else { return };
    let farewell = async {
        stream.write_all(alert).await?;
        stream.shutdown_write()?;
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..FAREWELL_READS_MAX {
            let (read, returned) = stream.read(buffer).await;
            buffer = returned;
            if read? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    // Whoever is gone or deaf does not get to know why.
    tokio::time::timeout(FAREWELL_MAX, farewell).await.ok();
}
