//! Idle connections, held until told otherwise.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use netns_tests::Host;

use super::Load;
use super::orders::{Orders, obey};
use crate::error::BenchError;

/// A generator of idle connections on some host.
#[derive(Debug)]
pub(crate) struct Holder(Orders);

impl Holder {
    /// Starts it; it holds nothing yet.
    pub(crate) fn new(host: &Host<'_>, address: String) -> Result<Self, BenchError> {
        Ok(Self(Orders::to(Load::Hold { address }.spawn_console(host)?)))
    }

    /// Opens `count` connections more; each has carried a byte to the echo service and back.
    pub(crate) fn open(&mut self, count: usize) -> Result<(), BenchError> {
        self.0.open(count).map(|_| ())
    }

    /// Closes all of them.
    pub(crate) fn close(&mut self) -> Result<(), BenchError> {
        self.0.close()
    }
}

/// Obeys standard input until it ends.
pub(super) fn run(address: &str) -> io::Result<()> {
    obey(|count| connect(address, count), |_| Ok(String::new()))
}

/// Connections that are known to reach the far end.
fn connect(address: &str, count: usize) -> io::Result<Vec<TcpStream>> {
    let streams: io::Result<Vec<_>> = (0..count).map(|_| TcpStream::connect(address)).collect();
    let streams = streams?;
    for mut stream in &streams {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"a")?;
    }
    for mut stream in &streams {
        stream.read_exact(&mut [0])?;
    }
    Ok(streams)
}
