//! The relay's unit file says what is so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../forwarder/tests/units/unit.rs"]
mod unit;

use std::path::Path;

use adit::config::{RELAY_FILE, RELAY_SOCKET, RELAY_STATE};
use unit::Unit;

fn relay_service() -> Unit {
    let built = env!("CARGO_BIN_EXE_adit-relay");
    Unit::read("relay/dist/adit-relay.service", "adit-relay", built)
}

/// Its commands, their options and their files exist, and its folders are those that the program uses.
#[test]
fn every_command_and_path_of_the_unit_exists() {
    let unit = relay_service();
    unit.commands_exist(RELAY_FILE);
    let run = Path::new("/run").join(unit.value("RuntimeDirectory"));
    assert_eq!(Path::new(RELAY_SOCKET).parent(), Some(&*run));
    let etc = Path::new("/etc").join(unit.value("ConfigurationDirectory"));
    assert_eq!(Path::new(RELAY_FILE).parent(), Some(&*etc));
    let state = Path::new("/var/lib").join(unit.value("StateDirectory"));
    assert_eq!(Path::new(RELAY_STATE), state);
    assert_eq!((unit.value("User"), unit.value("Group")), ("adit-relay", "adit-relay"));
}

/// It has the one capability that binds its ports, and is known to systemd key by key; the page says how
/// exposed it is.
#[test]
fn the_unit_is_tight_and_known_to_systemd() {
    let unit = relay_service();
    unit.is_tight();
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(unit.value(key), "CAP_NET_BIND_SERVICE");
    }
    unit.is_known_to_systemd();
    unit.is_as_exposed_as_said();
}
