//! One bulk load by iperf3.

use std::fmt;
use std::time::Duration;

use netns_tests::{LONG, Process, wait_until};
use serde_json::Value;

use crate::bed::{Bed, EXTERNAL, PEER, listening};
use crate::error::BenchError;
use crate::way::{BULK, Way};

/// Bytes after which a load on a fast path is under way, slow start behind it.
pub(crate) const UNDER_WAY_BYTES: u64 = 32 * 1024 * 1024;

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The external peer.
    Inwards,
    /// The internal peer.
    Outwards,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inwards => "external to internal",
            Self::Outwards => "internal to external",
        })
    }
}

/// What a load shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How long it counts.
    pub(crate) seconds: u64,
    /// How long it runs before that.
    pub(crate) warm_up: u64,
    /// TCP connections at once.
    pub(crate) flows: usize,
    /// Which end sends.
    pub(crate) direction: Direction,
}

impl Plan {
    /// One flow that goes on until it is dropped.
    pub(crate) fn endless(direction: Direction) -> Self {
        Self { seconds: 3_600, warm_up: 0, flows: 1, direction }
    }
}

/// What has been moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// All bytes, those of the warm-up too.
    pub(crate) bytes: f64,
    /// How fast the receiver got them after the warm-up.
    pub(crate) bits_per_second: f64,
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Bulk {
    client: Process,
    direction: Direction,
    _server: Process,
}

impl Bulk {
    /// Starts both ends.
    pub(crate) fn start(bed: &Bed, way: Way, plan: Plan) -> Result<Self, BenchError> {
        Self::start_at(bed, bed.entry(way, BULK), plan)
    }

    /// The same, by whatever leads to the server from there.
    pub(crate) fn start_at(
        bed: &Bed,
        (address, port): (&str, u16),
        plan: Plan,
    ) -> Result<Self, BenchError> {
        let (server_port, port) = (BULK.port.to_string(), port.to_string());
        let (seconds, flows) = (plan.seconds.to_string(), plan.flows.to_string());
        let warm_up = plan.warm_up.to_string();
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
            "--omit",
            &warm_up,
            "--parallel",
            &flows,
        ];
        if plan.direction == Direction::Outwards {
            arguments.push("--reverse");
        }
        let client = bed.lab().host(EXTERNAL).spawn(arguments)?;
        Ok(Self { client, direction: plan.direction, _server: server })
    }

    /// Waits until `bytes` have moved, counted from now.
    pub(crate) fn wait_until_moved(&self, bed: &Bed, bytes: u64) -> Result<(), BenchError> {
        let begun = bed.moved_bytes(self.direction)?;
        let moved = || {
            let now = bed.moved_bytes(self.direction);
            now.is_ok_and(|now| now.saturating_sub(begun) > bytes)
        };
        Ok(wait_until(Duration::from_secs(30), "the bulk load", moved)?)
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<Moved, BenchError> {
        let status = self.client.wait(LONG)?;
        let log = self.client.log();
        let report: Value = serde_json::from_str(&log)
            .map_err(|error| BenchError::unexpected("iperf3", format!("{error}: {log}")))?;
        let intervals = report["intervals"].as_array().map_or(&[][..], Vec::as_slice);
        let bytes: f64 =
            intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_f64()).sum();
        match report["end"]["sum_received"]["bits_per_second"].as_f64() {
            Some(bits_per_second) if status.success() && bytes > 0.0 => {
                Ok(Moved { bytes, bits_per_second })
            }
            _ => {
                let error = report["error"].as_str().unwrap_or("nothing was received");
                Err(BenchError::unexpected("iperf3", error))
            }
        }
    }
}
