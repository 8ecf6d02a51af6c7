//! Clients, each a claim to check.

use std::any::Any;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{CHUNK, read_pattern, reset, wait_for_word, write_pattern};

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn round_trip(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    if answer == message { Ok(()) } else { Err(io::Error::other("the echo differs")) }
}

fn panicked(_what: Box<dyn Any + Send>) -> io::Error {
    io::Error::other("a thread panicked")
}

/// Connects, within a time.
///
/// # Errors
/// When it does not.
pub fn reach(to: SocketAddr, within: Duration) -> io::Result<()> {
    TcpStream::connect_timeout(&to, within)?;
    println!("connected");
    Ok(())
}

/// Connects, says `words` to an echo, and hears them again, each within a time.
///
/// # Errors
/// When it does not.
pub fn say(to: SocketAddr, words: &[u8], within: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let (mut writing, said) = (stream.try_clone()?, words.to_owned());
    let writer = thread::spawn(move || writing.write_all(&said));
    let mut heard = vec![0; words.len()];
    let read = stream.read_exact(&mut heard);
    // Only one of both is told of a reset; the other hears an end.
    match (writer.join().map_err(panicked)?, read) {
        (Err(error), _) if error.kind() == ErrorKind::ConnectionReset => return Err(error),
        (_, Err(error)) | (Err(error), _) => return Err(error),
        _ if heard != words => return Err(io::Error::other("the echo differs")),
        _ => {}
    }
    println!("echoed");
    Ok(())
}

/// Sends the pattern to an echo, ends its own side, and then still hears all of it.
///
/// # Errors
/// When anything is missing.
pub fn half_close(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = connect(to)?;
    let mut writing = stream.try_clone()?;
    let writer = thread::spawn(move || {
        write_pattern(&mut writing, bytes)?;
        writing.shutdown(Shutdown::Write)
    });
    let received = read_pattern(&mut stream)?;
    writer.join().map_err(panicked)??;
    if received != bytes {
        return Err(io::Error::other(format!("sent {bytes}, received {received}")));
    }
    println!("echoed {received}");
    Ok(())
}

/// Hears a farewell to its end, and then still sends the pattern.
///
/// # Errors
/// When the farewell is not whole.
pub fn hear_out(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = connect(to)?;
    let mut farewell = String::new();
    stream.read_to_string(&mut farewell)?;
    if farewell != "farewell" {
        return Err(io::Error::other(format!("heard '{farewell}'")));
    }
    write_pattern(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    println!("sent {bytes} after the farewell");
    Ok(())
}

/// Uploads the pattern, and compares what the sink counted.
///
/// # Errors
/// When the counts differ.
pub fn upload(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = connect(to)?;
    write_pattern(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut counted = String::new();
    stream.read_to_string(&mut counted)?;
    if counted.trim() != bytes.to_string() {
        return Err(io::Error::other(format!("sent {bytes}, the sink has {counted}")));
    }
    println!("uploaded {bytes}");
    Ok(())
}

/// Downloads the pattern.
///
/// # Errors
/// When its length is not `bytes`.
pub fn fetch(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let started = Instant::now();
    let received = read_pattern(&mut connect(to)?)?;
    if received != bytes {
        return Err(io::Error::other(format!("expected {bytes}, received {received}")));
    }
    println!("fetched {received} in {} ms", started.elapsed().as_millis());
    Ok(())
}

/// Connects, sends a byte, and prints how the other side takes it: `reset`, `eof`, `refused`.
///
/// # Errors
/// When it answers, or stays silent.
pub fn provoke(to: SocketAddr) -> io::Result<()> {
    let started = Instant::now();
    let ended = connect(to).and_then(|mut stream| {
        stream.write_all(b"?")?;
        stream.read(&mut [0])
    });
    let how = match ended {
        Ok(0) => "eof".to_owned(),
        Ok(_) => return Err(io::Error::other("an answer, where none was expected")),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            _ => return Err(error),
        },
    };
    println!("{how} in {} ms", started.elapsed().as_millis());
    Ok(())
}

/// Makes one round trip, then resets.
///
/// # Errors
/// When the round trip fails.
pub fn abort(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    round_trip(&mut stream, b"!")?;
    reset(stream)?;
    println!("aborted");
    Ok(())
}

/// Opens `count` connections to an echo at once, uses each, prints `holding N`, keeps them until
/// the input ends, uses each again, and prints `released N`.
///
/// # Errors
/// When one of them fails.
pub fn hold(to: SocketAddr, count: usize) -> io::Result<()> {
    let workers: Vec<_> = (0..count)
        .map(|index| {
            thread::spawn(move || {
                let mut stream = connect(to)?;
                round_trip(&mut stream, format!("hello {index}").as_bytes())?;
                Ok::<_, io::Error>(stream)
            })
        })
        .collect();
    let mut streams = Vec::new();
    for worker in workers {
        streams.push(worker.join().map_err(panicked)??);
    }
    println!("holding {}", streams.len());
    wait_for_word()?;
    for (index, stream) in streams.iter_mut().enumerate() {
        round_trip(stream, format!("goodbye {index}").as_bytes())?;
    }
    println!("released {}", streams.len());
    Ok(())
}

/// A control flow: round trips on one connection until the input ends; prints how many there were
/// and how long the slowest took.
///
/// # Errors
/// When the connection breaks.
pub fn pulse(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    let (enough, told) = mpsc::channel();
    thread::spawn(move || {
        let outcome = wait_for_word();
        // The receiver is gone only when the main thread has failed already.
        drop(enough.send(outcome));
    });
    let (mut pulses, mut worst) = (0_u64, Duration::ZERO);
    while told.recv_timeout(Duration::from_millis(10)).is_err() {
        let started = Instant::now();
        round_trip(&mut stream, format!("pulse {pulses:>10}").as_bytes())?;
        worst = worst.max(started.elapsed());
        if pulses == 0 {
            println!("beating");
        }
        pulses += 1;
    }
    println!("pulses {pulses} slowest_ms {}", worst.as_millis());
    Ok(())
}

/// Opens `count` connections, reads nothing, prints `stalled N`, and waits for the input's end.
///
/// # Errors
/// When a connection fails.
pub fn stall(to: SocketAddr, count: usize) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(connect(to)?);
    }
    println!("stalled {}", streams.len());
    wait_for_word()
}

/// Writes on `count` connections until nothing has moved for two seconds, prints
/// `blocked N bytes`, and waits for the input's end.
///
/// # Errors
/// When a connection fails.
pub fn push(to: SocketAddr, count: usize) -> io::Result<()> {
    let pushed = Arc::new(AtomicU64::new(0));
    for _ in 0..count {
        let mut stream = connect(to)?;
        let pushed = Arc::clone(&pushed);
        thread::spawn(move || {
            let chunk = vec![7; CHUNK];
            while let Ok(length) = stream.write(&chunk) {
                pushed.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(20));
        let now = pushed.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    println!("blocked {last} bytes on {count}");
    wait_for_word()
}
