//! The program behind `lab-probe console`: sockets on a host, told what to do line by line.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// How long a connection may take; who waits for it asks sooner.
const DIALLING: Duration = Duration::from_secs(5);

/// Streams by their tag: those that were dialled.
type Streams = Arc<Mutex<BTreeMap<String, TcpStream>>>;

/// UDP and TCP sockets on `ports`, told by lines on standard input; ends with that.
///
/// - `send PORT TARGET TEXT` sends a datagram, and prints `sent TEXT`, or `unsent TEXT: WHY`.
/// - `dial PORT TARGET TAG` connects from the port in its own time, then asks `who TAG`; prints
///   `dialling TAG` when its SYN is sent.
/// - `tell PORT TAG TEXT` says something on that connection.
///
/// Whatever arrives is printed as `got PORT FROM TEXT`; an arriving `who …` is answered with
/// `you ADDRESS …`.
///
/// # Errors
/// When a port is taken, or a line is not understood.
pub fn console(v6: bool, ports: &[u16]) -> io::Result<()> {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut sockets = BTreeMap::new();
    for &port in ports {
        let at = SocketAddr::new(any, port);
        let socket = Arc::new(UdpSocket::bind(at)?);
        let reader = Arc::clone(&socket);
        thread::spawn(move || hear_datagrams(&reader, port));
        sockets.insert(port, socket);
        let listener = shared_port(at)?;
        listener.listen(16)?;
        let listener = TcpListener::from(listener);
        thread::spawn(move || accept(&listener, port));
    }
    let streams = Streams::default();
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        obey(&line, any, &sockets, &streams)
            .map_err(|error| io::Error::new(error.kind(), format!("'{line}': {error}")))?;
    }
    Ok(())
}

fn obey(
    line: &str,
    any: IpAddr,
    sockets: &BTreeMap<u16, Arc<UdpSocket>>,
    streams: &Streams,
) -> io::Result<()> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "not understood");
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next().ok_or_else(unknown);
    let (verb, port, third, fourth) = (next()?, next()?, next()?, next()?);
    let port: u16 = port.parse().map_err(|_not_a_number| unknown())?;
    match verb {
        "send" => {
            let socket = sockets.get(&port).ok_or_else(unknown)?;
            // A firewall that rejects makes the next send fail; that too is an observation.
            match socket.send_to(fourth.as_bytes(), third) {
                Ok(_) => println!("sent {fourth}"),
                Err(error) => println!("unsent {fourth}: {error}"),
            }
        }
        "dial" => {
            let to: SocketAddr = third.parse().map_err(|_no_address| unknown())?;
            let (tag, streams) = (fourth.to_owned(), Arc::clone(streams));
            let socket = shared_port(SocketAddr::new(any, port))?;
            socket.set_nonblocking(true)?;
            // The SYN leaves within this call.
            if let Err(error) = socket.connect(&to.into())
                && error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32)
            {
                println!("undialled {tag}: {error}");
                return Ok(());
            }
            println!("dialling {tag}");
            thread::spawn(move || {
                if let Err(error) = dialled(socket, port, &tag, &streams) {
                    println!("undialled {tag}: {error}");
                }
            });
        }
        "tell" => {
            let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
            let stream = streams.get_mut(third).ok_or_else(unknown)?;
            writeln!(stream, "{fourth}")?;
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

/// A TCP socket on a port that others have as well: a listener and connections.
fn shared_port(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// Waits for the connection, asks whom the other side sees, and hears what it says.
fn dialled(socket: Socket, port: u16, tag: &str, streams: &Streams) -> io::Result<()> {
    let fd =
        nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&socket), nix::poll::PollFlags::POLLOUT);
    let patience = nix::sys::time::TimeSpec::from(DIALLING);
    if nix::poll::ppoll(&mut [fd], Some(patience), None)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    let mut stream = TcpStream::from(socket);
    let from = stream.peer_addr()?;
    let hearing = stream.try_clone()?;
    writeln!(stream, "who {tag}")?;
    streams.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.to_owned(), stream);
    hear_stream(hearing, from, port)
}

fn accept(listener: &TcpListener, port: u16) {
    while let Ok((stream, from)) = listener.accept() {
        thread::spawn(move || {
            if let Err(error) = hear_stream(stream, from, port) {
                println!("lost {from}: {error}");
            }
        });
    }
}

fn hear_stream(stream: TcpStream, from: SocketAddr, port: u16) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        println!("got {port} {from} {line}");
        if let Some(rest) = line.strip_prefix("who ") {
            writeln!(answers, "you {from} {rest}")?;
        }
    }
    Ok(())
}

fn hear_datagrams(socket: &UdpSocket, port: u16) {
    let mut buffer = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        println!("got {port} {from} {text}");
        if let Some(rest) = text.strip_prefix("who ")
            && let Err(error) = socket.send_to(format!("you {from} {rest}").as_bytes(), from)
        {
            println!("unsent answer to {from}: {error}");
        }
    }
}
