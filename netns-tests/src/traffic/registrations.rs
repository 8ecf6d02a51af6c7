//! A client of the forwarder's local API: registers peers by the thousand.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection to the API.
struct Api(BufReader<UnixStream>);

impl Api {
    fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// One request, which must be granted.
    fn ask(&mut self, request: &str, body: &str) -> io::Result<()> {
        let len = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: adit\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        );
        self.0.get_mut().write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
        let mut status = String::new();
        self.0.read_line(&mut status)?;
        let mut answer = vec![0; self.content_length()?];
        self.0.read_exact(&mut answer)?;
        if status.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2')) {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&answer);
        Err(io::Error::other(format!("{request}: {} {answer}", status.trim())))
    }

    /// Reads the head of the answer to its end.
    fn content_length(&mut self) -> io::Result<usize> {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 || line == "\r\n" {
                return Ok(length);
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
    }
}

/// Registers `count` peers at `target`, with the ports from `port` on; unless they are to stay,
/// renews and drops them again, so many times over.
///
/// # Errors
/// When a request is refused.
pub fn register(
    socket: &Path,
    target: SocketAddr,
    port: u16,
    count: u16,
    rounds: Option<u32>,
) -> io::Result<()> {
    let mut api = Api::connect(socket)?;
    for _ in 0..rounds.unwrap_or(1) {
        for number in 0..count {
            let contact = port + number;
            let body = format!(
                "{{\"name\":\"peer-{number}\",\"tcp\":\"{target}\",\"contact\":\"public:{contact}\"}}"
            );
            api.ask("POST /v1/peers", &body)?;
        }
        if rounds.is_none() {
            break;
        }
        for number in 0..count {
            api.ask(&format!("POST /v1/peers/peer-{number}/renew"), "{}")?;
            api.ask(&format!("DELETE /v1/peers/peer-{number}"), "")?;
        }
    }
    println!("registered {count}");
    Ok(())
}
