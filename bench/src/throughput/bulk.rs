//! One bulk load by iperf3.

use std::time::Duration;

use netns_tests::{LONG, Process, wait_until};
use serde_json::Value;

use crate::bed::{Bed, EXTERNAL, PEER, listening};
use crate::error::BenchError;
use crate::way::{BULK, Way};

/// Bytes after which a load is under way, slow start behind it.
const UNDER_WAY_BYTES: u64 = 32 * 1024 * 1024;

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The external peer.
    Inwards,
    /// The internal peer.
    Outwards,
}

/// What has been moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// Bytes that the receiver got.
    pub(crate) bytes: f64,
    /// How fast.
    pub(crate) bits_per_second: f64,
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Bulk {
    client: Process,
    _server: Process,
}

impl Bulk {
    /// Starts both ends.
    pub(crate) fn start(
        bed: &Bed,
        way: Way,
        seconds: u64,
        flows: usize,
        direction: Direction,
    ) -> Result<Self, BenchError> {
        let (address, port) = bed.entry(way, BULK);
        let (server_port, port) = (BULK.port.to_string(), port.to_string());
        let (seconds, flows) = (seconds.to_string(), flows.to_string());
        // A server of its own for each run: one that still minds the last would refuse this.
        let server = bed.lab().host(PEER).spawn([
            "iperf3",
            "--server",
            "--one-off",
            "--port",
            &server_port,
        ])?;
        listening(&bed.lab().host(PEER), BULK.port)?;
        let mut arguments = vec![
            "iperf3",
            "--json",
            "--client",
            address,
            "--port",
            &port,
            "--time",
            &seconds,
            "--parallel",
            &flows,
        ];
        if direction == Direction::Outwards {
            arguments.push("--reverse");
        }
        let client = bed.lab().host(EXTERNAL).spawn(arguments)?;
        Ok(Self { client, _server: server })
    }

    /// Waits until bytes move at full speed.
    pub(crate) fn wait_until_under_way(&self, bed: &Bed) -> Result<(), BenchError> {
        let begun = bed.sent_bytes()?;
        let moves =
            || bed.sent_bytes().is_ok_and(|sent| sent.saturating_sub(begun) > UNDER_WAY_BYTES);
        Ok(wait_until(Duration::from_secs(20), "the bulk load", moves)?)
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<Moved, BenchError> {
        let status = self.client.wait(LONG)?;
        let log = self.client.log();
        let report: Value = serde_json::from_str(&log)
            .map_err(|error| BenchError::unexpected("iperf3", format!("{error}: {log}")))?;
        let received = &report["end"]["sum_received"];
        let figures = (received["bytes"].as_f64(), received["bits_per_second"].as_f64());
        match figures {
            (Some(bytes), Some(bits_per_second)) if status.success() && bytes > 0.0 => {
                Ok(Moved { bytes, bits_per_second })
            }
            _ => {
                let error = report["error"].as_str().unwrap_or("nothing was received");
                Err(BenchError::unexpected("iperf3", error))
            }
        }
    }
}
