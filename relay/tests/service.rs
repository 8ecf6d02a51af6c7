//! What the relay tells the service manager that has started it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../forwarder/tests/service/manager.rs"]
mod manager;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use adit::key::PrivateKey;
use manager::{Managed, WATCHDOG};
use nix::sys::signal::Signal;

/// Where nobody else of this host listens: at a loopback address of each relay's own.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((own, 4443))
}

fn start(dir: &Path) -> (Managed, SocketAddr) {
    PrivateKey::generate().unwrap().save(&dir.join("relay.key")).unwrap();
    let listen = own_address();
    let config = format!(
        "key = \"relay.key\"\nlisten = \"{listen}\"\nsocket = \"relay.sock\"\nstate = \"state\"\n"
    );
    std::fs::write(dir.join("relay.toml"), config).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_adit-relay"));
    program.args(["run", "-c", "relay.toml"]).env_remove("ADIT_LOG");
    (Managed::start(program, dir), listen)
}

/// It is ready when forwarders can dial it; it says so again after a reload, and when it ends.
#[test]
fn a_service_manager_is_told_how_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut managed, listen) = start(dir.path());
    managed.wait_for("READY=1");
    TcpStream::connect(listen).unwrap();
    managed.wait_for("STATUS=listening; 0 keys");
    managed.signal(Signal::SIGHUP);
    managed.wait_for("RELOADING=1");
    managed.wait_for("READY=1");
    managed.signal(Signal::SIGTERM);
    managed.wait_for("STOPPING=1");
    assert_eq!(managed.wait(), Some(0));
}

/// Who takes over says that it is the main process now, and is ready; it listens, and feeds the watchdog
/// from then on.
#[test]
fn a_process_that_takes_over_is_the_main_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut managed, listen) = start(dir.path());
    assert_eq!(
        managed.wait_for("READY"),
        "READY=1\n",
        "the control: it was started as the main one"
    );
    let mut upgrade = Command::new(env!("CARGO_BIN_EXE_adit-relay"));
    upgrade.args(["upgrade", "-c", "relay.toml"]).current_dir(dir.path());
    managed.upgrade(upgrade);
    managed.wait_for("STATUS=listening; 0 keys");
    for _ in 0..3 {
        managed.wait_for("WATCHDOG=1");
    }
    TcpStream::connect(listen).unwrap();
    managed.signal(Signal::SIGTERM);
    managed.wait_for("STOPPING=1");
}

/// One pump of several that is stuck starves the watchdog, though the relay still takes connections;
/// once it goes on, the watchdog is fed again.
#[test]
fn a_stuck_pump_starves_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let (managed, _) = start(dir.path());
    for _ in 0..3 {
        managed.wait_for("WATCHDOG=1");
    }
    let stopped = managed.stop_pump();
    managed.hears("WATCHDOG=1", WATCHDOG); // One may be on its way.
    assert!(!managed.hears("WATCHDOG=1", 3 * WATCHDOG));
    let mut asked = Command::new(env!("CARGO_BIN_EXE_adit-relay"));
    let asked = asked.args(["forwarders", "-c", "relay.toml"]).current_dir(dir.path()).output();
    let asked = asked.unwrap();
    assert!(asked.status.success(), "the control: the loop itself turns: {asked:?}");
    assert!(!managed.hears("WATCHDOG=1", WATCHDOG));
    drop(stopped);
    managed.wait_for("WATCHDOG=1");
}
