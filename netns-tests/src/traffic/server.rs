//! Servers, each a behaviour.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{CHUNK, read_pattern, reset, write_pattern};

/// What a server does with each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back what comes, until the end.
    Echo,
    /// Reads the pattern to its end, prints `sank N`, and answers `N`.
    Sink,
    /// Sends this many bytes of the pattern, then ends its side.
    Source(u64),
    /// Never reads, never writes, keeps the connection.
    Stalled,
    /// Resets the connection at the first byte.
    Reset,
    /// Says `farewell`, ends its side, reads on, and prints `heard N`.
    Farewell,
    /// Answers the first byte, reads on, and prints how it ended: `ended eof` or `ended reset`.
    Watch,
}

/// Serves forever.
///
/// # Errors
/// When the address is taken.
pub fn serve(at: SocketAddr, behaviour: Behaviour) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    println!("listening on {at}");
    // Stalled connections have to be kept somewhere.
    let kept = Arc::new(Mutex::new(Vec::new()));
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        if behaviour == Behaviour::Stalled {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            continue;
        }
        thread::spawn(move || {
            if let Err(error) = behave(stream, behaviour) {
                println!("broken: {error}");
            }
        });
    }
}

fn behave(mut stream: TcpStream, behaviour: Behaviour) -> io::Result<()> {
    match behaviour {
        Behaviour::Echo => {
            let mut chunk = vec![0; CHUNK];
            loop {
                let length = stream.read(&mut chunk)?;
                if length == 0 {
                    return stream.shutdown(Shutdown::Write);
                }
                stream.write_all(&chunk[..length])?;
            }
        }
        Behaviour::Sink => {
            let bytes = read_pattern(&mut stream)?;
            println!("sank {bytes}");
            writeln!(stream, "{bytes}")
        }
        Behaviour::Source(bytes) => {
            write_pattern(&mut stream, bytes)?;
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut stream, &mut io::sink()).map(|_| ())
        }
        Behaviour::Reset => {
            stream.read_exact(&mut [0])?;
            reset(stream)
        }
        Behaviour::Farewell => {
            stream.write_all(b"farewell")?;
            stream.shutdown(Shutdown::Write)?;
            println!("heard {}", read_pattern(&mut stream)?);
            Ok(())
        }
        Behaviour::Watch => {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
            match io::copy(&mut stream, &mut io::sink()) {
                Ok(_) => println!("ended eof"),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => println!("ended reset"),
                Err(error) => println!("ended {error}"),
            }
            Ok(())
        }
        Behaviour::Stalled => Ok(()),
    }
}
