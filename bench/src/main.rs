//! Measures Adit beside plain double hops of socat and haproxy, the kernel's own DNAT and rathole, in the
//! lab.
//!
//! ```text
//!   kernel   ext ──────────────▶ gw (DNAT) ─────────────▶ peer3
//!   socat    ext ──▶ relay:socat ──▶ gw (DNAT) ──▶ icp:socat ──▶ peer3
//!   haproxy  ext ──▶ relay:haproxy ──▶ gw (DNAT) ──▶ icp:haproxy ──▶ peer3
//!   adit     ext ──▶ relay:adit-relay ══ one sealed tunnel ══ icp:adit ──▶ peer3
//!   rathole  ext ──▶ relay:rathole ══ a connection for each flow ══ icp:rathole ──▶ peer3
//!   wireguard ext ──▶ relay (DNAT) ══ boringtun or wireguard-go ══ icp (DNAT) ──▶ peer3
//! ```
//!
//! haproxy, rathole and the WireGuards where they are installed. All stand in one lab at the same time, and rounds are
//! interleaved: a noisy machine then disturbs each of them alike. Deliberately absent: figures without
//! the conditions they were taken under (every report begins with them), and averages (medians, and
//! the range).
#![forbid(unsafe_code)]

mod adit;
mod bed;
mod beside;
mod cli;
mod compare;
mod congestion;
mod connections;
mod error;
mod fairness;
mod haproxy;
mod idle;
mod latency;
mod load;
mod machine;
mod output;
mod path;
mod process_tree;
mod quiet;
mod rathole;
mod report;
mod results;
mod socat;
mod stall;
mod statistics;
mod throughput;
mod udp;
mod way;
mod wireguard;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
