//! Listening sockets: those on which a relay is dialled, and those of contact points.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Stream;

/// Connections that may wait to be accepted at a contact point; the kernel lowers it to
/// `net.core.somaxconn`. Callers wait here while a forwarder dials again.
pub const CONTACT_BACKLOG: i32 = 4_096;
const BACKLOG: i32 = 1_024;

/// Listens on `address`. An unspecified IPv6 address takes IPv4 too, unless `is_only_v6`.
///
/// # Errors
/// When the address is taken, not of this host, or a port below 1,024 needs a privilege. Its text
/// says which, and the cure.
pub fn bind(address: SocketAddr, backlog: i32, is_only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections in TIME_WAIT. It never lets two listen at once.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(is_only_v6)?;
    }
    socket.bind(&address.into()).and_then(|()| socket.listen(backlog)).map_err(explained)?;
    Ok(socket.into())
}

/// A UDP socket at `address`; an unspecified IPv6 address takes IPv4 too, unless `is_only_v6`. One that
/// `shares_port` does so with others of this process's user that say so, too.
///
/// # Errors
/// As of [`bind`].
pub fn bind_datagrams(
    address: SocketAddr,
    is_only_v6: bool,
    shares_port: bool,
) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shares_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(is_only_v6)?;
    }
    socket.bind(&address.into()).map_err(explained)?;
    Ok(socket.into())
}

/// Whether a contact point could stand at `address`, of TCP unless `is_udp`: nobody is listened to.
///
/// # Errors
/// As of [`bind`].
pub fn can_bind(address: SocketAddr, is_udp: bool) -> io::Result<()> {
    if is_udp {
        return bind_datagrams(address, false, false).map(drop);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into()).map_err(explained)
}

/// Stops listening at once, whoever else has handles of the same socket: the port is free for the
/// next one, and a pending accept fails with [`io::ErrorKind::InvalidInput`].
pub fn stop_listening(listener: &TcpListener) {
    // It fails only when that was done before.
    SockRef::from(listener).shutdown(Shutdown::Both).ok();
}

fn explained(error: io::Error) -> io::Error {
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => "another program on this host has the port",
        io::ErrorKind::AddrNotAvailable => "this host does not have that address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, as in AmbientCapabilities= of a unit file"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), cure)
}

/// Accepts connections.
#[derive(Debug)]
pub struct Listener(tokio::net::TcpListener);

impl Listener {
    /// Listens on `address`, as [`bind`] does.
    ///
    /// # Errors
    /// As of [`bind`].
    pub fn bind(address: SocketAddr, is_only_v6: bool) -> io::Result<Self> {
        Self::new(bind(address, BACKLOG, is_only_v6)?)
    }

    /// The same for the life of the daemon, as [`bind_kept`](super::bind_kept) does.
    ///
    /// # Errors
    /// As of [`bind`].
    pub fn bind_kept(address: SocketAddr, is_only_v6: bool) -> io::Result<Self> {
        Self::new(super::bind_kept(address, BACKLOG, is_only_v6)?)
    }

    fn new(socket: TcpListener) -> io::Result<Self> {
        // Not the ring's accept: one that is given up would still take a caller, who is to wait for the
        // process that takes over.
        socket.set_nonblocking(true)?;
        Ok(Self(tokio::net::TcpListener::from_std(socket)?))
    }

    /// A second handle, for [`stop_listening`] by another task.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn handle(&self) -> io::Result<TcpListener> {
        Ok(self.0.as_fd().try_clone_to_owned()?.into())
    }

    /// The next connection, while [`accepting`](super::accepting).
    ///
    /// # Errors
    /// When the process or the system has no descriptor left, or the listening was stopped.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (stream, remote) = super::accepting(async || self.0.accept().await).await?;
        // An IPv4 caller of an IPv6 socket is shown, counted and limited as an IPv4 caller.
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        Stream::from_tokio(stream, remote, Vec::new())
    }
}
