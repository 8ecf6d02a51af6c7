//! Adit's protocol, without I/O: frames, records, sessions, flows, fairness.
//!
//! Deliberately absent: sockets, clocks, threads, randomness. Bytes, time and random numbers come
//! in as arguments, so that whole sessions can be simulated.
//!
//! The order of calls, for each end of a session:
//!
//! 1. [`session::Session::new`]; on each carrier, once its TLS handshake is done, the forwarder says
//!    [`session::Session::hello`] and the relay answers what [`session::Session::handle_hello`]
//!    returns. When a carrier is gone: [`session::Session::handle_carrier_lost`].
//! 2. For each record that arrives: [`record`] opens it in place,
//!    [`session::Session::handle_record`] turns it into [`session::Event`]s.
//! 3. For each socket of a flow: [`session::Session::room`] says how much may be read,
//!    `handle_input`, `handle_end` and `handle_reset` take what came of it, and `handle_taken`
//!    says how much of the other end's data the socket took.
//! 4. Until [`session::Session::poll_records`] has no more: send what it sealed, in order.
//! 5. For flows of datagrams: `handle_datagrams` takes them. If the relay offered a path, `open_path`
//!    at the forwarder; then for each packet [`session::Session::handle_packet`], and
//!    [`session::Session::poll_packets`] until it has no more.
//! 6. At [`session::Session::poll_timeout`]: [`session::Session::handle_timeout`].
#![forbid(unsafe_code)]

pub mod datagram;
pub mod flow;
pub mod frame;
pub mod id;
pub mod limits;
pub mod record;
pub mod schedule;
pub mod session;
