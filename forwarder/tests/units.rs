//! The forwarder's unit file says what is so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "units/unit.rs"]
mod unit;

use std::path::Path;

use adit::config::{FORWARDER_FILE, FORWARDER_FOLDER, FORWARDER_SOCKET};
use unit::Unit;

fn adit_service() -> Unit {
    Unit::read("forwarder/dist/adit.service", "adit", env!("CARGO_BIN_EXE_adit"))
}

/// Its commands, their options and their files exist, and its folders are those that the program uses.
#[test]
fn every_command_and_path_of_the_unit_exists() {
    let unit = adit_service();
    unit.commands_exist(FORWARDER_FILE);
    let run = Path::new("/run").join(unit.value("RuntimeDirectory"));
    assert_eq!(Path::new(FORWARDER_SOCKET).parent(), Some(&*run));
    let etc = Path::new("/etc").join(unit.value("ConfigurationDirectory"));
    assert_eq!(Path::new(FORWARDER_FOLDER), etc);
    assert_eq!((unit.value("User"), unit.value("Group")), ("adit", "adit"));
}

/// It runs with no capability at all, and is known to systemd key by key; the page says how
/// exposed it is.
#[test]
fn the_unit_is_tight_and_known_to_systemd() {
    let unit = adit_service();
    unit.is_tight();
    assert_eq!((unit.value("CapabilityBoundingSet"), unit.value("AmbientCapabilities")), ("", ""));
    unit.is_known_to_systemd();
    unit.is_as_exposed_as_said();
}
