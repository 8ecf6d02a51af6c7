//! What a socket connects to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::Socket;

/// The other end of a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// UDP: a socket that hears this address alone.
    Udp(SocketAddr),
    /// A socket in the file system (unix(7)).
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// A socket that can be connected to it.
    ///
    /// # Errors
    /// When the process or the system has no descriptor left (`socket(2)`).
    pub fn socket(&self) -> io::Result<Socket> {
        let (domain, kind, protocol) = match self {
            Self::Tcp(address) => (Domain::for_address(*address), Type::STREAM, Protocol::TCP),
            Self::Udp(address) => (Domain::for_address(*address), Type::DGRAM, Protocol::UDP),
            Self::Unix(_) => (Domain::UNIX, Type::STREAM, Protocol::from(0)),
        };
        let socket = socket2::Socket::new(domain, kind, Some(protocol))?;
        Ok(Socket::from(std::os::fd::OwnedFd::from(socket)))
    }

    /// A UDP socket that hears this address alone, and sends there. It takes no time: nothing is
    /// sent for it.
    ///
    /// # Errors
    /// When there is no way there, or the process has no descriptor left (`connect(2)`).
    pub fn associate(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        socket2::SockRef::from(&socket).connect(&self.address()?)?;
        Ok(socket)
    }

    /// As the kernel takes it.
    ///
    /// # Errors
    /// When a path has more than the 107 bytes that fit (`sun_path`, unix(7)).
    pub(crate) fn address(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Ok((*address).into()),
            Self::Unix(path) => SockAddr::unix(path),
        }
    }
}
