//! Measures Adit beside plain double hops of socat and haproxy, the kernel's own DNAT and rathole, in the
//! lab.
//!
//! ```text
//!   kernel   ext ──────────────▶ gw (DNAT) ─────────────▶ peer3
//!   socat    ext ──▶ relay:socat ──▶ gw (DNAT) ──▶ icp:socat ──▶ peer3
//!   haproxy  ext ──▶ relay:haproxy ──▶ gw (DNAT) ──▶ icp:haproxy ──▶ peer3
//!   adit     ext ──▶ relay:adit-relay ══ one sealed tunnel ══ icp:adit ──▶ peer3
//!   rathole  ext ──▶ relay:rathole ══ a connection for each flow ══ icp:rathole ──▶ peer3
//!   ssh -R   ext ──▶ relay:sshd ══ one connection ══ icp:ssh ──▶ peer3
//!   bore     ext ──▶ relay:bore ══ a connection for each flow ══ icp:bore ──▶ peer3
//!   frp      ext ──▶ relay:frps ══ one connection under TLS ══ icp:frpc ──▶ peer3
//!   wireguard ext ──▶ relay (DNAT) ══ boringtun or wireguard-go ══ icp (DNAT) ──▶ peer3
//! ```
//!
//! haproxy, rathole, bore, frp and the WireGuards where they are installed. All stand in one lab at the same time, and rounds are
//! interleaved: a noisy machine then disturbs each of them alike. Deliberately absent: figures without
//! the conditions they were taken under (every report begins with them), and averages (medians, and
//! the range).
#![forbid(unsafe_code)]

mod adit;
mod bed;
mod beside;
mod bore;
mod cli;
mod compare;
mod congestion;
mod connections;
mod engine;
mod error;
mod fairness;
mod flood;
mod frp;
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
mod soak;
mod socat;
mod ssh;
mod stall;
mod statistics;
mod throughput;
mod timing;
mod udp;
mod way;
mod wireguard;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
