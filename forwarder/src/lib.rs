//! Placeholder while the workspace is laid out.

pub mod cli;
mod collector;
pub mod config;
mod distributor;
pub mod exit;
pub mod forwarder;
pub mod gateway;
pub mod handoff;
pub mod key;
pub mod logging;
pub mod net;
pub mod pump;
pub mod registrar;
pub mod status;
pub mod tls;
