//! A lab of network namespaces: hosts, bridges, NATs and firewalls, built in a fraction of a second,
//! without touching the machine's own namespace.
//!
//! ```text
//!   ext .10 ──┐                                          ┌── icp .2
//!             ├─ wan 203.0.113.0/24 ── gw ── lan 192.168.50.0/24 ┼── peer3 .3
//!   relay .20 ┘                    .1      .1            └── peer4 .4 …
//! ```
//!
//! Order of calls: [`preflight::ensure`] once, then [`Lab::new`] with its builder (or a preset of
//! [`Topology`]), [`Lab::verify_nat`] and [`Lab::verify_firewall`] before anything is concluded from a
//! NAT or a firewall, then programs by [`Host::spawn`] and [`Host::run`], or the
//! whole of Adit by [`Tunnel::builder`].
//!
//! Deliberately absent: named namespaces (these are private to one holder and vanish with it, even
//! when the test is killed), fixed sleeps (see [`wait_until`]), skipping (what cannot run fails and
//! says why), and in-process daemons (every daemon is the built binary, executed in its namespace; only
//! `lab-herd` keeps more forwarders than a machine has memory for processes, by the product's own parts).
#![forbid(unsafe_code)]

mod binaries;
pub mod cli;
pub mod commands;
pub mod draw;
mod error;
pub mod faults;
mod lab;
pub mod link;
pub mod matrix;
mod nat;
mod packed;
pub mod page;
mod paths;
pub mod preflight;
mod probe;
mod process;
pub mod proxy;
pub mod report;
mod sandbox;
mod scene;
mod services;
mod slot;
mod swarm;
mod topology;
pub mod traffic;
mod trial;
mod tunnel;
mod wait;

pub use binaries::{Binaries, binaries, helper};
pub use error::LabError;
pub use lab::{Congestion, Gateway, Host, Lab, LabBuilder};
pub use link::{Cable, Link};
pub use nat::{Behaviour, Filtering, Firewall, Hairpinning, Mapping, Nat, Nat6, Pooling, Reject};
pub use packed::{bare_debian, image, packages};
pub use probe::console;
pub use process::{Output, Process};
pub use scene::{Control, Scene, stage};
pub use services::{Spinners, iperf3_server, nginx, sshd};
pub use swarm::{Swarm, SwarmPlan, Tally};
pub use topology::Topology;
pub use trial::Trial;
pub use tunnel::{Daemon, Peer, Tunnel, TunnelBuilder};
pub use wait::{LONG, SHORT, STOPPED_MS, wait_until};
