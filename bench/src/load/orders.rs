//! A generator that holds connections and obeys: each order comes as a line on its standard input,
//! and is answered with its number when it is done.

use std::io::{self, BufRead};
use std::net::TcpStream;

use netns_tests::{LONG, Process};

use crate::error::BenchError;

/// The end that gives orders.
#[derive(Debug)]
pub(super) struct Orders {
    process: Process,
    given: usize,
}

impl Orders {
    /// To a generator that was just started.
    pub(super) fn to(process: Process) -> Self {
        Self { process, given: 0 }
    }

    /// Has `count` connections more opened; returns what the generator says of all that it holds.
    pub(super) fn open(&mut self, count: usize) -> Result<String, BenchError> {
        self.give(&format!("open {count}"))
    }

    /// Has all of them closed.
    pub(super) fn close(&mut self) -> Result<(), BenchError> {
        self.give("close").map(|_| ())
    }

    fn give(&mut self, order: &str) -> Result<String, BenchError> {
        self.given += 1;
        self.process.say(order)?;
        let begin = format!("done {} ", self.given);
        let line = self.process.wait_for_line(&begin, LONG, |line| line.starts_with(&begin))?;
        Ok(line[begin.len()..].to_owned())
    }
}

/// Connections that are opened beside each other: some ways take their time for each, not for all.
const BATCH: usize = 32;

/// Obeys standard input until it ends. `connect` makes as many connections as it is told; `tell` says
/// what the answer tells of the connections held.
pub(super) fn obey(
    connect: impl Fn(usize) -> io::Result<Vec<TcpStream>>,
    tell: impl Fn(&[TcpStream]) -> io::Result<String>,
) -> io::Result<()> {
    let mut held = Vec::new();
    for (line, number) in io::stdin().lock().lines().zip(1..) {
        let line = line?;
        match line.split_once(' ') {
            Some(("open", count)) => {
                let mut left = count.parse::<usize>().map_err(io::Error::other)?;
                while left > 0 {
                    let batch = left.min(BATCH);
                    held.extend(connect(batch)?);
                    left -= batch;
                }
            }
            _ => held.clear(),
        }
        println!("done {number} {}", tell(&held)?);
    }
    Ok(())
}
