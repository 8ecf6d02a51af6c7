//! By which address of this host packets leave.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

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
