//! Connections that are tried for what they show.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpSocket;

use super::Stream;

/// Connects to `to` within `time_max`; no segment in either direction has more than `segment_bytes`.
///
/// # Errors
/// When nobody answers there, or not in time.
pub async fn try_connect(
    to: SocketAddr,
    segment_bytes: Option<u32>,
    time_max: Duration,
) -> io::Result<Stream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(segment_bytes) = segment_bytes {
        SockRef::from(&socket).set_tcp_mss(segment_bytes)?;
    }
    let connected = tokio::time::timeout(time_max, socket.connect(to)).await;
    let stream = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(Stream::from_fd(stream.into(), to))
}

/// The address of ours that packets to `to` leave from; nothing is sent.
///
/// # Errors
/// When there is no route.
pub fn route_to(to: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}
