//! Adit: the data plane of both daemons, and the forwarder's control plane.
//!
//! The data plane is a [`pump`]: one thread and one ring that own sessions and move their bytes. The
//! control plane (the [`gateway`] interface, the [`registrar`], [`config`], [`status`]) runs on
//! [`net`] and speaks to pumps through [`handoff`] alone.
//!
//! Deliberately absent: locks on the data path, and any way for the control plane to touch a
//! flow's bytes. `docs/architecture.md` draws it.
//!
//! The order of calls in a daemon: [`pump::probe`], [`handoff::events`], [`pump::spawn`]; then
//! [`net::run`], and for each carrier [`net::shake_hands`] and [`handoff::Command::Carry`].
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod cli;
mod collector;
pub mod config;
mod distributor;
pub mod doctor;
pub mod exit;
pub mod forwarder;
pub mod gateway;
pub mod handoff;
pub mod histogram;
pub mod invitation;
pub mod join;
pub mod key;
pub mod logging;
pub mod net;
pub mod privilege;
pub mod probe;
pub mod pump;
pub mod registrar;
pub mod service;
pub mod sources;
pub mod status;
pub mod tls;
pub mod upgrade;
