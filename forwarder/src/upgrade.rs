//! One process takes over from another, so that a new version of a daemon needs no restart: listeners,
//! carriers, sessions and flows go on, and to the other ends of tunnels it is a pause.
//!
//! ```text
//!  old process (Upgrade, Successor)             new process (Predecessor)
//!    starts it ───────── HELLO, listeners ────────▶ reads its configuration, makes its pumps
//!              ◀──────────────── READY ───────────
//!    stands still, packs
//!              ─────────── all that it has ───────▶ takes it over, standing still
//!              ◀────────────── RESTORED ──────────
//!    touches nothing more
//!              ──────────────── GO ───────────────▶ goes on
//!    ends
//! ```
//!
//! Until `GO` the new process touches no socket. Whatever goes wrong before it, the new process is
//! killed and the old one goes on.

mod course;
mod parcel;
mod passage;
mod predecessor;
mod successor;

pub use course::{Deed, Holdable, Upgrade, UpgradeStep, Upgraded, Wait, refuse};
pub use parcel::{ITEM_BYTES_MAX, Packer, Parcel, Unpacker};
pub use predecessor::{Predecessor, freeze, restore};
pub use successor::Successor;

use std::time::Duration;

/// What the form of all that is passed is counted by: another number is another form.
const FORM: u32 = 2;
/// How long the new process may take to be ready …
const READY_MAX: Duration = Duration::from_secs(6);
/// … the old one to stand still and to pack …
const PACK_MAX: Duration = Duration::from_secs(3);
/// … and the new one to take it over. All together is less than whoever asks waits.
const PASS_MAX: Duration = Duration::from_secs(5);
