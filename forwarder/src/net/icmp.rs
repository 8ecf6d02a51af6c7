//! What gateways say of a packet that they do not pass on: ICMP errors. TCP makes one number of them; in
//! full they wait in the socket's error queue (ip(7), `IP_RECVERR`; of TCP since Linux 5.19).

use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::leave::prepared;
use crate::config::Bind;

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

/// Connects to `remote` once more, within `time_max`, and returns the ICMP error that this ends with. TCP's
/// own number alone would not do: a reset, and an ICMP error, may have the same; and UDP may be rejected
/// where TCP is not.
pub async fn rejection(
    remote: SocketAddr,
    bind: Option<&Bind>,
    time_max: Duration,
) -> Option<Rejection> {
    let socket = prepared(remote, bind).ok()?;
    let set = if remote.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
    };
    set.ok()?;
    // The attempt closes its handle when it fails; the error stays with the socket.
    let kept = socket.as_fd().try_clone_to_owned().ok()?;
    match tokio::time::timeout(time_max, socket.connect(remote)).await {
        Ok(Ok(_)) => None,
        Ok(Err(_)) | Err(_) => queued(&kept),
    }
}

/// The first error that waits at the socket.
fn queued(socket: &impl AsRawFd) -> Option<Rejection> {
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

    /// A reset is no ICMP error, though TCP has the same number for both.
    #[tokio::test]
    async fn a_reset_is_no_rejection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let to = listener.local_addr().unwrap();
            drop(listener);
            assert_eq!(rejection(to, None, Duration::from_secs(10)).await, None);
        }
    }

    /// What administrators are told of it.
    #[test]
    fn a_rejection_is_shown_with_type_code_and_sender() {
        let by = "192.0.2.1".parse().ok();
        let shown = Rejection { by, kind: (3, 13), is_v6: false }.to_string();
        let expected = "ICMP \"administratively prohibited\" (type 3, code 13) from 192.0.2.1";
        assert_eq!(shown, expected);
    }
}
