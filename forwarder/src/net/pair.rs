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

/// Two UDP sockets over loopback, each the other's other end. Unlike `socketpair(2)` they take and give
/// trains of datagrams (`UDP_SEGMENT`, `UDP_GRO`), and say when the other end is gone.
///
/// # Errors
/// When the process has no descriptor left, or loopback is down.
pub fn datagram_pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let near = UdpSocket::bind((address(), 0))?;
    let far = UdpSocket::bind((address(), 0))?;
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    // Anybody on this host may have sent something before the ends were connected; no one else can
    // since, so that what lies there is not the other end's.
    for end in [&near, &far] {
        empty(end)?;
    }
    Ok((near, far))
}

/// Takes what has come so far; what is taken is bounded by the socket's buffer.
fn empty(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // What is longer than the room is cut off: it is thrown away anyhow.
    while socket.recv(&mut [0]).is_ok() {}
    socket.set_nonblocking(false)
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

    /// Datagrams go from one end to the other, whole; a stranger's, who knows the address, go nowhere.
    #[test]
    fn what_is_joined_hears_datagrams_of_the_other_end_alone() {
        let (near, far) = datagram_pair().unwrap();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stranger.send_to(b"knock", far.local_addr().unwrap()).unwrap();
        near.send(b"hello").unwrap();
        near.send(b"").unwrap();
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut heard = [0; 8];
        assert_eq!(far.recv(&mut heard).unwrap(), 5);
        assert_eq!(&heard[..5], b"hello");
        assert_eq!(far.recv(&mut heard).unwrap(), 0);
        assert_ne!(near.local_addr().unwrap().ip(), far.local_addr().unwrap().ip());
        drop(far);
        near.send(b"gone?").unwrap();
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(near.recv(&mut heard).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
