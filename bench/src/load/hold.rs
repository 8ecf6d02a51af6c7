//! Idle connections, held until told otherwise.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use netns_tests::{Host, LONG, Process};

use super::Load;
use crate::error::BenchError;

/// A generator of idle connections on some host.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Process,
    /// Orders so far; each is answered with its number.
    orders: usize,
}

impl Holder {
    /// Starts it; it holds nothing yet.
    pub(crate) fn new(host: &Host<'_>, address: String) -> Result<Self, BenchError> {
        Ok(Self { process: Load::Hold { address }.spawn_console(host)?, orders: 0 })
    }

    /// Opens `count` connections more; each has carried a byte to the echo service and back.
    pub(crate) fn open(&mut self, count: usize) -> Result<(), BenchError> {
        self.order(&format!("open {count}"))
    }

    /// Closes all of them.
    pub(crate) fn close(&mut self) -> Result<(), BenchError> {
        self.order("close")
    }

    fn order(&mut self, order: &str) -> Result<(), BenchError> {
        self.orders += 1;
        self.process.say(order)?;
        self.process.wait_for_log(&format!("done {}.", self.orders), LONG)?;
        Ok(())
    }
}

/// Obeys standard input until it ends.
pub(super) fn run(address: &str) -> io::Result<()> {
    let mut held = Vec::new();
    for (line, number) in io::stdin().lock().lines().zip(1..) {
        let line = line?;
        match line.split_once(' ') {
            Some(("open", count)) => {
                let count = count.parse::<usize>().map_err(io::Error::other)?;
                for _ in 0..count {
                    held.push(connect(address)?);
                }
            }
            _ => held.clear(),
        }
        println!("done {number}.");
    }
    Ok(())
}

/// A connection that is known to reach the far end.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"a")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
