//! Both ends of a datagram path: what is sealed opens once and unaltered, no address gets what it
//! did not ask for, and the path is open exactly while the wire carries it.
#![allow(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to what is needed, and seeds are small"
)]

mod path {
    mod ends;
    mod liveness;
    mod mutants;
    mod packets;
    mod sizes;
    mod strangers;
    mod world;
}
