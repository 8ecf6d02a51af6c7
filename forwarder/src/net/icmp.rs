//! What gateways say of a packet that they do not pass on: ICMP errors, which a UDP socket can be asked
//! for in full, while TCP makes one number of them (ip(7), `IP_RECVERR`).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

/// How often the socket is asked.
const STEP: Duration = Duration::from_millis(20);
/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` of linux/errqueue.h.
const FROM_ICMP: u8 = 2;
const FROM_ICMP6: u8 = 3;

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Who sent it.
    pub by: Option<IpAddr>,
    /// Its type and code.
    pub kind: (u8, u8),
    /// Whether these are ICMPv6's.
    pub is_v6: bool,
}

impl Rejection {
    /// What type and code mean.
    pub fn words(&self) -> &'static str {
        match (self.is_v6, self.kind) {
            (false, (3, 0)) | (true, (1, 0)) => "network unreachable",
            (false, (3, 1)) | (true, (1, 3)) => "host unreachable",
            (false, (3, 3)) | (true, (1, 4)) => "port unreachable",
            (false, (3, 4)) | (true, (2, 0)) => "packet too big",
            (false, (3, 9 | 10 | 13)) | (true, (1, 1)) => "administratively prohibited",
            (true, (1, 5 | 6)) => "rejected by policy",
            (false, (11, _)) | (true, (3, _)) => "time exceeded",
            _ => "unreachable",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, code) = self.kind;
        let version = if self.is_v6 { "ICMPv6" } else { "ICMP" };
        write!(f, "{version} \"{}\" (type {kind}, code {code})", self.words())?;
        self.by.map_or(Ok(()), |by| write!(f, " from {by}"))
    }
}

/// Sends a datagram to `to`, and waits `time_max` at most for somebody to reject it.
///
/// # Errors
/// When this host has no way there at all.
pub async fn rejection(to: SocketAddr, time_max: Duration) -> io::Result<Option<Rejection>> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    socket.connect(to)?;
    let until = tokio::time::Instant::now() + time_max;
    // Nothing that anybody would answer.
    socket.send(&[0])?;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(STEP).await;
        if let Some(rejection) = queued(&socket) {
            return Ok(Some(rejection));
        }
    }
    Ok(None)
}

/// The first error that waits at the socket.
fn queued(socket: &UdpSocket) -> Option<Rejection> {
    let mut payload = [0; 8];
    let mut pieces = [IoSliceMut::new(&mut payload)];
    let mut space = cmsg_space!(sock_extended_err, sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut space), flags)
            .ok()?;
    for control in message.cmsgs().ok()? {
        let (error, by) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, by) => {
                (error, by.map(|by| IpAddr::from(by.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, by) => {
                (error, by.map(|by| IpAddr::from(by.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        if let FROM_ICMP | FROM_ICMP6 = error.ee_origin {
            let is_v6 = error.ee_origin == FROM_ICMP6;
            return Some(Rejection { by, kind: (error.ee_type, error.ee_code), is_v6 });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own refusal on loopback is read in full.
    #[tokio::test]
    async fn a_rejection_is_read_with_type_code_and_sender() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address) else { continue };
            let to = socket.local_addr().unwrap();
            let silent = rejection(to, Duration::from_millis(50)).await.unwrap();
            assert_eq!(silent, None);
            drop(socket);
            let found = rejection(to, Duration::from_secs(10)).await.unwrap().unwrap();
            assert_eq!(found.words(), "port unreachable");
            assert_eq!(found.by, Some(to.ip()));
            assert!(found.to_string().contains("from"), "{found}");
        }
    }
}
