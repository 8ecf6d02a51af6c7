//! Two joined sockets.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Strangers that may knock before the right one is let in.
const KNOCKS_MAX: usize = 16;

/// Two TCP sockets over loopback, each the other's other end. Unlike `socketpair(2)` they carry a
/// reset as one, so that a flow that is cut short never looks finished.
///
/// # Errors
/// When the process has no descriptor left, loopback is down, or others on this host crowd in.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    for _ in 0..KNOCKS_MAX {
        // Anybody on this host may have connected meanwhile.
        let (far, from) = listener.accept()?;
        if from == own {
            return Ok((near, far));
        }
    }
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "strangers crowd in on loopback"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;

    /// What one end says the other hears, a half-close included, and a reset is no end.
    #[test]
    fn what_is_joined_hears_bytes_ends_and_resets() {
        let (mut near, mut far) = pair().unwrap();
        near.write_all(b"hello").unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = String::new();
        far.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        let error = near.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
