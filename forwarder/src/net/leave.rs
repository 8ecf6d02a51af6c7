//! Connections to the outside, by the way out that the configuration chooses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::config::Bind;

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
