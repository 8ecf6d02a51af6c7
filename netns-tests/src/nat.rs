//! NATs and firewalls as presets, with the behaviour each must show, in the words of RFC 4787.

mod behaviour;
mod firewall;
mod preset;
mod rules;

pub use behaviour::{Behaviour, Filtering, Hairpinning, Mapping, Pooling};
pub use firewall::{Firewall, Reject};
pub use preset::{Nat, Nat6};
pub(crate) use rules::{marks, rules};
