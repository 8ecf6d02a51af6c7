//! Connections to the outside, by the way out that the configuration chooses.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::config::Bind;

/// Longer than nearly every round trip, so that few connections are made in vain.
const SECOND_AFTER: Duration = Duration::from_millis(500);

/// Connects to `remote` within `time_max`, from the address or by the device of `bind`; no segment in
/// either direction has more than `segment_bytes`. An attempt that is given up is closed at once.
///
/// # Errors
/// When nobody answers there, or not in time, or there is no such way out.
pub async fn connect(
    remote: SocketAddr,
    bind: Option<&Bind>,
    segment_bytes: Option<u32>,
    time_max: Duration,
) -> io::Result<TcpStream> {
    let socket = prepared(remote, bind)?;
    if let Some(segment_bytes) = segment_bytes {
        SockRef::from(&socket).set_tcp_mss(segment_bytes)?;
    }
    // Not the ring's connect: given up, it would stay in the kernel until its retries are spent, which
    // takes two minutes.
    let connected = tokio::time::timeout(time_max, socket.connect(remote)).await;
    connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// The same with a second attempt beside the first once nobody has answered for half a second; who is
/// connected first wins. Where a `SYN` was lost, or the gateway had no port for it, the kernel sends the
/// next after a second.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_insisting(
    remote: SocketAddr,
    bind: Option<&Bind>,
    segment_bytes: Option<u32>,
    time_max: Duration,
) -> io::Result<TcpStream> {
    let attempt = |time_max| connect(remote, bind, segment_bytes, time_max);
    let second = async {
        tokio::time::sleep(SECOND_AFTER).await;
        match attempt(time_max.saturating_sub(SECOND_AFTER)).await {
            Ok(stream) => stream,
            // What is the matter the first will say.
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        biased;
        connected = attempt(time_max) => connected,
        stream = second => Ok(stream),
    }
}

/// A socket that leaves by the way out.
pub(super) fn prepared(remote: SocketAddr, bind: Option<&Bind>) -> io::Result<TcpSocket> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    match bind {
        Some(Bind::Address(address)) => {
            let bound = socket.bind(SocketAddr::new(*address, 0));
            bound.map_err(|error| no_address(*address, &error))?;
        }
        Some(Bind::Device(device)) => {
            let bound = socket.bind_device(Some(device.as_bytes()));
            bound.map_err(|error| no_device(device, &error))?;
        }
        None => {}
    }
    Ok(socket)
}

fn no_address(address: std::net::IpAddr, error: &io::Error) -> io::Error {
    let cure = match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "this host does not have it; `ip address` shows those that it has".to_owned()
        }
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot leave from the address {address} (bind): {cure}"))
}

fn no_device(device: &str, error: &io::Error) -> io::Error {
    let cure = match error.raw_os_error() {
        Some(nix::libc::ENODEV) => {
            "this host does not have it; `ip link` shows those that it has".to_owned()
        }
        Some(nix::libc::EPERM) => "it is not permitted: grant the program CAP_NET_RAW \
             (AmbientCapabilities=CAP_NET_RAW in its service, or setcap cap_net_raw+ep), or name an \
             address of the device instead"
            .to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot leave by the device {device} (bind): {cure}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// For a loaded machine; the kernel's own next attempt comes within a second.
    const TIME_MAX: Duration = Duration::from_secs(20);

    /// Attempts towards `port` that nobody has answered, as the kernel lists them.
    fn unanswered(port: u16) -> usize {
        let (to, syn_sent) = (format!("0100007F:{port:04X}"), "02");
        let is_one = |line: &&str| {
            let mut words = line.split_whitespace().skip(2);
            words.next() == Some(to.as_str()) && words.next() == Some(syn_sent)
        };
        fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(is_one).count()
    }

    /// Who does not answer is asked by a second `SYN` beside the first, and by no third; the first answer
    /// is taken.
    #[tokio::test]
    async fn silence_is_met_with_a_second_attempt() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        // One connection waits to be accepted, and there is no room for another: its SYN is dropped.
        listener.listen(0).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let _waiting = std::net::TcpStream::connect(at).unwrap();
        let connecting = tokio::spawn(connect_insisting(at, None, None, TIME_MAX));
        let mut most = 0;
        while !connecting.is_finished() {
            most = most.max(unanswered(at.port()));
            if most == 2 {
                listener.accept().ok();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        connecting.await.unwrap().unwrap();
        assert_eq!(most, 2);
    }

    /// A refusal is one at once.
    #[tokio::test]
    async fn a_refusal_is_not_repeated() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = connect_insisting(free, None, None, TIME_MAX).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
