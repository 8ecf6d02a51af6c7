//! Two joined sockets.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::SockRef;

/// Strangers that may knock before the right one is let in.
const KNOCKS_MAX: usize = 16;

/// Each pair is at an address of its own: at one alone, ports would run out after some thousands.
static LAST_HOST: AtomicU32 = AtomicU32::new(0);

fn address() -> Ipv4Addr {
    let host = LAST_HOST.fetch_add(1, Ordering::Relaxed) % 0x00ff_fffe + 1;
    Ipv4Addr::from_bits(0x7f00_0000 | host)
}

/// Two TCP sockets over loopback, each the other's other end. Unlike `socketpair(2)` they carry a
/// reset as one, so that a flow that is cut short never looks finished; and one that is dropped
/// resets the other.
///
/// # Errors
/// When the process has no descriptor left, loopback is down, or others on this host crowd in.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((address(), 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    for _ in 0..KNOCKS_MAX {
        // Anybody on this host may have connected meanwhile.
        let (far, from) = listener.accept()?;
        if from == own {
            for end in [&near, &far] {
                SockRef::from(end).set_linger(Some(Duration::ZERO))?;
            }
            return Ok((near, far));
        }
    }
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "strangers crowd in on loopback"))
}

/// Two UDP sockets over loopback, each of which hears the other alone.
///
/// # Errors
/// When the process has no descriptor left, or loopback is down.
pub fn datagram_pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let (near, far) = (UdpSocket::bind((address(), 0))?, UdpSocket::bind((address(), 0))?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What one end says the other hears, a half-close included, and a reset is no end.
    #[test]
    fn what_is_joined_hears_bytes_ends_and_resets() {
        let (mut near, mut far) = pair().unwrap();
        near.write_all(b"hello").unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = String::new();
        far.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        drop(far);
        let error = near.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
